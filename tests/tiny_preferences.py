"""Tiny preference models with random weights, saved as the published checkpoints are laid out.

Their networks are written here once more from torch's own layers, with parameters named as in the published files: an
implementation that shares nothing with ours but torch.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertTokenizer, CLIPConfig, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.tiny import WORDS

STANDARD = {"image_size": 16, "patch_size": 8}
CLIP_TEXT = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
CLIP_VISION = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
LENGTH = 64  # of the text that the tiny HPSv2 reads
MED = {  # of ImageReward's text encoder, as its file says them
    "vocab_size": 48, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": 64, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "encoder_width": 16,
    "add_cross_attention": True, "model_type": "bert", "architectures": ["BertModel"], "pad_token_id": 0,
}  # fmt: skip
REWARD_VISION = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


class _Block(nn.Module):
    """A layer of OpenCLIP's transformers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x))))


def _blocks(width: int, heads: int, layers: int) -> Any:
    return nn.ModuleDict({"resblocks": nn.ModuleList([_Block(width, heads) for _ in range(layers)])})


class _Visual(nn.Module):
    def __init__(self, width: int, heads: int, layers: int = 3, joint: int = 16) -> None:
        super().__init__()
        patches = (STANDARD["image_size"] // STANDARD["patch_size"]) ** 2
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(patches + 1, width))
        self.proj = nn.Parameter(torch.empty(width, joint))
        self.conv1 = nn.Conv2d(3, width, STANDARD["patch_size"], STANDARD["patch_size"], bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = _blocks(width, heads, layers)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], 1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """OpenCLIP's ``CLIP`` at a tiny size: the cosine of a text's and an image's embeddings."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        width, heads, layers = (CLIP_TEXT[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
        self.positional_embedding = nn.Parameter(torch.empty(LENGTH, width))
        self.text_projection = nn.Parameter(torch.empty(width, 16))
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.visual = _Visual(CLIP_VISION["hidden_size"], CLIP_VISION["num_attention_heads"])
        self.transformer = _blocks(width, heads, layers)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.ln_final = nn.LayerNorm(width)

    def forward(self, ids: Tensor, pixels: Tensor) -> Tensor:
        """The cosine ``[B]``; texts are padded with zeros, and their last token has the largest number."""
        mask = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding
        for block in self.transformer["resblocks"]:
            x = block(x, mask)
        text = self.ln_final(x)[torch.arange(len(x)), ids.argmax(1)] @ self.text_projection
        return nn.functional.cosine_similarity(self.visual(pixels), text)


class _VisionLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.attn["qkv"](self.norm1(x)).chunk(3, -1)
        x = x + self.attn["proj"](_attend(query, key, value, REWARD_VISION["num_attention_heads"]))
        return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))


class _VisualEncoder(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 5, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 8, 8)})
        self.blocks = nn.ModuleList([_VisionLayer(width) for _ in range(layers)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attended.transpose(1, 2).flatten(2)


def _attention(width: int, source: int) -> nn.ModuleDict:
    """BERT's names for it: ``self.{query,key,value}``, ``output.{dense,LayerNorm}``."""
    own = {"query": nn.Linear(width, width), "key": nn.Linear(source, width), "value": nn.Linear(source, width)}
    out = {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)}
    return nn.ModuleDict({"self": nn.ModuleDict(own), "output": nn.ModuleDict(out)})


def _bert(width: int, inner: int, layers: int, source: int) -> nn.ModuleDict:
    made = [
        nn.ModuleDict({
            "attention": _attention(width, width),
            "crossattention": _attention(width, source),
            "intermediate": nn.ModuleDict({"dense": nn.Linear(width, inner)}),
            "output": nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)}),
        })
        for _ in range(layers)
    ]  # fmt: skip
    embeddings = {
        "word_embeddings": nn.Embedding(48, width),
        "position_embeddings": nn.Embedding(64, width),
        "LayerNorm": nn.LayerNorm(width, eps=1e-12),
    }
    encoder = nn.ModuleDict({"layer": nn.ModuleList(made)})
    return nn.ModuleDict({"embeddings": nn.ModuleDict(embeddings), "encoder": encoder})


class Reward(nn.Module):
    """ImageReward at a tiny size: its reward before it is standardised."""

    def __init__(self) -> None:
        super().__init__()
        blip = {
            "visual_encoder": _VisualEncoder(16, 3),
            "text_encoder": _bert(24, 40, 2, 16),
            "vision_proj": nn.Linear(16, 8),  # in the published file, and not used
            "text_proj": nn.Linear(24, 8),
        }
        widths = (24, 1024, 128, 64, 16, 1)
        linear = [nn.Linear(*pair) for pair in pairwise(widths)]
        dropped = [nn.Dropout(0.2) for _ in range(3)]
        layers = nn.Sequential(
            linear[0], dropped[0], linear[1], dropped[1], linear[2], dropped[2], linear[3], linear[4]
        )
        self.blip = nn.ModuleDict(blip)
        self.mlp = nn.ModuleDict({"layers": layers})

    def forward(self, ids: Tensor, mask: Tensor, pixels: Tensor) -> Tensor:
        seen = self.blip["visual_encoder"](pixels)
        text: Any = self.blip["text_encoder"]
        embeddings = text["embeddings"]
        x = embeddings["word_embeddings"](ids) + embeddings["position_embeddings"].weight[: ids.shape[1]]
        x = embeddings["LayerNorm"](x)
        read = mask.bool()[:, None, None, :]
        for layer in text["encoder"]["layer"]:
            for name, source, allowed in (("attention", None, read), ("crossattention", seen, None)):
                own, out = layer[name]["self"], layer[name]["output"]
                keyed = x if source is None else source
                attended = _attend(own["query"](x), own["key"](keyed), own["value"](keyed), 3, allowed)
                x = out["LayerNorm"](out["dense"](attended) + x)
            inner = nn.functional.gelu(layer["intermediate"]["dense"](x))
            x = layer["output"]["LayerNorm"](layer["output"]["dense"](inner) + x)
        return self.mlp["layers"](x[:, 0]).squeeze(-1)


def rating_head(width: int) -> nn.Sequential:
    """HPSv3's, which reads a token's hidden state; its rating lies near those of the authors' benchmark."""
    last = nn.Linear(16, 2)
    layers = nn.Sequential(nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), last)
    for parameter in layers.parameters():
        parameter.data.normal_(0, 0.5)
    last.weight.data /= 4
    last.bias.data = torch.tensor([15.0, 0.5])
    return layers.eval()


def _randomised(model: nn.Module) -> dict[str, Tensor]:
    """Weights wide enough that a slip in tokens, masks or patches moves a score by 1e-4 and more."""
    for name, parameter in model.named_parameters():
        parameter.data.normal_(0, 0.1 if name.startswith("mlp.layers") else 0.3)
    return dict(model.state_dict())


def clip_tokenizer() -> CLIPTokenizer:
    """Characters alone; the end token has the largest number, as in the published vocabulary."""
    characters = list(bytes_to_unicode().values())
    pieces = [*characters, *(f"{character}</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: position for position, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=LENGTH)


def bert_tokenizer() -> BertTokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(word.lower() for word in WORDS)]
    return BertTokenizer(vocab={piece: position for position, piece in enumerate(pieces)})


def hpsv2(folder: Path, *, pickled: bool = False) -> Path:
    """The weights, and a ``config.json`` that names a tiny model in place of the ViT-H-14."""
    torch.manual_seed(31)
    tokens = clip_tokenizer()
    base = folder / "base"
    text = CLIP_TEXT | {
        "vocab_size": len(tokens), "max_position_embeddings": LENGTH, "bos_token_id": len(tokens) - 2,
        "eos_token_id": len(tokens) - 1, "hidden_act": "gelu",
    }  # fmt: skip
    config = CLIPConfig(
        text_config=text, vision_config=CLIP_VISION | STANDARD | {"hidden_act": "gelu"}, projection_dim=16,
        architectures=["CLIPModel"],
    )  # fmt: skip
    config.save_pretrained(base)
    tokens.save_pretrained(base)
    describe(folder, "HPSv2", base)
    store(folder / "HPS_v2.1_compressed", _randomised(OpenClip(len(tokens))), pickled=pickled, nested=True)
    return folder


def image_reward(folder: Path, *, pickled: bool = False) -> Path:
    """The weights and ``med_config.json``, and a ``config.json`` that names a tiny vision tower and tokenizer."""
    torch.manual_seed(32)
    base = folder / "base"
    bert_tokenizer().save_pretrained(base)
    (base / "config.json").write_text(json.dumps({"architectures": ["BertModel"], "model_type": "bert"}))
    describe(folder, "ImageReward", base, vision_config=REWARD_VISION | STANDARD)
    (folder / "med_config.json").write_text(json.dumps(MED))
    weights = _randomised(Reward())
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    store(folder / "ImageReward", weights, pickled=pickled)
    return folder


def describe(folder: Path, class_name: str, base: Path, **more: object) -> None:
    content = {"architectures": [class_name], "base_model": str(base), **more}
    (folder / "config.json").write_text(json.dumps(content))


def store(path: Path, weights: dict[str, Tensor], *, pickled: bool, nested: bool = False) -> None:
    if pickled:
        torch.save({"state_dict": weights} if nested else weights, path.with_name(path.name + ".pt"))
    else:
        copies = {name: value.clone() for name, value in weights.items()}
        save_file(copies, path.with_name(path.name + ".safetensors"), metadata={"format": "pt"})

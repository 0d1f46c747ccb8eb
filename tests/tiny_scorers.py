"""Tiny scorers with random weights, of the true classes, saved as their published checkpoints are laid out."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    BlipImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from tests.tiny import WORDS, tokenizer

EMBEDDING = "shared.weight"
EMBEDDING_ALIASES = ("embed_tokens.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS if word.isalnum()]
    pieces += [(word, -3.0) for word in WORDS if word.isalnum() and len(word) > 1]
    pieces += [(character, -9.0) for character in string.ascii_letters + string.punctuation]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def t5_config(vocabulary: int) -> T5Config:
    """Flan-T5's form: gated GELU, an output layer of its own that is not scaled."""
    return T5Config(
        vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip


def _randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.15, generator=generator)


def clip_flant5_weights(config: T5Config, vision: CLIPVisionConfig) -> dict[str, Tensor]:
    """A state dict as the published class has it; the shared embedding under each of its names."""
    torch.manual_seed(2)
    t5, tower = T5ForConditionalGeneration(config), CLIPVisionModel(vision)
    t5.lm_head.weight = nn.Parameter(torch.empty_like(t5.lm_head.weight))
    projector = nn.Sequential(
        nn.Linear(vision.hidden_size, config.d_model), nn.GELU(), nn.Linear(config.d_model, config.d_model)
    )
    for seed, module in enumerate((t5, tower, projector)):
        _randomise(module, seed)
    weights = dict(t5.state_dict())
    weights |= dict.fromkeys(EMBEDDING_ALIASES, weights[EMBEDDING])
    weights |= {f"vision_tower.vision_tower.vision_model.{name}": value for name, value in tower.state_dict().items()}
    return weights | {f"mm_projector.{name}": value for name, value in projector.state_dict().items()}


def clip_flant5(folder: Path, *, pickled: bool = False, **changes: object) -> Path:
    """``changes`` go into config.json."""
    tower, tokens = folder / "tower", t5_tokenizer()
    config = t5_config(len(tokens) + 3)  # as the published one, wider than the tokenizer
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=8
    )
    weights = clip_flant5_weights(config, vision)
    tokens.save_pretrained(folder)
    vision.architectures = ["CLIPVisionModel"]
    vision.save_pretrained(tower)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(tower)
    content = config.to_dict() | {
        "architectures": ["CLIPT5ForConditionalGeneration"], "model_type": "t5", "tie_word_embeddings": False,
        "mm_vision_tower": str(tower), "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 16,
        "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "image_aspect_ratio": "pad",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content | changes))
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        write_weights(folder, weights)
    return folder


def write_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    copies = {name: value.clone() for name, value in weights.items()}
    save_file(copies, folder / "model.safetensors", metadata={"format": "pt"})


def instructblip(folder: Path, *, decoder_only: bool) -> Path:
    torch.manual_seed(4)
    tokens = tokenizer(512, template=False) if decoder_only else t5_tokenizer()
    if not decoder_only:
        tokens.add_tokens(["<image>"], special_tokens=True)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(word.lower() for word in ("question", *WORDS))]
    questions = BertTokenizer(vocab={piece: position for position, piece in enumerate(pieces)})
    language = (
        {
            "model_type": "llama", "vocab_size": len(tokens), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2,
        }
        if decoder_only
        else t5_config(len(tokens)).to_dict() | {"tie_word_embeddings": False}
    )  # fmt: skip
    config = InstructBlipConfig(
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 16, "patch_size": 8,
        },
        qformer_config={
            "vocab_size": len(pieces), "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 64, "encoder_hidden_size": 16,
        },
        text_config=language, num_query_tokens=5, image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = InstructBlipForConditionalGeneration(config).eval()
    _randomise(model, 5)
    model.save_pretrained(folder, safe_serialization=True)
    processor = InstructBlipProcessor(
        BlipImageProcessor(size={"height": 16, "width": 16}), tokens, questions, num_query_tokens=5
    )
    processor.save_pretrained(folder)
    return folder

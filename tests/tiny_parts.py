"""Text encoders, tokenizers and VAEs of the tiny pipelines: random weights, the true classes."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast, Qwen3Config, T5Config, T5EncoderModel

from tests import tiny
from tests.tiny_generators import vae

SHIFTED = {"use_dynamic_shifting": True, "shift": 3.0}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TYPED_CHAT = (  # as Mistral's, whose messages are lists of parts
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
)


def chat_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Words, punctuation and line breaks are tokens; the turns of a chat are marked as Qwen marks them."""
    words = ["<pad>", "<|im_start|>", "<|im_end|>", "[UNK]", "\n", "user", "assistant", "system", *tiny.WORDS]
    core = Tokenizer(
        models.WordLevel({word: position for position, word in enumerate(dict.fromkeys(words))}, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(Regex(" +"), "removed"),
            pre_tokenizers.Punctuation(),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<|im_end|>", unk_token="[UNK]",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"], model_max_length=max_length,
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in ("<|im_start|>", "<|im_end|>")])
    tokenizer.chat_template = CHAT
    return tokenizer


def flux_vae(**config: Any) -> AutoencoderKL:
    return vae(
        latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
        use_post_quant_conv=False, **config,
    )  # fmt: skip


def qwen3(vocabulary: int, layers: int = 2) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=8 if layers > 2 else 32, intermediate_size=16, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=1024,
    )  # fmt: skip


def t5(vocabulary: int, width: int = 32) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4, pad_token_id=0,
            eos_token_id=2, decoder_start_token_id=0,
        )
    )  # fmt: skip


def gemma2(vocabulary: int) -> Gemma2Model:
    return Gemma2Model(
        Gemma2Config(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=2048, pad_token_id=0, bos_token_id=1,
            eos_token_id=2,
        )
    )  # fmt: skip

"""A U-Net's attention maps, and the losses that Attend-and-Excite and InitNO compute from them.

Sources: Chefer et al., *Attend-and-Excite* (arXiv 2301.13826); Guo et al., *InitNO* (arXiv 2404.04650); the authors'
code where the papers leave a detail open. Differences from them:

- A subject of several tokens has one map, the sum of its tokens' maps. The sources give every token a map of its own.
- InitNO's code adds a term for what lies outside a map's largest blob, and drops the conflict loss while the response
  loss exceeds 0.5. Only the two losses that the paper names are used here.

Both codes name σ = 0.5 for their smoothing but compute exp(−d²), which is σ = √½. The same is computed here, because
their thresholds assume it.

A row's **U-Net evaluations** are counted in denoising steps: a guided step, conditional and unconditional forward
together, is 1. So one conditional forward is ½ (or 1 without guidance), and a backward pass counts as two forwards:
:func:`evaluations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from noisesmith.pipeline.config import AttendAndExciteConfig, InitNoConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.lazily import F, torch
from noisesmith.pipeline.models.libraries import Json, Model, Pipeline, Tokenizer
from noisesmith.pipeline.text.subjects import text_stop, token_indices

if TYPE_CHECKING:
    from torch import Tensor

Processor: TypeAlias = "Callable[..., Tensor]"  # of diffusers: computes one attention layer

PREFERRED_SIDE = 16
SHARPNESS = 100.0  # the softmax over text tokens is of 100 times the attention


class MapSize(NamedTuple):
    """Attention maps of one U-Net level, 0 being the latents' own resolution."""

    level: int
    height: int
    width: int

    @property
    def side(self) -> int:
        return min(self.height, self.width)


@dataclass(frozen=True)
class RowTokens:
    """The tokens whose attention is read for one row: each subject's positions on the key axis, and the text's end.

    Position 0 is the start token; the softmax over text tokens runs over positions 1 to ``stop``, exclusive.
    """

    subjects: tuple[tuple[int, ...], ...]
    stop: int


def evaluations(guidance_scale: float, *, forwards: int = 0, backwards: int = 0) -> float:
    """U-Net evaluations of conditional forward and backward passes, in guided denoising steps."""
    return (forwards + 2 * backwards) * (0.5 if guidance_scale > 1 else 1.0)


def map_sizes(unet_config: Json, height: int, width: int) -> list[MapSize]:
    """Sizes of a U-Net's cross-attention maps for latents of ``height`` × ``width``, largest first.

    Read from the U-Net's ``config.json``; empty for a denoiser that is no ``UNet2DConditionModel``. Maps with a side
    of 1 are left out: nothing can be smoothed there.
    """
    down = list(unet_config.get("down_block_types") or ())
    up = list(unet_config.get("up_block_types") or ())
    middle = unet_config.get("mid_block_type", "UNetMidBlock2DCrossAttn") if down else None
    blocks = [*enumerate(down), *enumerate(reversed(up)), (len(down) - 1, middle)]
    levels = sorted({level for level, block in blocks if block and "CrossAttn" in block})
    sizes = [MapSize(level, math.ceil(height / 2**level), math.ceil(width / 2**level)) for level in levels]
    return [size for size in sizes if size.side > 1]


def choose_map_size(method: str, attention_size: int | None, unet_config: Json, height: int, width: int) -> MapSize:
    """The size at which ``method`` reads attention, for latents of ``height`` × ``width``.

    A size is named by its shorter side. Without ``attention_size`` it is 16, or the largest below 16 that the U-Net
    has, or its smallest where all are larger.

    Raises:
        UserError: the denoiser has no cross-attention maps, or none of this side.
    """
    sizes = map_sizes(unet_config, height, width)
    if not sizes:
        raise UserError(
            f"optimizer.method: {method} needs a U-Net with cross-attention maps, and generators.model has none for "
            "latents of this size; use a Stable Diffusion 1.x or 2.x model, or another method"
        )
    if attention_size is None:
        return next((size for size in sizes if size.side <= PREFERRED_SIDE), sizes[-1])
    chosen = next((size for size in sizes if size.side == attention_size), None)
    if chosen is None:
        raise UserError(
            f"optimizer.attention_size: {attention_size} is no side of this U-Net's attention maps; use one of "
            f"{', '.join(str(size.side) for size in sizes)}"
        )
    return chosen


@dataclass
class AttentionMaps:
    """What :func:`record_attention` recorded: one mean over heads per layer and forward, with gradient."""

    size: MapSize
    cross_layers: list[Tensor] = field(default_factory=list)
    self_layers: list[Tensor] = field(default_factory=list)

    @property
    def cross(self) -> Tensor:
        """Mean probabilities ``[B, h, w, L]`` float of each place attending to each of L text positions."""
        mean = torch.stack(self.cross_layers).mean(0)
        return mean.reshape(len(mean), self.size.height, self.size.width, -1)

    @property
    def own(self) -> Tensor:
        """Mean probabilities ``[B, h·w, h·w]`` float of each place attending to each place."""
        return torch.stack(self.self_layers).mean(0)


class _Recorder:
    """An attention processor that records a layer's probabilities. The processor it wraps computes the output."""

    def __init__(self, inner: Processor, layers: list[Tensor]) -> None:
        self._inner = inner
        self._layers = layers

    def __call__(
        self,
        attn: Model,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(context))
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        probabilities = attn.get_attention_scores(query, key, mask).unflatten(0, (-1, attn.heads))
        self._layers.append(probabilities.to(torch.promote_types(probabilities.dtype, torch.float32)).mean(1))
        output: Tensor = self._inner(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)
        return output


@contextmanager
def record_attention(unet: Model, size: MapSize) -> Iterator[AttentionMaps]:
    """Record the softmax probabilities of cross- and self-attention at one level of a ``UNet2DConditionModel``.

    Run one forward inside the block. The U-Net's output does not change. Its own attention processors are restored at
    the end of the block, also after an error.
    """
    previous = unet.attn_processors
    maps = AttentionMaps(size)
    lowest = len(unet.config.down_block_types) - 1
    recording = dict(previous)
    for name, processor in previous.items():
        if _level(name, lowest) == size.level:
            recording[name] = _Recorder(processor, maps.cross_layers if ".attn2." in name else maps.self_layers)
    unet.set_attn_processor(recording)
    try:
        yield maps
    finally:
        unet.set_attn_processor(dict(previous))


def _level(layer: str, lowest: int) -> int:
    """The level of an attention layer, from its name: ``down_blocks.0.…``, ``mid_block.…``, ``up_blocks.2.…``."""
    block, index, *_ = layer.split(".")
    if block == "mid_block":
        return lowest
    return int(index) if block == "down_blocks" else lowest - int(index)


def smooth(maps: Tensor) -> Tensor:
    """Maps ``[N, h, w]``, h, w ≥ 2, under the 3×3 kernel ∝ exp(−d²), reflected at the border."""
    line = torch.tensor([math.exp(-1.0), 1.0, math.exp(-1.0)], dtype=maps.dtype, device=maps.device)
    line = line / line.sum()
    padded = F.pad(maps.unsqueeze(1), (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, torch.outer(line, line)[None, None]).squeeze(1)


def subject_maps(cross: Tensor, tokens: RowTokens) -> Tensor:
    """One row's smoothed attention ``[S, h, w]`` in [0, 1] to its S ≥ 1 subjects, from ``cross`` ``[h, w, L]``.

    The start token takes most of the attention, so it is left out, and the rest is normalised again by a sharp
    softmax over the text tokens (Attend-and-Excite, section 3).
    """
    text = (SHARPNESS * cross[..., 1 : tokens.stop]).softmax(-1)
    maps = []
    for positions in tokens.subjects:
        without_start = [position - 1 for position in positions]
        maps.append(text[..., without_start].sum(-1))
    return smooth(torch.stack(maps))


def response_loss(maps: Tensor) -> Tensor:
    """1 − min over subjects of the largest attention, from maps ``[S, h, w]``; a scalar in [0, 1].

    Attend-and-Excite's loss, the max over subjects of 1 − max attention, and InitNO's cross-attention response.
    """
    return 1 - maps.flatten(1).amax(1).min()


def conflict_loss(maps: Tensor, own: Tensor) -> Tensor:
    """Mean over pairs of subjects of Σ min(A_i, A_j) / Σ (A_i + A_j); a scalar in [0, ½], 0 for a single subject.

    A_i is the smoothed self-attention, from ``own`` ``[h·w, h·w]``, of the place where subject i's map, from ``maps``
    ``[S, h, w]``, is largest (InitNO's self-attention conflict).
    """
    first, second = torch.triu_indices(len(maps), len(maps), 1)
    if not len(first):
        return maps.new_zeros(())
    peaks = maps.flatten(1).argmax(1)
    attended = smooth(own[peaks].reshape(len(peaks), *maps.shape[1:])).flatten(1)
    a = attended[first]
    b = attended[second]
    return (torch.minimum(a, b).sum(1) / (a + b).sum(1)).mean()


def attention_losses(
    unet: Model, latents: Tensor, timestep: Tensor, embeddings: Tensor, tokens: Sequence[RowTokens], size: MapSize
) -> tuple[Tensor, Tensor]:
    """Response and conflict losses ``[B]`` of one conditional forward.

    Args:
        latents: the U-Net's input ``[B, C, H, W]``, as the scheduler scales it.
        embeddings: the prompts' ``[B, L, E]``, in the U-Net's dtype.

    Rows never mix, so the gradient of a sum over rows is each row's own.
    """
    with record_attention(unet, size) as maps:
        unet(latents.to(embeddings.dtype), timestep, encoder_hidden_states=embeddings, return_dict=False)
    responses = []
    conflicts = []
    for cross, own, row in zip(maps.cross, maps.own, tokens, strict=True):
        attended = subject_maps(cross, row)
        responses.append(response_loss(attended))
        conflicts.append(conflict_loss(attended, own))
    return torch.stack(responses), torch.stack(conflicts)


def pipeline_map_size(
    pipe: Pipeline, config: InitNoConfig | AttendAndExciteConfig, latents_shape: Sequence[int]
) -> MapSize:
    """:func:`choose_map_size` for a loaded pipeline and latents of ``latents_shape`` ``(…, H, W)``.

    Raises:
        UserError: as there; a pipeline without a U-Net has no maps.
    """
    unet_config = getattr(getattr(pipe, "unet", None), "config", {})
    height, width = latents_shape[-2:]
    return choose_map_size(config.method, config.attention_size, unet_config, height, width)


def find_tokens(tokenizer: Tokenizer, prompts: Sequence[str], subjects: Sequence[Sequence[str]]) -> list[RowTokens]:
    """Each row's subjects as positions on the key axis.

    Raises:
        UserError: a subject does not occur in its prompt, or lies beyond what the text encoder reads.
    """
    tokens = []
    for prompt, names in zip(prompts, subjects, strict=True):
        positions = token_indices(tokenizer, prompt, names)
        tokens.append(RowTokens(tuple(tuple(one) for one in positions), text_stop(tokenizer, prompt)))
    return tokens

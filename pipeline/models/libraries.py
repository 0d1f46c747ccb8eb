"""What this package uses of the model libraries, typed in one place: the libraries leave most of it untyped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from noisesmith.pipeline.lazily import nn, torch

if TYPE_CHECKING:
    from torch import Tensor


Json: TypeAlias = dict[str, Any]  # an object of a model's JSON file; the code that reads a value checks it
Options: TypeAlias = dict[str, Any]  # keyword arguments of a library's loader or pipeline


class Settings(Protocol):
    """A model's config, or what a forward pass returns: values by the names that its class gives them."""

    def __getattr__(self, name: str) -> Any: ...


class Model(Protocol):
    """A network of ``transformers`` or ``diffusers``; each class has methods of its own besides."""

    @property
    def config(self) -> Settings: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def buffers(self) -> Iterator[Tensor]: ...
    def __call__(self, *args: object, **kwargs: object) -> Settings: ...
    def __getattr__(self, name: str) -> Any: ...


class Encoding(Protocol):
    """What a tokenizer makes of texts: lists of token ids, or tensors where it was asked for them."""

    input_ids: Any

    def __getitem__(self, name: str) -> Tensor: ...
    def to(self, device: torch.device) -> Mapping[str, Tensor]: ...


class SpecialToken(Protocol):
    """A token that a tokenizer knows by its whole text."""

    special: bool
    content: str


class Tokenizer(Protocol):
    """A tokenizer of ``transformers``."""

    padding_side: str
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    pad_token_id: int | None
    eos_token_id: int
    model_max_length: int
    chat_template: str | None

    @property
    def added_tokens_decoder(self) -> Mapping[int, SpecialToken]: ...
    def __len__(self) -> int: ...
    def __call__(self, text: str | Sequence[str], **options: object) -> Encoding: ...
    def convert_ids_to_tokens(self, token_id: int) -> str: ...
    def add_tokens(self, tokens: Sequence[str], *, special_tokens: bool) -> int: ...
    def apply_chat_template(self, messages: Sequence[Mapping[str, object]], **options: object) -> str: ...


class ImageProcessor(Protocol):
    """An image processor of ``transformers``. Each class has some of these settings, under these names."""

    do_resize: bool
    do_center_crop: bool
    do_rescale: bool
    do_normalize: bool
    size: Mapping[str, int]
    crop_size: Mapping[str, int]
    resample: int
    rescale_factor: float
    image_mean: Sequence[float] | float
    image_std: Sequence[float] | float
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    max_num_patches: int
    image_grid_pinpoints: Sequence[Sequence[int]]
    max_image_size: Mapping[str, int]
    min_patches: int
    max_patches: int
    crop_to_patches: bool
    do_pan_and_scan: bool

    def __call__(self, images: object, **options: object) -> Mapping[str, Tensor]: ...


class ImageCounts(Protocol):
    """What LLaVA's processors of ``transformers`` count the tokens of an image by."""

    patch_size: int
    vision_feature_select_strategy: str
    num_additional_image_tokens: int


class ChatTemplate(Protocol):
    """The tokenizer or the processor of ``transformers`` that a checkpoint's chat template is stored with."""

    chat_template: str | None

    def __call__(self, text: str, **inputs: object) -> Encoding: ...
    def apply_chat_template(self, messages: Sequence[Mapping[str, object]], **options: object) -> str: ...


class Processor(Protocol):
    """The parts of a processor of ``transformers``."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def image_processor(self) -> ImageProcessor: ...


class WholeProcessor(Processor, Protocol):
    """A processor of ``transformers`` that can be called; InstructBLIP's has a second tokenizer."""

    @property
    def qformer_tokenizer(self) -> Tokenizer: ...
    def __call__(self, **inputs: object) -> Encoding: ...


class Scheduler(Protocol):
    """A sampler of ``diffusers``."""

    config: Settings
    timesteps: Tensor

    def set_timesteps(self, steps: int, **options: float) -> None: ...
    def step(self, output: Tensor, timestep: Tensor, sample: Tensor, *, return_dict: bool) -> tuple[Tensor, ...]: ...
    def __getattr__(self, name: str) -> Any: ...


class Pipeline(Protocol):
    """A pipeline of ``diffusers``: its parts by name, and a call that samples."""

    scheduler: Scheduler
    encode_prompt: Callable[..., Any]

    @property
    def components(self) -> Mapping[str, Any]: ...
    def __call__(self, **options: object) -> Settings: ...
    def __getattr__(self, name: str) -> Any: ...

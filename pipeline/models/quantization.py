"""Which models have their weights stored in fewer bits, and whether that can be done here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from noisesmith.pipeline.errors import UserError


@dataclass(frozen=True)
class Quantization:
    """How the weights of linear layers are stored.

    Attributes:
        method: ``torchao-int8``, ``torchao-float8`` or ``bitsandbytes-nf4``.
        parts: folders of the parts of a pipeline that are quantised; all but the VAE where it is empty.
    """

    method: str
    parts: tuple[str, ...] = ()

    def covers(self, folder: str) -> bool:
        """Whether the model in one folder of a pipeline is quantised; of a scorer, whose folder is "", always."""
        return folder in self.parts if self.parts else not folder.startswith("vae")

    def __str__(self) -> str:
        """As revisions name it: ``torchao-int8``, with the parts where they were chosen."""
        return f"{self.method}({','.join(self.parts)})" if self.parts else self.method


def add_quantization(revision: str, quantization: Quantization | None) -> str:
    """A model's revision with how its weights are stored, where that is quantised."""
    return revision if quantization is None else f"{revision}+{quantization}"


def without_quantization(revision: str) -> str:
    """The revision of the stored weights alone; see :func:`add_quantization`."""
    for package in ("torchao", "bitsandbytes"):
        revision = revision.partition(f"+{package}-")[0]
    return revision


def check_quantization(method: str, field: str, dtype: str, num_gpus: float) -> None:
    """Refuse a method whose package is not installed, or that does not work on this device or with this type.

    Args:
        field: the config field that names the method, for messages.
        dtype: type of the weights that are not quantised, and of what is computed.

    Raises:
        UserError: one of these.
    """
    package = method.partition("-")[0]
    if find_spec(package) is None:
        raise UserError(f"{field}: {method} needs the {package} package; install it with `pip install {package}`")
    if package != "bitsandbytes":
        return
    if num_gpus == 0:
        raise UserError(
            f"{field}: {method} needs a GPU, but num_gpus is 0; raise it, or use torchao-int8, which also runs on a CPU"
        )
    if dtype == "float32":
        raise UserError(f"{field}: {method} computes in 16 bits; set dtype to bfloat16 or float16")


def refuse_quantized(config: Mapping[str, object], field: str, model: str) -> None:
    """Refuse to quantise a model whose stored weights are quantised already.

    Args:
        config: its ``config.json``.

    Raises:
        UserError: they are.
    """
    if config.get("quantization_config"):
        raise UserError(f"{field}: the weights of {model!r} are stored quantised already; remove it")

"""Errors that libraries raise for a broken model, each turned into one sentence that keeps its cause."""

from __future__ import annotations

import pickle
from types import TracebackType

import httpx2
from huggingface_hub import errors as hub
from safetensors import SafetensorError

from noisesmith.pipeline.errors import UserError, reason

# What the Hub client raises where a file cannot be had: its classes have no common base.
HUB_ERRORS = (
    OSError,  # most of its own classes, a full disk, no connection
    ValueError,  # a name or a revision that cannot be one
    httpx2.HTTPError,  # the HTTP library's own, such as a timeout
    hub.EntryNotFoundError,
    hub.RevisionResolutionError,
    hub.XetDownloadError,
    hub.CorruptedCacheException,
)

# What loaders raise where a model's files are missing, damaged, or do not fit each other or the installed libraries.
LOADER_ERRORS = (
    *HUB_ERRORS,
    SafetensorError,  # a damaged header, tensors beyond the end of the file
    pickle.UnpicklingError,  # a damaged pickle, or one that would run code
    EOFError,  # a pickle that was cut off
    RuntimeError,  # weights of another size than the config says, memory that does not suffice, an unknown activation
    LookupError,  # a key or a class name that is missing or unknown
    ImportError,  # a tokenizer or an attention implementation that needs a package that is not installed
    MemoryError,  # sizes that no machine has
    hub.StrictDataclassError,  # a config's value that the library's own validation refuses
)

# Classes that a broken file shares with a mistake in our own code, so that they only count where a library raised them.
_AMBIGUOUS_ERRORS = (
    TypeError,  # a value of the wrong type in a JSON file, at its first use
    AttributeError,  # the name of a dtype, an activation or a class that does not exist
    ArithmeticError,  # a size of zero as a divisor, one beyond 64 bits
    AssertionError,  # sizes that do not fit each other
    NameError,  # a model class whose optional package is not installed
)


class BrokenModelError(Exception):
    """A check of ours found a model's files unusable. The message says what is wrong, without naming the model."""


class explained:  # noqa: N801, a context manager reads as a verb
    """Turn what a library raises for a broken model into a ``UserError``; a bug of ours passes unchanged.

    Args:
        sentence: names the field and says what did not work: "generators.model: 'x' cannot be loaded". The library's
            reason follows in brackets.
        remedy: what follows the reason.

    Raises:
        UserError: a library could not make sense of the model.
    """

    def __init__(self, sentence: str, remedy: str = "") -> None:
        self._sentence = sentence
        self._remedy = remedy

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and is_models_fault(error):
            raise UserError(f"{self._sentence} ({reason(error)}){self._remedy}") from error


def is_models_fault(error: BaseException) -> bool:
    """Whether an error that was caught while a library read a model's files lies with the files, not with our code.

    The tokenizers library raises plain ``Exception``, nothing more specific, for a file that it cannot parse, and lets
    a Rust panic through for sizes that nobody has.
    """
    if isinstance(error, OSError | MemoryError | BrokenModelError) or _is_rust_panic(error):
        return True
    if type(error) is not Exception and not isinstance(error, (*LOADER_ERRORS, *_AMBIGUOUS_ERRORS)):
        return False
    return not _raised_by_us(error)


def _is_rust_panic(error: BaseException) -> bool:
    """Whether a library written in Rust panicked. PyO3's class for it is a ``BaseException`` and cannot be imported."""
    kind = type(error)
    return kind.__name__ == "PanicException" and kind.__module__ == "pyo3_runtime"


def _raised_by_us(error: BaseException) -> bool:
    """Whether a line of this package raised it. The built-in models' classes count as a library: they read files."""
    traceback = error.__traceback__
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = str(traceback.tb_frame.f_globals.get("__name__", ""))
    return module.startswith("noisesmith.") and not module.startswith("noisesmith.pipeline.embedded.")

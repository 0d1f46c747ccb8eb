"""How a process runs its models: device, threads, memory, and libraries kept quiet."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from noisesmith.pipeline.errors import MemoryExhausted, reason

# What torchao, where it is installed, and the libraries' support of it log while they are imported.
_NOISY_IMPORTS = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")


def quiet_libraries() -> None:
    """Keep the model libraries' notices and bars off a command's output."""
    quiet_notices()
    import diffusers
    import transformers

    for library in (transformers, diffusers):
        library.utils.logging.disable_progress_bar()


def quiet_notices() -> None:
    """Keep the model libraries' notices off a command's output, also of those that it may import later, or never."""
    for name in _NOISY_IMPORTS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("transformers", "diffusers"):
        if name in sys.modules:
            sys.modules[name].utils.logging.set_verbosity_error()
        else:
            os.environ[f"{name.upper()}_VERBOSITY"] = "error"


def import_libraries() -> None:
    """Import the model libraries while Python's garbage collector rests, which then passes over what they made.

    An import makes a million objects, all of which stay, and the collector would look through them again and again.
    """
    gc.disable()
    try:
        import diffusers  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def device_for(num_gpus: float) -> str:
    """``cuda`` for an actor that holds a GPU or a part of one, else ``cpu``."""
    import torch

    return "cuda" if num_gpus > 0 and torch.cuda.is_available() else "cpu"


@contextmanager
def memory_guard() -> Iterator[None]:
    """Turn torch's several ways to say that memory is exhausted into one, and free what the failed batch held.

    Raises:
        MemoryExhausted: the block did not fit into the device's memory.
    """
    import torch

    try:
        yield
        return
    except (MemoryError, RuntimeError) as error:  # torch's CPU allocator has no class of its own
        said = reason(error)
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not known and "out of memory" not in str(error):
            raise
        # The error's traceback holds the batch in its frames, for as long as anyone handles the error.
        traceback.clear_frames(error.__traceback__)
    free_memory()
    raise MemoryExhausted(said)


class ExclusiveUse:
    """One call's use of the models of its process, which serve one call at a time.

    What a call does before and after it has them runs next to the use by another call.

    Args:
        models: the lock that all calls of the process share.

    Attributes:
        seconds: how long the call has used the models.
    """

    def __init__(self, models: threading.Lock) -> None:
        self._models = models
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._models.acquire()
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if trace is not None:
            traceback.clear_frames(trace)  # they hold the batch on the device, and the next use needs its memory
        self.seconds += time.perf_counter() - self._began
        self._models.release()


def free_memory() -> None:
    """Return memory that nothing refers to to the device."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def threads_for(num_cpus: float) -> int:
    """Torch threads of an actor that holds so many cores; one where it holds a part of one."""
    return max(1, int(num_cpus))


@contextmanager
def without_panic_messages() -> Iterator[None]:
    """Drop what is written to file descriptor 2 while the block runs.

    A Rust library that panics writes there, next to the exception that it raises, which has the same message.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)

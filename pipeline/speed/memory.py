"""How much memory a process takes, on a GPU or on the host."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from noisesmith.pipeline.lazily import torch
from noisesmith.pipeline.models.runtime import free_memory

# Share of a GPU's memory that is left free, for CUDA's context, kernels' workspaces, and longer prompts.
RESERVE = 0.1


class GpuMemory:
    """Memory of the first GPU, as torch's allocator takes it from the device.

    Args:
        share: of the GPU that one worker has.
    """

    def __init__(self, share: float) -> None:
        total = torch.cuda.get_device_properties(0).total_memory
        self.limit: int | None = int(total * min(1.0, share) * (1 - RESERVE))

    def start(self) -> None:
        free_memory()
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        return torch.cuda.max_memory_reserved()


class HostMemory:
    """Resident memory of this process, with Python and all libraries; known on Linux alone, and without a limit."""

    limit: int | None = None

    def start(self) -> None:
        free_memory()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM

    def peak(self) -> int | None:
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None

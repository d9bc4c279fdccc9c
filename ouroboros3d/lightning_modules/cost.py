"""What a stretch of work costs in time and memory, without what only watches it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


class CostMeter:
    """Seconds and peak memory from its making on, without pauses.

    Memory is what is allocated on the GPU, or resident in this process on the CPU (interpreter and libraries included).

    Args:
        device: that works.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds, self._peak_mib = 0.0, 0.0
        self._begin()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        self._end()
        yield
        self._begin()

    def read(self) -> tuple[float, float]:
        """Seconds, and peak memory in MiB, so far."""
        self._end()
        self._begin()
        return self._seconds, self._peak_mib

    def _begin(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _reset_peak_resident()
        self._started = self._now()

    def _end(self) -> None:
        self._seconds += self._now() - self._started
        cuda = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) / 2**20 if cuda else _peak_resident_mib()
        self._peak_mib = max(self._peak_mib, peak)

    def _now(self) -> float:
        """A clock, read when the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _reset_peak_resident() -> None:
    """Let the kernel's peak of this process's resident memory start from what is resident now (Linux, proc(5))."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except PermissionError:
        return  # some containers forbid it: the peak is then the process's own since its start


def _peak_resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

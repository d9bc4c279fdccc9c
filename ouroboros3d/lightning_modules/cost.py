"""What work costs: calls of the parts, time, memory, and pixels that were cut off; not what only watches it."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ouroboros3d.renderers.rendering import Rendering


class CostMeter:
    """Counts what is done with it at hand; inside `running` it also measures seconds and peak memory.

    calls: how often by name, for example `vae_decodes`.
    seconds: of the time that ran.
    peak_mib: the most memory while it ran: allocated on the GPU, or resident in this process on the CPU, with
        interpreter and libraries.

    Args:
        device: that works.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.calls: Counter[str] = Counter()
        self.seconds, self.peak_mib = 0.0, 0.0
        self._truncated: Tensor | None = None
        self._is_paused = False
        self._started = 0.0

    @property
    def truncated(self) -> Tensor:
        """[] the largest share of pixels, in any render, that had more splats than were composited."""
        return torch.zeros(()) if self._truncated is None else self._truncated

    def count(self, name: str, calls: int = 1) -> None:
        """Count calls."""
        if not self._is_paused:
            self.calls[name] += calls

    def count_render(self, rendering: Rendering) -> None:
        """Count the images of a rendering, and look at how much of them was cut off."""
        self.count("render_calls", rendering.colour.shape[1])
        if not self._is_paused:
            cut = rendering.truncated_fraction.detach()
            self._truncated = cut if self._truncated is None else torch.maximum(self._truncated, cut)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure time and memory of what happens inside."""
        self._begin()
        yield
        self._end()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing that happens inside counts, whatever it calls; for use inside `running`."""
        self._end()
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False
            self._begin()

    def _begin(self) -> None:
        reset_peak_memory(self.device)
        self._started = self._now()

    def _end(self) -> None:
        self.seconds += self._now() - self._started
        self.peak_mib = max(self.peak_mib, peak_memory_mib(self.device))

    def _now(self) -> float:
        """A clock, read when the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def reset_peak_memory(device: torch.device) -> None:
    """Let the peak of `peak_memory_mib` start from what is used now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak of resident memory (Linux, proc(5))
    except PermissionError:
        return  # some containers forbid it: the peak is then the process's own since its start


def peak_memory_mib(device: torch.device) -> float:
    """The most memory in MiB since the last reset, whoever made it: on the GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

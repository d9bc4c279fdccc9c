"""Steps a second and peak memory of a training run."""

import resource
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class RunStatistics(Callback):
    """Log steps a second and peak memory at the Trainer's logging interval, without validation's time.

    The first steps of a run warm caches up and are not counted.

    Args:
        warmup_steps: how many steps are not counted.
    """

    def __init__(self, warmup_steps: int = 3) -> None:
        self.warmup_steps = warmup_steps
        self._seconds = 0.0
        self._steps = 0
        self._started = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Stop the clock and log."""
        self._steps += 1
        if self._steps <= self.warmup_steps:
            return
        self._seconds += time.perf_counter() - self._started
        if self._seconds > 0:
            pl_module.log("train/steps_per_second", (self._steps - self.warmup_steps) / self._seconds, prog_bar=True)
        pl_module.log("train/peak_memory_mib", peak_memory_mib())


def peak_memory_mib() -> float:
    """The most memory used so far in MiB: of the current GPU where there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

"""Steps a second and peak memory of a training run."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ouroboros3d.lightning_modules.cost import peak_memory_mib, reset_peak_memory


class RunStatistics(Callback):
    """Log steps a second and peak memory at the Trainer's logging interval, without validation's time and memory.

    The first steps of a run warm caches up, and their time is not counted. Memory is the most that a step took so far.

    Args:
        warmup_steps: how many steps' time is not counted.
    """

    def __init__(self, warmup_steps: int = 3) -> None:
        self.warmup_steps = warmup_steps
        self._seconds = 0.0
        self._steps = 0
        self._started = 0.0
        self._peak_mib = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Start the clock; a validation may have used more memory, and measures its own."""
        reset_peak_memory(pl_module.device)
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
        self._peak_mib = max(self._peak_mib, peak_memory_mib(pl_module.device))
        self._steps += 1
        if self._steps <= self.warmup_steps:
            return
        self._seconds += time.perf_counter() - self._started
        if self._seconds > 0:
            pl_module.log("train/steps_per_second", (self._steps - self.warmup_steps) / self._seconds, prog_bar=True)
        pl_module.log("train/peak_memory_mib", self._peak_mib)

"""A moving average of the weights, which validation, test and export look at in place of the last step's."""

import logging
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

_log = logging.getLogger("ouroboros3d")


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights with a warm-up (Karras et al. 2022; Polyak and Juditsky 1992).

    After n steps the average keeps min(decay, (1 + n) / (10 + n)) of itself, so that a short run's average is not that
    of its start. Checkpoints hold the average as their weights, and the last step's to go on from. Weights that FSDP or
    DeepSpeed share out among processes are not averaged, which one line says.

    Args:
        decay: largest share that the average keeps of itself at a step, in [0, 1).
    """

    def __init__(self, decay: float = 0.9995) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"moving_average: expected a share in [0, 1), got {decay:g}; 0 keeps no average.")
        self.decay = decay
        super().__init__(use_buffers=False, multi_avg_fn=self._average)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin an average where a process has all weights, on the device that trains them."""
        # Lightning takes the one where they are now, the CPU, and would fetch them from the GPU at every step.
        self._device = trainer.strategy.root_device
        if not isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy)):
            super().setup(trainer, pl_module, stage)
        elif stage == "fit":
            _log.info("MovingAverage: no average of weights that are shared out among processes.")

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After every step, where there is an average."""
        return self._average_model is not None and super().should_update(step_idx, epoch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module its last step's weights: a checkpoint that is written now holds them beside the average."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as the weights, and the weights beside it."""
        if self._average_model is not None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the average and with the last step's weights."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _average(self, averages: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
        steps = int(count)
        kept = min(self.decay, (1 + steps) / (10 + steps))
        get_ema_multi_avg_fn(kept)(averages, weights, count)

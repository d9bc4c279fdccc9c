"""A moving average of the weights, which validation, test and export look at in place of the last step's."""

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights with a warm-up (Karras et al. 2022; Polyak and Juditsky 1992).

    After n steps the average keeps min(decay, (1 + n) / (10 + n)) of itself, so that a short run's average is not that
    of its start. Checkpoints hold the average as their weights, and the last step's to go on from.

    Args:
        decay: largest share that the average keeps of itself at a step, in [0, 1).
    """

    def __init__(self, decay: float = 0.9995) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a share in [0, 1), got {decay:g}.")
        self.decay = decay
        super().__init__(use_buffers=False, multi_avg_fn=self._average)

    @torch.no_grad()
    def _average(self, averages: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
        steps = int(count)
        kept = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(averages, weights, 1 - kept)

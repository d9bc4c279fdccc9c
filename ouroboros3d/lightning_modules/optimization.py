"""How a variant is optimised: its optimiser, its learning rates over a run, and the clipping of its gradients."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

from ouroboros3d.lightning_modules.learning_rates import Decay, LearningRateFactors, learning_rate_factor


class Optimized(LightningModule):
    """A module whose trainable parameters one optimiser moves, with warm-up and decay a step.

    What takes no part in a step, such as the adapters on tails, is left alone by it, in one process as in many. It has
    no gradient, while a gradient of zero would let AdamW decay it and move it on by its momentum. DDP is told to look
    for such parts in every step. FSDP has one gradient for all weights of a unit, so there a part that may be left out
    has to be a unit of its own (`ablations/strategies/fsdp.yaml`).

    `ImageTo3D` documents and sets the attributes.
    """

    optimizer: OptimizerCallable
    learning_rates: LearningRateFactors
    warmup_steps: int
    decay: Decay

    def setup(self, stage: str) -> None:
        """Let DDP look in every step for the parameters that took no part, on all processes; they keep no gradient."""
        if isinstance(self.trainer.strategy, DDPStrategy):  # before it wraps this module
            self.trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own union of shapes
        """The optimiser of all trainable parameters, with warm-up and decay a step."""
        optimizer = self.learning_rates.optimizer(self, self.optimizer)
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if scaled and self.trainer.gradient_clip_val and _unscales(optimizer):
            raise ValueError(
                "optimizer: expected fused: false with precision: 16-mixed and gradient_clip_val, because a fused "
                "optimiser unscales gradients after they are clipped; use bf16-mixed, or leave one of the three out."
            )
        total = self.trainer.estimated_stepping_batches
        schedule = partial(learning_rate_factor, warmup=self.warmup_steps, total=total, decay=self.decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        # The name is that of the curve, which stands among those of training.
        curve = {"scheduler": scheduler, "interval": "step", "name": "train/learning_rate"}
        return {"optimizer": optimizer, "lr_scheduler": curve}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, also where Lightning refuses to: by the norm over all shards, and before a fused optimiser's step."""
        strategy = self.trainer.strategy
        if isinstance(strategy, FSDPStrategy) and gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            strategy.model.clip_grad_norm_(gradient_clip_val)  # type: ignore[operator, union-attr] # the wrapped one
        elif gradient_clip_val and _unscales(optimizer) and gradient_clip_algorithm in (None, "norm"):
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)  # nothing scaled these gradients
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)


def _unscales(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimiser's step takes scaled gradients, as torch's fused ones do."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))

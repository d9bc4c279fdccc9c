"""Steps whose loss or gradient is not finite are left out, and a run that makes nothing else stops."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer


class SkipNonFinite(Callback):
    """Leave weights and optimiser as they are where a loss or a gradient is NaN or infinite; count such steps.

    The step counts in `global_step` and in the learning rate's schedule all the same, and its number is in the
    checkpoint: a resumed run is exact. With `precision: 16-mixed` the scaler finds its scale by overflows, which are
    skipped and counted too. DeepSpeed keeps gradients to itself: there only losses are looked at, and its own
    settings decide on the step.

    Args:
        max_in_a_row: how many steps in a row stop the run.
    """

    def __init__(self, max_in_a_row: int = 10) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"max_in_a_row: expected at least 1, got {max_in_a_row}.")
        self.max_in_a_row = max_in_a_row
        self.skipped = 0
        self.in_a_row = 0
        self._losses: list[Tensor] = []  # of the batches of one step

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the loss until the step is decided, on its device."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Take the gradients away where one of them or a loss is not finite, on any process.

        Raises:
            ValueError: as many steps in a row as are allowed.
        """
        losses, self._losses = torch.stack(self._losses), []
        gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        norm = torch.nn.utils.get_total_norm(gradients.values())  # finite where every gradient is
        if trainer.strategy.reduce_boolean_decision(bool(norm.isfinite() & losses.isfinite().all())):
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= self.max_in_a_row:
            first = next((name for name, gradient in gradients.items() if not gradient.isfinite().all()), "none here")
            logged = trainer.fit_loop._results.metrics(on_step=True)["callback"].items()
            values = ", ".join(f"{name} {float(value):g}" for name, value in logged if name.endswith("loss"))
            raise ValueError(
                f"training: expected finite losses and gradients, got {self.in_a_row} steps in a row without, up to "
                f"step {trainer.global_step + 1} ({values}; first such gradient: {first}); lower the learning rate, "
                "take a precision of more range, or go on from an earlier checkpoint with --ckpt_path."
            )
        # What has no gradient is left alone, its state included. The scaler of 16-mixed leaves out the step itself.
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            for parameter in pl_module.parameters():
                parameter.grad = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Log how many steps were left out so far."""
        pl_module.log("train/skipped_steps", float(self.skipped))

    def state_dict(self) -> dict[str, Any]:
        """How many steps were left out, in all and in a row."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]

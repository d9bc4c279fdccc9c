"""A checkpoint to resume from, always the newest state, whole or not there at all."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Write `checkpoints/last.ckpt` every n steps and at the end of training.

    Lightning's `ModelCheckpoint(save_last=True)` writes it only when a best checkpoint is written too, so its last one
    may be old. The file is written under another name first: a killed run leaves the one before.

    Where a validation follows the step, it is written after it: a run that goes on from a checkpoint validates no more
    at that step. As a `Checkpoint` it comes after the `ModelCheckpoint` before it, whose best score is then in it.

    Args:
        every_n_steps: optimiser steps between two; what a kill can lose.
    """

    def __init__(self, every_n_steps: int = 40) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps: expected at least 1, got {every_n_steps}.")
        self.every_n_steps = every_n_steps
        self._saved = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Save after every n-th optimiser step, unless a validation follows."""
        loop = trainer.fit_loop
        if loop._data_fetcher is None or not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the validation that follows an n-th step."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        if trainer.global_step != self._saved:
            self._save(trainer)

    def _save_if_due(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self._saved:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.log_dir is None or trainer.fast_dev_run:  # type: ignore[attr-defined] # set at run time
            return
        path = Path(trainer.log_dir) / "checkpoints" / "last.ckpt"
        part = path.with_name("last.ckpt.part")
        trainer.save_checkpoint(part, weights_only=False)  # with the optimiser and the loops, to resume from
        if trainer.is_global_zero:
            part.replace(path)
        self._saved = trainer.global_step

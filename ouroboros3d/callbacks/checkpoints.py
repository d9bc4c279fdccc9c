"""A checkpoint to resume from: always the newest state, whole or not there at all, also when a run is told to stop."""

import logging
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils._pytree import tree_leaves

from ouroboros3d.files import atomic_write
from ouroboros3d.lightning_modules.weights import read_checkpoint
from ouroboros3d.weight_names import checkpoint_file

_log = logging.getLogger("ouroboros3d")
# The terminal's Ctrl-C and its end, a scheduler's notice, and what schedulers are asked to send some time before it.
_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)


class LastCheckpoint(Checkpoint):
    """Write `checkpoints/last.ckpt` every n steps and at the end of training, and stop in order when told to.

    Lightning's `ModelCheckpoint(save_last=True)` writes it only when a best checkpoint is written too, so its last one
    may be old.

    Where a validation follows the step, it is written after it: a run that goes on from a checkpoint validates no more
    at that step. As a `Checkpoint` it comes after the `ModelCheckpoint` before it, whose best score is then in it.

    SIGTERM, SIGINT (Ctrl-C), SIGHUP (unless it is ignored, as under nohup) or SIGUSR1, sent to one process or to all,
    those that load data included, end training after the optimiser step in which they come, accumulated batches
    included, with a checkpoint of that step and exit code 128 + signal. A validation is left at its next batch, and
    made from its beginning by the run that goes on. The one after the very last step is never made again by Lightning,
    so there the checkpoint before stays, and the steps since then are made again.

    Args:
        every_n_steps: optimiser steps between two; what a kill can lose.
    """

    def __init__(self, every_n_steps: int = 40) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps: expected at least 1, got {every_n_steps}.")
        self.every_n_steps = every_n_steps
        self._saved = 0
        self._received = 0  # signal that this process got
        self._agreed = 0  # signal that all processes end with
        self._validates_again = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, whose handlers leave an optimiser step at any point."""
        self._received = self._agreed = self._saved = 0
        for number in _SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            signal.signal(number, self._receive)  # Lightning puts back what was there before, when the fit ends

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """End the run where it was told to, now that the last step's values are logged.

        Raises:
            SystemExit: told to stop.
        """
        if self._agreed:
            self._end(trainer)

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

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave a validation where the run was told to stop.

        Raises:
            SystemExit: told to stop.
        """
        if not _between_steps(trainer) or not self._told_to_stop(trainer):
            return
        if trainer.global_step != trainer.max_steps:
            for callback in trainer.callbacks:  # type: ignore[attr-defined] # set at run time
                if isinstance(callback, WeightAveraging):  # validation looks at the average in place of the weights
                    callback.on_validation_epoch_end(trainer, pl_module)
            self._validates_again = True
            self._save(trainer)
        self._end(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the validation that follows an n-th step."""
        if _between_steps(trainer):
            self._save_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state where the number of steps was not known before."""
        if trainer.global_step != self._saved:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Where a validation was left, tell the loops of the run that goes on to make it from its beginning."""
        if self._validates_again:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress["total"]["started"] = progress["total"]["ready"]  # Lightning's mark of an unfinished evaluation
            progress["current"] = dict.fromkeys(progress["current"], 0)

    def _save_if_due(self, trainer: Trainer) -> None:
        if trainer.fit_loop._should_accumulate():  # gradients are in no checkpoint
            return
        step = trainer.global_step
        # The last step's own, because a callback may change the weights when training ends, as averaging does.
        due = step % self.every_n_steps == 0 or step == trainer.max_steps
        if (self._told_to_stop(trainer) or due) and step != self._saved:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.log_dir is None or trainer.fast_dev_run:  # type: ignore[attr-defined] # set at run time
            return
        path = Path(trainer.log_dir) / "checkpoints" / "last.ckpt"
        trainer.save_checkpoint(path, weights_only=False)  # with the optimiser and the loops, to resume from
        self._saved = trainer.global_step

    def _told_to_stop(self, trainer: Trainer) -> bool:
        """Whether any process was: all have to end after the same step."""
        received = torch.tensor(self._received, device=trainer.strategy.root_device)
        self._agreed = int(trainer.strategy.reduce(received, reduce_op="max"))
        return self._agreed > 0

    def _end(self, trainer: Trainer) -> None:
        run = trainer.log_dir
        if trainer.is_global_zero:
            name = signal.Signals(self._agreed).name
            _log.info("Stopped by %s after step %d. Go on with: %s", name, trainer.global_step, how_to_go_on(run))
        raise SystemExit(128 + self._agreed)


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint beside its place and renames it when it is on the disk; reads shipped weights as well.

    Lightning's own buffers the whole checkpoint in memory, tens of GB at the paper's scale, and renames without waiting
    for the disk.
    """

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint, or the file of a trained variant.

        Raises:
            ValueError: a safetensors file of another kind.
        """
        file = checkpoint_file(path)
        if file.suffix == ".safetensors":
            return read_checkpoint(file)
        return super().load_checkpoint(file, map_location, weights_only)

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401 - Lightning's signature
    ) -> None:
        """Write a checkpoint whole or not at all.

        Raises:
            OSError: it cannot be written, for example because the disk is full; one line says how to go on.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            reason = error if isinstance(error, OSError) else error.__context__  # torch raises while it leaves a file
            if not isinstance(reason, OSError):
                raise
            needed = sum(leaf.nbytes for leaf in tree_leaves(checkpoint) if isinstance(leaf, torch.Tensor))
            free = shutil.disk_usage(next(folder for folder in path.parents if folder.is_dir())).free
            raise OSError(
                f"{path}: expected to save about {_mib(needed)}, got {reason.strerror!r} with {_mib(free)} free; "
                f"the checkpoints before it are whole. Make room, then go on with: {how_to_go_on(path.parents[1])}"
            ) from error


def of_a_restore(error: Exception) -> bool:
    """Whether an error came up while Lightning took over a checkpoint's state: values may be of any type in it."""
    return any(
        frame.filename.endswith("connectors/checkpoint_connector.py") and "restore" in frame.name
        for frame in traceback.extract_tb(error.__traceback__)
    )


def how_to_go_on(run: Path | str | None) -> str:
    """The command that goes on with a run."""
    return f"python -m ouroboros3d fit --resume {run}"


def _between_steps(trainer: Trainer) -> bool:
    """Whether a validation is one of training's own and no gradients are accumulated over it."""
    fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
    return fitting and not trainer.fit_loop._should_accumulate()


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"

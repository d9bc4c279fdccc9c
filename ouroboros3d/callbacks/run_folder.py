"""The folder of a run that trains, which has to stay where it is."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class RunFolderWatch(Callback):
    """End a fit whose folder was removed or moved.

    What writes into it would make it anew, without its configuration, so that nothing could go on with it.

    Args:
        folder: of the run; None in processes that write nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the folder.

        Raises:
            FileNotFoundError: it is gone.
        """
        self._look(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Look for the folder, as Lightning calls this before any checkpoint is written."""
        self._look(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the folder, as before a checkpoint of the best step."""
        self._look(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for the folder, as before the last checkpoint."""
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        if self.folder is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined] # which writes nothing
            check_folder(self.folder)


def check_folder(folder: Path) -> None:
    """Whether a run's folder is where it was.

    Raises:
        FileNotFoundError: it is not.
    """
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(
            f"run folder: expected {folder} to stay while the fit writes to it, got none with a config.yaml: it was "
            "removed or moved. Put it back and go on with --resume, or start again."
        )

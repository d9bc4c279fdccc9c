"""Which objects a training does without, kept in its run's folder."""

import csv
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from ouroboros3d.batch import ListedData
from ouroboros3d.files import atomic_write


class LeftOutObjects(Callback):
    """Write left_out.csv as a training begins: every object that it does without, and why.

    The lists that this is taken from change; what a run was trained on does not.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it; a data module that keeps no list leaves nothing out."""
        log_dir = trainer.log_dir  # a broadcast: every rank has to ask, as often as the others
        data = getattr(trainer, "datamodule", None)  # set at run time
        if not (isinstance(data, ListedData) and trainer.is_global_zero and log_dir):
            return
        folder = Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "left_out.csv") as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["uid", "split", "found_by", "reason", "list"])
            writer.writeheader()
            writer.writerows(data.left_out_rows())

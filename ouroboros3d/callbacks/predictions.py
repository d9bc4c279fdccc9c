"""What `predict` leaves behind: views, a 3D Gaussian ply and a turntable of each input image."""

import logging
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich import print as rich_print

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.callbacks.pictures import save_gif, strip, to_image, turntable
from ouroboros3d.gaussians import save_ply
from ouroboros3d.lightning_modules.generation import Generation
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D

_log = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Write each prediction to `<run>/predictions/<name>/` and print the paths.

    Args:
        turntable_size: pixels of the turntable's frames.
        frames: of the turntable.
    """

    def __init__(self, turntable_size: int = 128, frames: int = 36) -> None:
        self.turntable_size = turntable_size
        self.frames = frames

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Generation,
        batch: MultiviewBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write one batch."""
        assert isinstance(pl_module, ImageTo3D)
        log_dir = trainer.log_dir  # a broadcast: every rank has to ask, as often as the others
        assert log_dir is not None
        for index, uid in enumerate(batch.uids):
            folder = Path(log_dir) / "predictions" / uid
            folder.mkdir(parents=True, exist_ok=True)
            to_image(strip(outputs.views_01[index])).save(folder / "views.png")
            for view, picture in enumerate(outputs.views_01[index]):
                to_image(picture).save(folder / f"view_{view:02d}.png")
            gaussians = outputs.gaussians[index : index + 1]
            level = batch.object_from_batch[index : index + 1]
            left_out = save_ply(
                gaussians.transform(level),
                folder / "gaussians.ply",
                comments=["frame object", f"run {log_dir}"],
            )
            _log.info(
                "%s: %d of %d Gaussians are transparent and left out of the ply", uid, left_out, gaussians.shape[1]
            )
            camera = batch.cameras[index : index + 1][:, :1]
            frames = turntable(gaussians, level, pl_module.renderer, self.turntable_size, camera, self.frames)
            save_gif(frames, folder / "turntable.gif")
            for name in ("views.png", "gaussians.ply", "turntable.gif"):
                rich_print(f"{name.split('.')[0]:>10}: {folder / name}")

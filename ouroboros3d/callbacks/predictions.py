"""What `predict` leaves behind: views, a 3D Gaussian ply and a turntable of each input image."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich import print as rich_print
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.callbacks.pictures import save_gif, strip, to_image, turntable
from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians, save_ply
from ouroboros3d.lightning_modules.generation import Generation
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.renderers.gaussians import GaussianRenderer

_log = logging.getLogger(__name__)


def save_prediction(
    folder: Path,
    views_01: Tensor,
    gaussians: Gaussians,
    camera: Cameras,
    renderer: GaussianRenderer,
    comments: Sequence[str] = (),
    turntable_size: int = 128,
    frames: int = 36,
) -> None:
    """Write one object: views.png, a view_NN.png for each view, gaussians.ply and turntable.gif.

    Args:
        folder: made if it is not there.
        views_01: [V, 3, H, W] in [0, 1].
        gaussians: [1, N] in the object's frame.
        camera: [1, 1] whose radius and field of view the turntable takes.
        renderer: of the Gaussians.
        comments: lines for the ply's header.
        turntable_size: pixels of the turntable's frames.
        frames: of the turntable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    to_image(strip(views_01)).save(folder / "views.png")
    for view, picture in enumerate(views_01):
        to_image(picture).save(folder / f"view_{view:02d}.png")
    left_out = save_ply(gaussians, folder / "gaussians.ply", comments=["frame object", *comments])
    _log.info(
        "%s: %d of %d Gaussians are transparent and left out of the ply", folder.name, left_out, gaussians.shape[1]
    )
    save_gif(turntable(gaussians, renderer, turntable_size, camera, frames), folder / "turntable.gif")


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
        gaussians = outputs.gaussians.transform(batch.object_from_batch)
        cameras = batch.cameras.transform(batch.object_from_batch[:, None])
        for index, uid in enumerate(batch.uids):
            one = slice(index, index + 1)
            folder = Path(log_dir) / "predictions" / uid
            save_prediction(
                folder,
                outputs.views_01[index],
                gaussians[one],
                cameras[one][:, :1],
                pl_module.renderer,
                [f"run {log_dir}"],
                self.turntable_size,
                self.frames,
            )
            for name in ("views.png", "gaussians.ply", "turntable.gif"):
                rich_print(f"{name.split('.')[0]:>10}: {folder / name}")

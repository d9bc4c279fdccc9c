"""What `predict` leaves behind: views, a 3D Gaussian ply and a turntable of each input image."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.callbacks.pictures import save_gif, strip, to_image, turntable
from ouroboros3d.cameras import Cameras
from ouroboros3d.files import naming
from ouroboros3d.gaussians import Gaussians, save_ply
from ouroboros3d.lightning_modules.generation import Generation
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.renderers.gaussians import GaussianRenderer

_log = logging.getLogger(__name__)


def save_prediction(
    folder: Path,
    views_01: Tensor,
    gaussians: Gaussians,
    cameras: Cameras,
    renderer: GaussianRenderer,
    comments: Sequence[str] = (),
    turntable_size: int = 256,
    frames: int = 36,
) -> None:
    """Write one object: views.png, a view_NN.png for each view, gaussians.ply and turntable.gif.

    The Gaussians that leave are those that were trained with the renderer's low-pass at the views' size in their
    scales, see `GaussianRenderer.filtered`: they look like the renders that were measured wherever they are opened.

    Args:
        folder: made if it is not there.
        views_01: [V, 3, H, W] in [0, 1].
        gaussians: [1, N] in the object's frame.
        cameras: [1, V] of the views; the turntable takes the radius and the field of view of the first.
        renderer: of the Gaussians.
        comments: lines for the ply's header.
        turntable_size: pixels of the turntable's frames.
        frames: of the turntable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder):
        to_image(strip(views_01)).save(folder / "views.png")
        for view, picture in enumerate(views_01):
            to_image(picture).save(folder / f"view_{view:02d}.png")
    height, width = views_01.shape[-2:]
    gaussians = renderer.filtered(gaussians, cameras, height, width)
    comments = ["frame object", filter_comment(renderer, height, width), *comments]
    left_out = save_ply(gaussians, folder / "gaussians.ply", comments=comments)
    _log.info(
        "%s: %d of %d Gaussians are transparent and left out of the ply", folder.name, left_out, gaussians.shape[1]
    )
    save_gif(turntable(gaussians, renderer, turntable_size, cameras[:, :1], frames), folder / "turntable.gif")


def filter_comment(renderer: GaussianRenderer, height: int, width: int) -> str:
    """What the header of a ply says of `GaussianRenderer.filtered`.

    Args:
        renderer: of the Gaussians.
        height: pixels of the training images.
        width: pixels of the training images.
    """
    low_pass = f"{renderer.low_pass:g} px^2 at {width} x {height} px"
    return f"scales include the low-pass of {low_pass} (Mip-Splatting's 3D filter)"


class PredictionWriter(Callback):
    """Write each prediction to `<run>/predictions/<name>/` and print the paths.

    Args:
        turntable_size: pixels of the turntable's frames.
        frames: of the turntable.
    """

    def __init__(self, turntable_size: int = 256, frames: int = 36) -> None:
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
        console = Console(markup=False, highlight=False, soft_wrap=True)  # a path is printed as it is, in one line
        for index, uid in enumerate(batch.uids):
            one = slice(index, index + 1)
            folder = Path(log_dir) / "predictions" / uid
            save_prediction(
                folder,
                outputs.views_01[index],
                gaussians[one],
                cameras[one],
                pl_module.renderer,
                [f"run {'/'.join(Path(log_dir).parts[-2:])}"],
                self.turntable_size,
                self.frames,
            )
            for name in ("views.png", "gaussians.ply", "turntable.gif"):
                console.print(f"{name.split('.')[0]:>10}: {folder / name}")

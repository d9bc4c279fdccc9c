"""Picture sheets and turntables, written by one function each and used everywhere."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.files import atomic_write
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.lightning_modules.generation import Evaluation, Generation
from ouroboros3d.renderers.gaussians import GaussianRenderer


def to_image(picture: Tensor) -> Image.Image:
    """A PIL image of [3, H, W] in [0, 1]."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def strip(images_01: Tensor) -> Tensor:
    """Images [V, 3, H, W] side by side as one picture [3, H, V * W]."""
    return torch.cat(list(images_01), dim=-1)


def comparison_sheet(generation: Generation, renders: Tensor, batch: MultiviewBatch, most: int = 4) -> Tensor:
    """One picture [3, height, width]: an object a row band of three rows, all V + T cameras from left to right.

    Rows: generated views (the input first; novel cameras have none), renders of the reconstruction, ground truth.

    Args:
        generation: of the batch.
        renders: [B, V + T, 3, H, W] of its Gaussians.
        batch: the ground truth.
        most: how many objects are shown.
    """
    truth = torch.cat([batch.images_01, batch.target_images_01], dim=1)[:most]
    blank = torch.ones_like(batch.target_images_01[:most])
    views = torch.cat([generation.views_01[:most], blank], dim=1)
    rows = torch.stack([views, renders[:most].clamp(0, 1), truth], dim=1)  # [B, 3 rows, V + T, 3, H, W]
    framed = torch.nn.functional.pad(rows, (1, 1, 1, 1), value=0.8)
    count, bands, columns, _, height, width = framed.shape
    return framed.permute(3, 0, 1, 4, 2, 5).reshape(3, count * bands * height, columns * width)


def turntable(
    gaussians: Gaussians,
    renderer: GaussianRenderer,
    size: int,
    camera: Cameras,
    frames: int = 36,
    elevation_deg: float = 15.0,
) -> Tensor:
    """Renders [frames, 3, size, size] on white from a level orbit around the object's own up axis.

    Args:
        gaussians: [1, N] in the object's frame.
        renderer: of the Gaussians.
        size: pixels.
        camera: [1, 1] whose radius and field of view are taken.
        frames: of the whole turn.
        elevation_deg: of the orbit.
    """
    azimuth = torch.arange(frames) * 360 / frames
    radius = float(camera.centres.norm(dim=-1))
    orbit = Cameras.orbit(azimuth, elevation_deg, radius, 60.0).to(gaussians.means.device)
    orbit = Cameras(orbit.c2w_opencv, camera.intrinsics_norm[0].expand(frames, 3, 3))
    chunks = [renderer(gaussians, orbit[i : i + 6].reshape(1, -1), size, size).colour[0] for i in range(0, frames, 6)]
    return torch.cat(chunks).clamp(0, 1)


def save_gif(frames: Tensor, path: Path, seconds: float = 3.0) -> None:
    """Write frames [F, 3, H, W] in [0, 1] as an endless GIF."""
    images = [to_image(frame) for frame in frames]
    duration = round(1000 * seconds / len(images))
    with atomic_write(path) as part:
        images[0].save(part, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)


class PictureLogger(Callback):
    """After each validation, a comparison sheet of the first batch: in TensorBoard and as a PNG in the run.

    Args:
        most: how many objects are shown.
    """

    def __init__(self, most: int = 4) -> None:
        self.most = most

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Evaluation,  # type: ignore[override]
        batch: MultiviewBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the sheet of the first batch on the first rank."""
        if batch_idx != 0 or trainer.sanity_checking:
            return
        log_dir = trainer.log_dir  # a broadcast: every rank has to ask
        if log_dir is None or not trainer.is_global_zero:
            return
        sheet = comparison_sheet(outputs.generation, outputs.renders_01, batch, self.most)
        folder = Path(log_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        fitting = trainer.state.fn == "fit"  # `validate` knows no step
        to_image(sheet).save(folder / (f"validation_{trainer.global_step:06d}.png" if fitting else "validation.png"))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("validation/views_renders_truth", sheet, trainer.global_step)

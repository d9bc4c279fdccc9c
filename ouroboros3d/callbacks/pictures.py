"""Picture sheets and turntables, written by one function each and used everywhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ouroboros3d.batch import ListedData, MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.files import atomic_write
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.lightning_modules.generation import Evaluation, Generation
from ouroboros3d.renderers.gaussians import GaussianRenderer

_READABLE = 96  # pixels of a view on a sheet at least
_LEFT, _LINE, _FONT = 64, 18, 12  # pixels of a sheet's margin, of a line of text, and of its letters


def to_image(picture: Tensor) -> Image.Image:
    """A PIL image of [3, H, W] in [0, 1]."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def strip(images_01: Tensor) -> Tensor:
    """Images [V, 3, H, W] side by side as one picture [3, H, V * W]."""
    return torch.cat(list(images_01), dim=-1)


def comparison_sheet(
    generation: Generation,
    renders: Tensor,
    batch: MultiviewBatch,
    most: int = 4,
    titles: Mapping[str, str] = MappingProxyType({}),
) -> Tensor:
    """One picture [3, height, width]: for each object its name and three labelled rows, all V + T cameras across.

    Rows: generated views (the input first; novel cameras have none), renders of the reconstruction, ground truth. Small
    views are enlarged until what is written beside them can be read.

    Args:
        generation: of the batch.
        renders: [B, V + T, 3, H, W] of its Gaussians.
        batch: the ground truth.
        most: how many objects are shown.
        titles: what objects are called, by uid; the others are shown by their uids alone.
    """
    truth = torch.cat([batch.images_01, batch.target_images_01], dim=1)[:most]
    blank = torch.ones_like(batch.target_images_01[:most])
    views = torch.cat([generation.views_01[:most], blank], dim=1)
    rows = torch.stack([views, renders[:most].clamp(0, 1), truth], dim=1)  # [B, 3 rows, V + T, 3, H, W]
    scale = -(-_READABLE // rows.shape[-1])
    large = rows.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)
    framed = torch.nn.functional.pad(large, (1, 1, 1, 1), value=0.8)
    count, bands, columns, _, height, width = framed.shape
    band = 2 * _LINE + bands * height
    sheet = Image.new("RGB", (_LEFT + columns * width, count * band), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=_FONT)
    known = batch.cameras.shape[1]
    captions = [
        "input",
        *(f"view {i + 1}" for i in range(1, known)),
        *(f"novel {i + 1}" for i in range(columns - known)),
    ]
    for index, uid in enumerate(batch.uids[:most]):
        top = index * band
        draw.text((_LEFT, top), f"{titles[uid]}, {uid}" if uid in titles else uid, "black", font)
        for column, caption in enumerate(captions):
            draw.text((_LEFT + column * width, top + _LINE), caption, "grey", font)
        for row, caption in enumerate(("views", "renders", "truth")):
            place = top + 2 * _LINE + row * height
            draw.text((4, place + (height - _FONT) // 2), caption, "grey", font)
            sheet.paste(to_image(strip(framed[index, row])), (_LEFT, place))
    return torch.from_numpy(np.asarray(sheet).copy()).permute(2, 0, 1) / 255


def titles_of(trainer: Trainer, uids: Sequence[str]) -> Mapping[str, str]:
    """What objects are called, by uid, as far as the data knows names; photos, for one, have none."""
    data = getattr(trainer, "datamodule", None)  # set at run time
    return data.titles(uids) if isinstance(data, ListedData) else {}


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


def save_mp4(frames: Tensor, path: Path, seconds: float = 3.0) -> None:
    """Write frames [F, 3, H, W] in [0, 1], of even height and width, as an H.264 video; PyAV has to be there."""
    import av

    with atomic_write(path) as part, av.open(str(part), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=round(len(frames) / seconds), options={"crf": "16", "threads": "1"})
        stream.height, stream.width = frames.shape[-2:]
        stream.pix_fmt = "yuv420p"  # the one that every player reads
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_image(to_image(frame))))
        file.mux(stream.encode())


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
        titles = titles_of(trainer, batch.uids[: self.most])
        sheet = comparison_sheet(outputs.generation, outputs.renders_01, batch, self.most, titles)
        folder = Path(log_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        fitting = trainer.state.fn == "fit"  # `validate` knows no step
        to_image(sheet).save(folder / (f"validation_{trainer.global_step:06d}.png" if fitting else "validation.png"))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("validation/views_renders_truth", sheet, trainer.global_step)

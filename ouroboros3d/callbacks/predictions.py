"""What `predict` leaves behind: views, a 3D Gaussian ply and a turntable of each input image."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, ImageOps
from rich.console import Console
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.callbacks.pictures import save_gif, strip, to_image, turntable
from ouroboros3d.cameras import Cameras
from ouroboros3d.files import atomic_write_text, naming, sha256_of
from ouroboros3d.gaussians import Gaussians, save_ply
from ouroboros3d.lightning_modules.generation import Generation
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.renderers.gaussian_mesh import mesh_of_gaussians, watertightness
from ouroboros3d.renderers.gaussians import GaussianRenderer
from ouroboros3d.renderers.glb_writer import save_glb

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
    mesh: bool = False,
) -> None:
    """Write one object: views.png, a view_NN.png for each view, gaussians.ply, turntable.gif, and mesh.glb if asked.

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
        mesh: whether to make a mesh of the Gaussians too; it is said whether it is closed.
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
    if mesh:
        try:
            _log.info("%s: %s", folder.name, save_mesh(gaussians, renderer, folder / "mesh.glb", comments))
        except ValueError as error:  # of this object alone; others have something to see
            _log.warning("%s: no mesh: %s", folder.name, error)


def save_mesh(gaussians: Gaussians, renderer: GaussianRenderer, path: Path, comments: Sequence[str] = ()) -> str:
    """Write the mesh of one object's Gaussians.

    Args:
        gaussians: [1, N] in the object's frame, with the low-pass in their scales.
        renderer: of depth and colours.
        path: of the GLB.
        comments: what the file says of itself.

    Returns:
        a line: how many faces it has, and whether it is watertight.

    Raises:
        ValueError: nothing is seen of the Gaussians.
    """
    mesh = mesh_of_gaussians(gaussians, renderer)
    closed = watertightness(mesh)
    save_glb(mesh, path, {"ouroboros3d": "; ".join([*comments, closed])})
    return f"a mesh of {len(mesh.faces)} faces, {closed}"


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

    Beside what `save_prediction` writes: input.png, the cut-out that the network saw; overview.png, the photo over the
    cut-out, then each generated view over the render of the Gaussians from its camera; and prediction.json.

    `settings` is what the command line adds to prediction.json: the checkpoint.

    Args:
        turntable_size: pixels of the turntable's frames.
        frames: of the turntable.
        mesh: whether to make meshes too.
        out: the predictions' folder, in place of the run's.
    """

    def __init__(
        self, turntable_size: int = 256, frames: int = 36, mesh: bool = False, out: Path | None = None
    ) -> None:
        self.turntable_size = turntable_size
        self.frames = frames
        self.mesh = mesh
        self.out = out
        self.settings: dict[str, Any] = {}

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
        data = trainer.datamodule  # type: ignore[attr-defined] # set at run time
        gaussians = outputs.gaussians.transform(batch.object_from_batch)
        cameras = batch.cameras.transform(batch.object_from_batch[:, None])
        console = Console(markup=False, highlight=False, soft_wrap=True)  # a path is printed as it is, in one line
        run = "/".join(Path(log_dir).parts[-2:])
        for index, uid in enumerate(batch.uids):
            one = slice(index, index + 1)
            folder = (self.out or Path(log_dir) / "predictions") / uid
            save_prediction(
                folder,
                outputs.views_01[index],
                gaussians[one],
                cameras[one],
                pl_module.renderer,
                [f"run {run}"],
                self.turntable_size,
                self.frames,
                self.mesh,
            )
            photo, cut_out = data.sources[uid], batch.images_01[index, 0]
            made = (outputs.views_01[index], gaussians[one], cameras[one], pl_module.renderer)
            with naming(folder):
                to_image(cut_out).save(folder / "input.png")
                overview(data.picture(uid), cut_out, *made).save(folder / "overview.png")
            said = {
                "photo": photo.name,
                "photo_sha256": sha256_of(photo),
                "method": type(pl_module).__name__,
                "run": run,
                **self.settings,
                "seed": pl_module.sampler.seed,
                "noise_of": uid,  # the noise follows from the seed and this name
                "steps": pl_module.sampler.num_steps,
                "removal": str(data.removal),
                "elevation_deg": data.elevation_deg,
                "image_size": list(cut_out.shape[-2:]),
                "frame": "object: x right, y up, z towards the viewer at azimuth 0",
                "c2w_opencv": cameras.c2w_opencv[index].tolist(),
                "intrinsics_norm": cameras.intrinsics_norm[index].tolist(),
            }
            atomic_write_text(folder / "prediction.json", json.dumps(said, indent=2) + "\n")
            for name in ("overview.png", "gaussians.ply", "turntable.gif", *["mesh.glb"] * self.mesh):
                if (folder / name).is_file():
                    console.print(f"{name.split('.')[0]:>10}: {folder / name}")


def overview(
    photo: Image.Image,
    cut_out: Tensor,
    views_01: Tensor,
    gaussians: Gaussians,
    cameras: Cameras,
    renderer: GaussianRenderer,
    size: int = 256,
) -> Image.Image:
    """One picture of two rows: the photo and the generated views, over the cut-out and renders of the Gaussians.

    Args:
        photo: as it was taken.
        cut_out: [3, H, W] in [0, 1], what the network saw of it.
        views_01: [V, 3, H, W] in [0, 1].
        gaussians: [1, N] in the cameras' world.
        cameras: [1, V] of the views.
        renderer: of the Gaussians.
        size: pixels of a cell.
    """
    shown = renderer.filtered(gaussians, cameras, *views_01.shape[-2:])
    renders = renderer(shown, cameras, size, size).colour[0].clamp(0, 1)
    rows = [
        [ImageOps.pad(photo.convert("RGB"), (size, size), color="white"), *map(to_image, views_01)],
        [to_image(cut_out), *map(to_image, renders)],
    ]
    sheet = Image.new("RGB", (len(rows[0]) * (size + 4) - 4, 2 * size + 4), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            cell = picture.resize((size, size), Image.Resampling.BICUBIC)
            sheet.paste(cell, (column * (size + 4), row * (size + 4)))
    return sheet

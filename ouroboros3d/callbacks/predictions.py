"""What `predict` leaves behind: views, a 3D Gaussian ply, a turntable and a viewer's page of each input image."""

import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image, ImageOps
from rich.console import Console
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.callbacks.pictures import save_gif, save_mp4, strip, to_image, turntable
from ouroboros3d.callbacks.step_frames import StepFrames
from ouroboros3d.cameras import Cameras
from ouroboros3d.files import atomic_write_text, naming, sha256_of
from ouroboros3d.gaussians import Gaussians, PlyAxes, save_ply
from ouroboros3d.lightning_modules.generation import Generation
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.renderers.gaussian_mesh import mesh_of_gaussians, watertightness
from ouroboros3d.renderers.gaussians import GaussianRenderer
from ouroboros3d.renderers.glb_writer import save_glb
from ouroboros3d.viewer.page import save_viewer
from ouroboros3d.viewer.scene import Frame, scene

_log = logging.getLogger(__name__)


def save_prediction(
    folder: Path,
    views_01: Tensor,
    gaussians: Gaussians,
    cameras: Cameras,
    renderer: GaussianRenderer,
    name: str,
    input_01: Tensor | None = None,
    steps: Sequence[Frame] = (),
    comments: Sequence[str] = (),
    axes: PlyAxes = "gl_yup",
    turntable_size: int = 256,
    frames: int = 36,
    mesh: bool = False,
) -> None:
    """Write one object: views.png, a view_NN.png for each view, gaussians.ply, turntable.gif and viewer.html.

    Where PyAV is installed (the extra `video`) there is turntable.mp4 too, and mesh.glb if asked.

    The Gaussians that leave are those that were trained with the renderer's low-pass at the views' size in their
    scales, see `GaussianRenderer.filtered`: they look like the renders that were measured wherever they are opened.

    Args:
        folder: made if it is not there.
        views_01: [V, 3, H, W] in [0, 1].
        gaussians: [1, N] in the object's frame.
        cameras: [1, V] of the views; the turntable takes the radius and the field of view of the first.
        renderer: of the Gaussians.
        name: of what made it, on the viewer's page.
        input_01: [3, H, W] the input image, for the viewer's page.
        steps: of the sampler, for the viewer's page.
        comments: lines for the ply's header.
        axes: of the ply, see `save_ply`.
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
    left_out = save_ply(gaussians, folder / "gaussians.ply", axes=axes, comments=comments)
    _log.info(
        "%s: %d of %d Gaussians are transparent and left out of the ply", folder.name, left_out, gaussians.shape[1]
    )
    turning = turntable(gaussians, renderer, turntable_size, cameras[:, :1], frames)
    save_gif(turning, folder / "turntable.gif")
    if find_spec("av"):
        save_mp4(turning, folder / "turntable.mp4")
    shown = scene(name, cameras, [*steps, Frame(views_01, gaussians)], None if input_01 is None else input_01[None])
    save_viewer(folder / "viewer.html", folder.name, [shown])
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
        axes: of the plys.
        turntable_size: pixels of the turntable's frames.
        frames: of the turntable.
        mesh: whether to make meshes too.
        out: the predictions' folder, in place of the run's.
    """

    def __init__(
        self,
        axes: PlyAxes = "gl_yup",
        turntable_size: int = 256,
        frames: int = 36,
        mesh: bool = False,
        out: Path | None = None,
    ) -> None:
        self.axes: PlyAxes = axes
        self.turntable_size = turntable_size
        self.frames = frames
        self.mesh = mesh
        self.out = out
        self.settings: dict[str, Any] = {}
        self._steps: StepFrames | None = None

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: MultiviewBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Watch the sampler."""
        assert isinstance(pl_module, ImageTo3D)
        self._steps = StepFrames(pl_module, batch.cameras, pl_module.sampler.num_steps)
        pl_module.observers = [self._steps]

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
        assert self._steps is not None
        pl_module.observers = []
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
                Path(log_dir).parent.name,
                batch.input_images_01[index],
                self._steps.of_object(index, cameras[one], batch.object_from_batch[one]),
                [f"run {run}"],
                self.axes,
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
            for name in ("overview.png", "gaussians.ply", "turntable.gif", "viewer.html", *["mesh.glb"] * self.mesh):
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

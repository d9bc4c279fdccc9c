"""Objects with right cameras, rendered once, and writers that put them into trees with mistakes.

The matrices are written out here from the table in docs/formats.md, section 1.2, not taken from the package's
conversions.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.meshes.glb import load_glb
from ouroboros3d.datamodules.selection import BUNDLED
from ouroboros3d.renderers.meshes import MeshRenderer

SIZE = 64
Y_FROM_Z = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
OPENGL = np.diag([1, -1, -1, 1.0])
# A horse, a rocking horse, a forklift, a mixer and a chair: nothing that looks alike from two sides.
ODD = ("1ca722", "51cd04", "0ee595", "a998c9", "54c518")
# A ball, a barrel, a pen, a board, a stand with a guitar: round, thin, flat, spindly.
EVEN = ("d766b7", "055c1a", "07bf51", "5dae18", "48eacc")
# Azimuth, elevation and radius of views that no turn or mirror maps to each other.
SCATTERED = (
    *((10, 5, 1.75), (62, 31, 1.9), (118, -12, 2.1), (151, 48, 1.8)),
    *((204, 14, 1.7), (250, 38, 2.0), (301, 8, 1.85), (345, 25, 1.7)),
)
RING = tuple((20 + 45 * view, 17, 1.7417) for view in range(8))


@dataclass(frozen=True)
class Posed:
    """An object as rendered: rgba [F, H, W, 4] uint8 with straight alpha, and its right cameras [F]."""

    uid: str
    rgba: NDArray[np.uint8]
    cameras: Cameras

    @property
    def blender(self) -> NDArray[np.float64]:
        """[F, 4, 4] camera to world, OpenGL axes, Z-up world."""
        return np.linalg.inv(Y_FROM_Z) @ self.cameras.c2w_opencv.double().numpy() @ OPENGL


def render(start: str, rig: Sequence[tuple[float, float, float]], fov_deg: float = 49.134) -> Posed:
    """A bundled object by the first letters of its uid."""
    (path,) = BUNDLED.glob(f"glbs/*/{start}*.glb")
    mesh, _, _ = load_glb(path).normalised()
    azimuth, elevation, radius = zip(*rig, strict=True)
    cameras = Cameras.orbit(azimuth, elevation, radius, fov_deg)
    seen = MeshRenderer(supersampling=2).straight(mesh, cameras, SIZE, SIZE)
    channels = np.concatenate([seen.colour[0].numpy(), seen.alpha[0].numpy()], axis=1)
    rgba = (channels * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return Posed(path.stem, np.ascontiguousarray(rgba), cameras)


def same(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return value


def write_official(
    root: Path,
    objects: Sequence[Posed],
    poses: Callable[[NDArray[np.float64]], NDArray[np.float64]] = same,
    angle: Callable[[float], float] = float,
) -> Path:
    """The official Ouroboros3D layout, with poses [F, 4, 4] and the angle of view put wrong."""
    for posed in objects:
        folder = root / posed.uid
        folder.mkdir(parents=True)
        names = [f"render_{view:04d}.webp" for view in range(len(posed.rgba))]
        for name, pixels in zip(names, posed.rgba, strict=True):
            Image.fromarray(pixels).save(folder / name, lossless=True)
        focal = posed.cameras.intrinsics_norm[0, 0, 0].item()
        locations = [
            {"index": f"{view:04d}", "transform_matrix": matrix.tolist(), "frames": [{"name": name}]}
            for view, (name, matrix) in enumerate(zip(names, poses(posed.blender), strict=True))
        ]
        meta = {"camera_angle_x": angle(2 * float(np.arctan(0.5 / focal))), "locations": locations}
        (folder / "meta.json").write_text(json.dumps(meta))
    return root


def write_zero123(root: Path, objects: Sequence[Posed]) -> Path:
    """Zero123's layout: world to camera, and Blender's default lens."""
    for posed in objects:
        folder = root / posed.uid
        folder.mkdir(parents=True)
        for view, (pixels, matrix) in enumerate(zip(posed.rgba, posed.blender, strict=True)):
            Image.fromarray(pixels).save(folder / f"{view:03d}.png")
            np.save(folder / f"{view:03d}.npy", np.linalg.inv(matrix)[:3])
    return root

"""What every tree of posed renders becomes: objects with internal cameras, and views that are read when asked for."""

import io
import json
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ouroboros3d.cameras import Cameras, from_stored, intrinsics
from ouroboros3d.datamodules.readers.stored import ObjectFiles, SampleError, StoredFile, folder_names
from ouroboros3d.datamodules.readers.tree import TreeReader
from ouroboros3d.datamodules.true_geometry import TrueGeometry

BLENDER_FOCAL = 1.09375  # lens 35 mm on a 32 mm sensor, in image widths: Blender's default, 49.134 degrees


@dataclass(frozen=True)
class PosedObject:
    """Posed views of one object.

    Args:
        uid: the object's name.
        cameras: [F] in the object's frame, float32.
        images: the F image files.
        size: height and width of every image in pixels.
        rings: views that stand around the object, each ring in its stored order; empty where the cameras form none.
        depth: gives a view's z-depth [H, W] in scene units, 0 = empty; None where the format has none.
        normals: gives a view's unit normals [H, W, 3] in the object's frame, zero = empty; None likewise.
    """

    uid: str
    cameras: Cameras
    images: tuple[StoredFile, ...]
    size: tuple[int, int]
    rings: tuple[tuple[int, ...], ...] = ()
    depth: Callable[[int], Tensor] | None = None
    normals: Callable[[int], Tensor] | None = None

    def __len__(self) -> int:
        """F."""
        return len(self.images)

    def rgba(self, view: int) -> Tensor:
        """One view [H, W, 4], uint8 sRGB with straight alpha.

        Raises:
            SampleError: it is missing, unreadable, of another size than view 0, or has no transparency.
        """
        file = self.images[view]
        image = _open(self.uid, view, file)
        # WebP drops an alpha channel that is opaque everywhere; other formats keep it.
        if not image.has_transparency_data and image.format != "WEBP":
            raise SampleError(
                f"{self.uid}: view {view}: expected a transparent background, got mode {image.mode} ({file}); an image "
                "with its background baked in cannot be composited."
            )
        if (image.height, image.width) != self.size:
            raise SampleError(
                f"{self.uid}: view {view}: expected {self.size[0]} x {self.size[1]} pixels, got {image.height} x "
                f"{image.width} ({file})."
            )
        return torch.from_numpy(np.asarray(image.convert("RGBA")).copy())


class PosedReader(TreeReader):
    """A tree of posed renders, one object after another.

    Args:
        root: the tree.
        views_per_object: how many views each object has at least; None for the number that the format promises.
    """

    promised_views: ClassVar[int] = 1

    def __init__(self, root: Path, views_per_object: int | None = None) -> None:
        super().__init__(root)
        self.at_least = self.promised_views if views_per_object is None else views_per_object

    def list_uids(self) -> list[str]:
        """One folder an object."""
        return folder_names(self.root)

    @abstractmethod
    def read(self, uid: str) -> PosedObject:
        """Cameras and files of one object; pixels are not read yet.

        Raises:
            SampleError: a view or a camera is missing or makes no sense.
        """

    def has_true_geometry(self, uid: str, surface_points: int) -> bool:
        """Whether that many points of an object's true surface are stored beside its views."""
        return False

    def true_geometry(self, uid: str, surface_points: int) -> TrueGeometry:
        """The true geometry of an object, with coordinate maps of its first ring's views; only our own format has it.

        Raises:
            SampleError: it was not written, or is broken.
        """
        raise SampleError(f"{uid}: expected the true surface beside its views, got the format {self.name}.")


def rigid(
    uid: str,
    matrices: NDArray[Any] | Sequence[Any],
    *,
    pose: Literal["c2w", "w2c"],
    axes: Literal["opengl", "opencv"],
) -> Tensor:
    """`cameras.from_stored` of an object's poses in a Z-up world, which is what every format has.

    Args:
        uid: the object.
        matrices: [F, 3, 4] or [F, 4, 4].
        pose: camera to world, or world to camera.
        axes: camera axes.

    Raises:
        SampleError: not such matrices, or no rigid poses.
    """
    try:
        stored = np.array(matrices, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise SampleError(f"{uid}: expected poses of numbers, got {error}.") from error
    if stored.ndim != 3 or stored.shape[1:] not in ((3, 4), (4, 4)):
        raise SampleError(f"{uid}: expected poses [F, 3, 4] or [F, 4, 4], got {list(stored.shape)}.")
    if stored.shape[1] == 4 and not np.allclose(stored[:, 3], [0, 0, 0, 1]):
        raise SampleError(f"{uid}: expected poses whose last row is 0 0 0 1, got {stored[0, 3].tolist()}: transposed?")
    try:
        return from_stored(torch.from_numpy(stored), pose=pose, axes=axes, world="z_up")
    except (ValueError, RuntimeError) as error:  # no rotation, or not invertible
        raise SampleError(f"{uid}: {error}") from error


def pinhole(uid: str, angle_x_rad: Sequence[float], size: tuple[int, int]) -> Tensor:
    """Intrinsics [F, 3, 3] of square pixels and a centred principal point from horizontal angles of view.

    Args:
        uid: the object.
        angle_x_rad: F whole angles in radians.
        size: height and width in pixels.

    Raises:
        SampleError: an angle outside [1, 179] degrees, which degrees for radians usually are.
    """
    for angle in angle_x_rad:
        if not isinstance(angle, (int, float)) or not 1 <= math.degrees(angle) <= 179:
            raise SampleError(f"{uid}: expected a field of view of 1 to 179 degrees in radians, got {angle!r}.")
    fx = torch.tensor([0.5 / math.tan(angle / 2) for angle in angle_x_rad], dtype=torch.float64)
    return intrinsics(fx, fx * size[1] / size[0]).float()


def focal_angle(focal: float) -> float:
    """The whole angle of view in radians of a focal length in image widths."""
    return 2 * math.atan(0.5 / focal)


def image_size(uid: str, file: StoredFile) -> tuple[int, int]:
    """Height and width of an image.

    Raises:
        SampleError: it is missing or no image.
    """
    image = _open(uid, 0, file, load=False)
    return image.height, image.width


def levels(uid: str, view: int, file: StoredFile) -> NDArray[np.int64]:
    """The stored integers [H, W] or [H, W, C] of an image of 8 or 16 bits.

    Raises:
        SampleError: it is missing or unreadable.
    """
    return np.asarray(_open(uid, view, file)).astype(np.int64)


def rings_by_elevation(cameras: Cameras) -> tuple[tuple[int, ...], ...]:
    """The rings of cameras [F] that stand on circles around the vertical axis, none if they do not.

    Rings are told apart by their elevation, and hold the same number of views, at least three.
    """
    centres = cameras.centres.double()
    elevation = torch.rad2deg(torch.asin(centres[:, 1] / centres.norm(dim=-1)))
    order = torch.argsort(elevation, stable=True)
    rings: list[list[int]] = []
    for place, view in enumerate(order.tolist()):
        # A degree: rings of a rig are ten apart, and rounding moves a camera by far less.
        if place == 0 or elevation[view] - elevation[order[place - 1]] > 1:
            rings.append([])
        rings[-1].append(view)
    if len({len(ring) for ring in rings}) != 1 or len(rings[0]) < 3:
        return ()
    return tuple(tuple(sorted(ring)) for ring in rings)


def read_json(files: ObjectFiles, name: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SampleError: it is missing or something else.
    """
    try:
        content = json.loads(files.read(name))
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{files.uid}: expected JSON in {files.file(name)}, got {error}.") from error
    if not isinstance(content, dict):
        raise SampleError(f"{files.uid}: expected a JSON object in {files.file(name)}, got {type(content).__name__}.")
    return content


def read_npy(files: ObjectFiles, name: str) -> NDArray[Any]:
    """An array of a `.npy` file.

    Raises:
        SampleError: it is missing or something else.
    """
    try:
        array: NDArray[Any] = np.load(io.BytesIO(files.read(name)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SampleError(f"{files.uid}: expected an array in {files.file(name)}, got {error}.") from error
    return array


def read_listed(path: Path, what: Literal["lines", "array"]) -> list[str]:
    """Names of a list: of a text file, the first word of each line; or of a JSON array.

    Raises:
        ValueError: it cannot be read, or is something else.
    """
    try:
        text = path.read_text()
        names = [line.split()[0] for line in text.splitlines() if line.strip()] if what == "lines" else json.loads(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a list of objects, got {error}.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: expected a JSON array of names, got {str(names)[:40]}.")
    return names


def _open(uid: str, view: int, file: StoredFile, load: bool = True) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(file.read()))
        if load:
            image.load()
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SampleError(
            f"{uid}: view {view}: expected a readable image, got {reason} ({file}); repair it, or leave the object out "
            "(skip_uids)."
        ) from error
    return image

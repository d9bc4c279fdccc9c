"""What every tree of posed renders becomes: objects with internal cameras, and views that are read when asked for."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ouroboros3d.cameras import Cameras, from_stored, intrinsics
from ouroboros3d.datamodules.orbits.true_geometry import TrueGeometry
from ouroboros3d.datamodules.readers.stored import (
    MirroredPoses,
    NoTransparency,
    ObjectFiles,
    SampleError,
    StoredFile,
    TransposedPoses,
    WrongFieldOfView,
    folder_names,
)
from ouroboros3d.datamodules.readers.tree import TreeReader
from ouroboros3d.datamodules.untrusted import (
    MAX_COORDINATE,
    MAX_DESCRIPTION_BYTES,
    MAX_LIST_BYTES,
    MAX_VIEW_SIDE,
    UntrustedError,
    listed_names,
    open_image,
    parse_json,
    read_regular,
    refusing,
)

DEPTH_MODES = ("I;16", "I")  # 16 bits; which one depends on Pillow's version
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
        depth: gives a view's z-depth [H, W] in scene units, 0 = empty; None where the format has none. Like `normals`
            it raises SampleError where the file is wrong, and MissingPackage where that of its format is not there.
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
            NoTransparency: it has no alpha channel.
            SampleError: it is missing, unreadable, or of another size than view 0.
        """
        file = self.images[view]
        with _reading_image(self.uid, view, file):
            image = open_image(file.read(), MAX_VIEW_SIDE)
            # WebP drops an alpha channel that is opaque everywhere; other formats keep it.
            if not image.has_transparency_data and image.format != "WEBP":
                raise NoTransparency(
                    f"{self.uid}: view {view}: expected a transparent background, got mode {image.mode} ({file}); an "
                    "image with its background baked in cannot be composited."
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

    def read(self, uid: str) -> PosedObject:
        """Cameras and files of one object; pixels are not read yet.

        Raises:
            SampleError: a view or a camera is missing or makes no sense, or the object is another than its format says.
        """
        with refusing(SampleError, f"{uid}: expected an object of the format {self.name} in {self.root}"):
            found = self._read(uid)
            focal = found.cameras.intrinsics_norm.diagonal(dim1=-2, dim2=-1)[..., :2]
            numbers = torch.cat([found.cameras.c2w_opencv.flatten(), found.cameras.intrinsics_norm.flatten()])
            if not (bool((numbers.abs() < MAX_COORDINATE).all()) and bool((focal > 0).all())):  # NaN fails too
                raise SampleError(
                    f"{uid}: expected finite cameras with focal lengths above 0 in {self.root}, got others."
                )
            return replace(
                found,
                depth=None if found.depth is None else partial(_depth, found),
                normals=None if found.normals is None else partial(_normals, found),
            )

    @abstractmethod
    def _read(self, uid: str) -> PosedObject:
        """As `read`; what the files of an object make it raise beside `SampleError` becomes one there."""

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
        TransposedPoses: 4x4 matrices with another last row than 0 0 0 1.
        MirroredPoses: rotations with a negative determinant.
        SampleError: not such matrices, or no rigid poses.
    """
    with refusing(SampleError, f"{uid}: expected poses of numbers"):
        stored = np.array(matrices, dtype=np.float64)
    if stored.ndim != 3 or stored.shape[1:] not in ((3, 4), (4, 4)):
        raise SampleError(f"{uid}: expected poses [F, 3, 4] or [F, 4, 4], got {list(stored.shape)}.")
    if stored.shape[1] == 4 and not np.allclose(stored[:, 3], [0, 0, 0, 1]):
        raise TransposedPoses(
            f"{uid}: expected poses whose last row is 0 0 0 1, got {stored[0, 3].tolist()}: transposed?"
        )
    try:
        return from_stored(torch.from_numpy(stored), pose=pose, axes=axes, world="z_up")
    except (ValueError, RuntimeError) as error:  # no rotation, or not invertible
        with np.errstate(all="ignore"):  # NaN is no mirror
            kind = MirroredPoses if (np.linalg.det(stored[:, :3, :3]) < 0).any() else SampleError
        reason = str(error) if isinstance(error, ValueError) else f"expected invertible poses, got {error}"
        refusal = kind(f"{uid}: {reason}")
        raise refusal from error


def pinhole(uid: str, angle_x_rad: Sequence[float], size: tuple[int, int]) -> Tensor:
    """Intrinsics [F, 3, 3] of square pixels and a centred principal point from horizontal angles of view.

    Args:
        uid: the object.
        angle_x_rad: F whole angles in radians.
        size: height and width in pixels.

    Raises:
        WrongFieldOfView: an angle outside [1, 179] degrees, which degrees for radians usually are.
    """
    for angle in angle_x_rad:
        if isinstance(angle, bool) or not isinstance(angle, (int, float)) or not 1 <= math.degrees(angle) <= 179:
            raise WrongFieldOfView(f"{uid}: expected a field of view of 1 to 179 degrees in radians, got {angle!r}.")
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
    with _reading_image(uid, 0, file):
        image = open_image(file.read(), MAX_VIEW_SIDE)
        return image.height, image.width


def levels(uid: str, view: int, file: StoredFile, modes: Sequence[str]) -> NDArray[np.int32]:
    """The stored integers [H, W, C] of an image.

    Args:
        uid: the object.
        view: for messages.
        file: the image.
        modes: in Pillow's terms that it may have, such as `RGBA`, or `DEPTH_MODES`.

    Raises:
        SampleError: it is missing, unreadable, or has another mode.
    """
    with _reading_image(uid, view, file):
        # Not JPEG, which rounds what is stored, and whose decoder can be kept busy for hours.
        image = open_image(file.read(), MAX_VIEW_SIDE, ("PNG", "WEBP"))
        if image.mode not in modes:
            raise SampleError(f"{uid}: view {view}: expected mode {' or '.join(modes)} in {file}, got {image.mode}.")
        stored = np.asarray(image).astype(np.int32)
        return stored if stored.ndim == 3 else stored[..., None]


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
    content = files.read(name, MAX_DESCRIPTION_BYTES)
    with refusing(SampleError, f"{files.uid}: expected JSON in {files.file(name)}"):
        content = parse_json(content)
    if not isinstance(content, dict):
        raise SampleError(f"{files.uid}: expected a JSON object in {files.file(name)}, got {type(content).__name__}.")
    return content


def read_listed(path: Path, what: Literal["lines", "array"]) -> list[str]:
    """Names of a list: of a text file, one a line up to a tab; or of a JSON array.

    Raises:
        UntrustedError: it cannot be read, or is something else.
    """
    with refusing(UntrustedError, f"{path}: expected a list of objects"):
        text = read_regular(path, MAX_LIST_BYTES).decode()
        names = listed_names(text) if what == "lines" else parse_json(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UntrustedError(f"{path}: expected a JSON array of names, got {type(names).__name__}.")
    return names


def _reading_image(uid: str, view: int, file: StoredFile) -> AbstractContextManager[None]:
    return refusing(SampleError, f"{uid}: view {view}: expected a readable image in {file}")


def _reading_map(found: PosedObject, view: int, what: str) -> AbstractContextManager[None]:
    return refusing(SampleError, f"{found.uid}: view {view}: expected {what} with {found.images[view]}")


def _depth(found: PosedObject, view: int) -> Tensor:
    """A depth map that fits its view."""
    assert found.depth is not None
    with _reading_map(found, view, "depth"):
        depth = found.depth(view)
    if tuple(depth.shape) != found.size or not bool((depth >= 0).all()) or not bool(depth.isfinite().all()):
        raise _misfit(found, view, "finite depth from 0 on", depth)
    return depth


def _normals(found: PosedObject, view: int) -> Tensor:
    """Normals that fit their view."""
    assert found.normals is not None
    with _reading_map(found, view, "normals"):
        normals = found.normals(view)
    # Half a percent: half floats and bytes round.
    if tuple(normals.shape) != (*found.size, 3) or not bool((normals.norm(dim=-1) < 1.005).all()):  # NaN fails too
        raise _misfit(found, view, "unit normals", normals)
    return normals


def _misfit(found: PosedObject, view: int, what: str, values: Tensor) -> SampleError:
    height, width = found.size
    return SampleError(
        f"{found.uid}: view {view}: expected {what} of {height} x {width} pixels with {found.images[view]}, got other "
        f"values or another shape ({list(values.shape)})."
    )

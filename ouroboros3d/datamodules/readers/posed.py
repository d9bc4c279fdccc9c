"""What every tree of posed renders becomes: objects with internal cameras, and views that are read when asked for."""

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

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.orbits.true_geometry import TrueGeometry
from ouroboros3d.datamodules.readers.errors import NoTransparency, SampleError
from ouroboros3d.datamodules.readers.pixels import reading_image
from ouroboros3d.datamodules.readers.poses import Convention, rigid
from ouroboros3d.datamodules.readers.stored import ObjectFiles, StoredFile, folder_names
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
    reraise_as,
)


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
        with reading_image(self.uid, view, file):
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

    at_least: int
    promised_views: ClassVar[int] = 1
    stored_poses: ClassVar[Convention | None] = None  # docs/formats.md, section 1.2; None: in no file

    def __init__(self, root: Path, views_per_object: int | None = None) -> None:
        super().__init__(root)
        self.at_least = self.promised_views if views_per_object is None else views_per_object

    def list_uids(self) -> list[str]:
        """One folder an object."""
        return folder_names(self.root)

    def absent(self) -> frozenset[str]:
        """The objects that a list of the tree names and that have no folder, from one look at the folders there are."""
        return frozenset()

    def read(self, uid: str) -> PosedObject:
        """Cameras and files of one object; pixels are not read yet.

        Raises:
            SampleError: a view or a camera is missing or makes no sense, or the object is another than its format says.
        """
        with reraise_as(SampleError, f"{uid}: expected an object of the format {self.name} in {self.root}"):
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
        """Read one object; whatever its files make this method raise, `read` turns into a `SampleError`."""

    def c2w_opencv(self, uid: str, matrices: NDArray[Any] | Sequence[Any]) -> Tensor:
        """Internal poses [F, 4, 4] of those [F, 3, 4] or [F, 4, 4] that this format stores.

        Raises:
            SampleError: as `rigid`.
        """
        assert self.stored_poses is not None, f"{type(self).__name__} reads poses and does not say how they are stored"
        return rigid(uid, matrices, self.stored_poses)

    def has_true_geometry(self, uid: str, surface_points: int) -> bool:
        """Whether that many points of an object's true surface are stored beside its views."""
        return False

    def true_geometry(self, uid: str, surface_points: int) -> TrueGeometry:
        """The true geometry of an object, with coordinate maps of its first ring's views; only our own format has it.

        Raises:
            SampleError: it was not written, or is broken.
        """
        raise SampleError(f"{uid}: expected the true surface beside its views, got the format {self.name}.")


def read_json(files: ObjectFiles, name: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SampleError: it is missing or something else.
    """
    content = files.read(name, MAX_DESCRIPTION_BYTES)
    with reraise_as(SampleError, f"{files.uid}: expected JSON in {files.file(name)}"):
        content = parse_json(content)
    if not isinstance(content, dict):
        raise SampleError(f"{files.uid}: expected a JSON object in {files.file(name)}, got {type(content).__name__}.")
    return content


def read_listed(path: Path, what: Literal["lines", "array"]) -> list[str]:
    """Names of a list: of a text file, one a line up to a tab; or of a JSON array.

    Raises:
        UntrustedError: it cannot be read, or is something else.
    """
    with reraise_as(UntrustedError, f"{path}: expected a list of objects"):
        text = read_regular(path, MAX_LIST_BYTES).decode()
        names = listed_names(text) if what == "lines" else parse_json(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UntrustedError(f"{path}: expected a JSON array of names, got {type(names).__name__}.")
    return names


def _reading_map(found: PosedObject, view: int, what: str) -> AbstractContextManager[None]:
    return reraise_as(SampleError, f"{found.uid}: view {view}: expected {what} with {found.images[view]}")


def _depth(found: PosedObject, view: int) -> Tensor:
    """The depth map of a view, refused where it does not fit the view's image."""
    assert found.depth is not None
    with _reading_map(found, view, "depth"):
        depth = found.depth(view)
    if tuple(depth.shape) != found.size or not bool((depth >= 0).all()) or not bool(depth.isfinite().all()):
        raise _misfit(found, view, "finite depth from 0 on", depth)
    return depth


def _normals(found: PosedObject, view: int) -> Tensor:
    """The normals of a view, refused where they do not fit the view's image."""
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

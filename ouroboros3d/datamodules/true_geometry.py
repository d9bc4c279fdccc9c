"""True geometry of rendered objects, beside their orbits: what the geometry metrics compare with.

`<uid>-00/coordinate_%04d.npz` hold the coordinate maps of the first orbit's views (FORMATS section 3), and
`<uid>-00/surface_<count>.npz`, written last, points and normals of the surface and the solid cells. Written on demand,
since only objects that are tested need them.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ouroboros3d.datamodules.orbits import SampleError
from ouroboros3d.files import whole
from ouroboros3d.surface import Surface

SAMPLING_SEED = 0


@dataclass(frozen=True)
class TrueGeometry:
    """Geometry of one object in its own frame.

    Args:
        surface: [1, P].
        occupancy: [R, R, R] bool, solid cells of the cube that `carve` fills.
        coordinates: [F, H, W, 3] surface points that the first orbit's F views see; alpha says where there is one.
    """

    surface: Surface
    occupancy: Tensor
    coordinates: Tensor


def surface_file(first_orbit: Path, count: int) -> Path:
    """The file whose presence says that an object's geometry is complete."""
    return first_orbit / f"surface_{count}.npz"


def write_true_geometry(first_orbit: Path, geometry: TrueGeometry) -> None:
    """Write one object's geometry into its first orbit's folder, whole files only.

    Args:
        first_orbit: the complete orbit.
        geometry: of the object.
    """
    for view, coordinates in enumerate(geometry.coordinates):
        # Half floats step by at most 0.00025 within the normalised object, a fortieth of the finest F-score threshold.
        half = coordinates.numpy().astype(np.float16)
        _write(first_orbit / f"coordinate_{view:04d}.npz", coordinate=half)
    surface = geometry.surface
    _write(
        surface_file(first_orbit, surface.points.shape[1]),
        points=surface.points[0].numpy(),
        normals=surface.normals[0].numpy(),
        occupancy=np.packbits(geometry.occupancy.numpy()),
        resolution=np.array(len(geometry.occupancy)),
    )


def read_true_geometry(first_orbit: Path, count: int, views: int) -> TrueGeometry:
    """Read one object's geometry.

    Args:
        first_orbit: the orbit's folder.
        count: surface points.
        views: coordinate maps.

    Raises:
        SampleError: a file is missing or broken.
    """
    path = surface_file(first_orbit, count)
    *surface, packed, resolution = _read(path, "points", "normals", "occupancy", "resolution")
    side = int(resolution)
    occupancy = torch.from_numpy(np.unpackbits(packed, count=side**3).astype(bool)).view(side, side, side)  # type: ignore[arg-type]
    maps = [_read(first_orbit / f"coordinate_{view:04d}.npz", "coordinate")[0] for view in range(views)]
    points, normals = (torch.from_numpy(array)[None] for array in surface)
    return TrueGeometry(Surface(points, normals), occupancy, torch.from_numpy(np.stack(maps).astype(np.float32)))


def _write(path: Path, **arrays: NDArray[np.generic]) -> None:
    with whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type] # numpy types its keywords as one option


def _read(path: Path, *names: str) -> list[NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise SampleError(
            f"{path}: expected {' and '.join(names)} of a rendered object, got {error}; delete {path.parent}."
        ) from error

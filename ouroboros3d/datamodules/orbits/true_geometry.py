"""True geometry of rendered objects, beside their orbits: what the geometry metrics compare with.

`<uid>-00/coordinate_%04d.npz` hold the coordinate maps of the first orbit's views (docs/formats.md, section 3), and
`<uid>-00/surface_<count>.npz`, written last, points and normals of the surface and the solid cells. Written on demand,
since only objects that are tested need them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ouroboros3d.datamodules.orbits.maps import coordinate_name
from ouroboros3d.files import atomic_write
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


def surface_name(count: int) -> str:
    """Name of the file whose presence in the first orbit says that an object's geometry is complete."""
    return f"surface_{count}.npz"


def write_true_geometry(first_orbit: Path, geometry: TrueGeometry) -> None:
    """Write one object's geometry into its first orbit's folder, whole files only.

    Args:
        first_orbit: the complete orbit.
        geometry: of the object.
    """
    for view, coordinates in enumerate(geometry.coordinates):
        # Half floats step by at most 0.00025 within the normalised object, a fortieth of the finest F-score threshold.
        half = coordinates.numpy().astype(np.float16)
        _write(first_orbit / coordinate_name(view), coordinate=half)
    surface = geometry.surface
    _write(
        first_orbit / surface_name(surface.points.shape[1]),
        points=surface.points[0].numpy(),
        normals=surface.normals[0].numpy(),
        occupancy=np.packbits(geometry.occupancy.numpy()),
        resolution=np.array(len(geometry.occupancy)),
    )


def _write(path: Path, **arrays: NDArray[np.generic]) -> None:
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type] # numpy types its keywords as one option

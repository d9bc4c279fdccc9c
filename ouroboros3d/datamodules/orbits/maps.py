"""Maps of rendered views as files beside them (docs/formats.md, section 3), in the internal +Y up world.

`depth_%04d.png`: 16-bit z-depth in steps of `depth_unit`, 0 = empty. `normal_world_%04d.npz` and `coordinate_%04d.npz`:
half floats [H, W, 3], where the view's alpha says what is empty.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ouroboros3d.datamodules.orbits.names import MapName
from ouroboros3d.renderers.rendering import Rendering

FRAME = "opencv_yup"
_UNIT = 2.0**-14  # scene units a step: reaches 4
_OBJECT_RADIUS = 0.58  # of the sphere that holds every normalised object
_STEPS = 2**16 - 1


def depth_unit(radius: float) -> float:
    """Scene units per step of a depth map: 1/16384, doubled until the far side of the object is within reach.

    Args:
        radius: distance of the cameras from the object's centre, scene units.
    """
    unit = _UNIT
    while (radius + _OBJECT_RADIUS) / unit > _STEPS:
        unit *= 2
    return unit


def describe_maps(names: Sequence[MapName], radius: float) -> dict[str, Any]:
    """What `meta.json` says of the maps; nothing without any.

    Args:
        names: of the maps.
        radius: distance of the cameras from the object's centre, scene units.
    """
    return {"maps_frame": FRAME} | ({"depth_unit": depth_unit(radius)} if "depth" in names else {}) if names else {}


def write_maps(folder: Path, rendering: Rendering, names: Sequence[MapName], radius: float) -> None:
    """Write maps of one orbit.

    Args:
        folder: that will hold the orbit's views.
        rendering: B = 1, V views of the mesh.
        names: which maps.
        radius: distance of the cameras from the object's centre, scene units.
    """
    unit = depth_unit(radius)
    for view in range(rendering.alpha.shape[1]):
        if "depth" in names:
            steps = (rendering.depth[0, view, 0] / unit).round().numpy().astype(np.uint16)
            Image.fromarray(steps).save(folder / f"depth_{view:04d}.png")
        if "normal" in names:
            assert rendering.normals is not None
            _write_half(folder / f"normal_world_{view:04d}.npz", normal=rendering.normals[0, view])
        if "coordinate" in names:
            _write_half(folder / coordinate_name(view), coordinate=rendering.coordinates[0, view])


def coordinate_name(view: int) -> str:
    """File name of a coordinate map."""
    return f"coordinate_{view:04d}.npz"


def _write_half(path: Path, **named: Tensor) -> None:
    """One map [3, H, W] under its name; half floats step by at most 0.00025 within the normalised object."""
    arrays: dict[str, NDArray[np.float16]] = {
        name: values.permute(1, 2, 0).numpy().astype(np.float16) for name, values in named.items()
    }
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type] # numpy types its keywords as one option

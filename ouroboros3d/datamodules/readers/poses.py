"""Poses and angles of view as formats store them, to the cameras of `cameras.py`."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ouroboros3d.cameras import Cameras, from_stored, intrinsics
from ouroboros3d.datamodules.readers.errors import MirroredPoses, SampleError, TransposedPoses, WrongFieldOfView
from ouroboros3d.datamodules.untrusted import reraise_as

BLENDER_FOCAL = 1.09375  # lens 35 mm on a 32 mm sensor, in image widths: Blender's default, 49.134 degrees


class Convention(NamedTuple):
    """How a format stores poses, in the terms of `cameras.from_stored`."""

    pose: Literal["c2w", "w2c"]
    axes: Literal["opengl", "opencv"]
    world: Literal["y_up", "z_up"]

    def __str__(self) -> str:
        """The convention in words."""
        pose = {"c2w": "camera-to-world", "w2c": "world-to-camera"}[self.pose]
        axes, world = {"opengl": "OpenGL", "opencv": "OpenCV"}[self.axes], self.world[0].upper()
        return f"{pose} poses with {axes} camera axes in a {world}-up world"


BLENDER = Convention("c2w", "opengl", "z_up")


def rigid(uid: str, matrices: NDArray[Any] | Sequence[Any], convention: Convention) -> Tensor:
    """`cameras.from_stored` of an object's poses.

    Args:
        uid: the object.
        matrices: [F, 3, 4] or [F, 4, 4].
        convention: of the format.

    Raises:
        TransposedPoses: 4x4 matrices with another last row than 0 0 0 1.
        MirroredPoses: rotations with a negative determinant.
        SampleError: not such matrices, or no rigid poses.
    """
    with reraise_as(SampleError, f"{uid}: expected poses of numbers"):
        stored = np.array(matrices, dtype=np.float64)
    if stored.ndim != 3 or stored.shape[1:] not in ((3, 4), (4, 4)):
        raise SampleError(f"{uid}: expected poses [F, 3, 4] or [F, 4, 4], got {list(stored.shape)}.")
    if stored.shape[1] == 4 and not np.allclose(stored[:, 3], [0, 0, 0, 1]):
        raise TransposedPoses(
            f"{uid}: expected poses whose last row is 0 0 0 1, got {stored[0, 3].tolist()}: transposed?"
        )
    try:
        return from_stored(torch.from_numpy(stored), **convention._asdict())
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

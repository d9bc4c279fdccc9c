"""What can be wrong with cameras, each as a change that would put it right, and in words.

Every mistake is an alternative reading of the poses as the files store them: other camera axes, the inverse, another
hand. Which way up the world is, silhouettes cannot tell; there the cameras' own horizon decides.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras, from_stored
from ouroboros3d.datamodules.readers.poses import Convention

_INTERNAL = Convention("c2w", "opencv", "y_up")
_EYE = torch.eye(4, dtype=torch.float64)
_FLIP = from_stored(_EYE, pose="c2w", axes="opengl", world="y_up").double()
_TURN = from_stored(_EYE, pose="c2w", axes="opencv", world="z_up").double()
_MIRROR_X = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
_MIRROR_Y = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
# Steps of 3 to 10 %, from half to double: 39.6 degrees between 22 and 72.
_FOCALS = (0.5, 0.6, 0.7, 0.8, 0.87, 0.93, 0.97, 1.03, 1.07, 1.15, 1.25, 1.4, 1.6, 2.0)
Kind = Literal["convention", "mirrored", "elevation", "order", "focal", "radius"]


@dataclass(frozen=True)
class Hypothesis:
    """One mistake.

    Args:
        kind: of mistake.
        finding: what the cameras look like, to go after "These look like".
        remedy: what to do.
        mend: cameras [F] as they would be without it.
        factor: of the focal length, for a mistake about it.
    """

    kind: Kind
    finding: str
    remedy: str
    mend: Callable[[Cameras], Cameras]
    factor: float = 1.0


def hypotheses(stored: Convention | None, views: int) -> Iterator[Hypothesis]:
    """Every mistake that is tried, those first that are met most.

    Args:
        stored: what the reader takes the poses for; None where no file stores them.
        views: F.
    """
    yield from _conventions(stored or _INTERNAL)
    yield Hypothesis(
        "convention",
        "PyTorch3D camera axes (x left, y up, z forward), or images turned by 180 degrees",
        "negate the first two columns of the camera-to-world rotation",
        lambda cameras: _with(cameras, cameras.c2w_opencv @ _MIRROR_X @ _MIRROR_Y),
    )
    yield Hypothesis(
        "mirrored",
        "azimuths that run the other way round (a left-handed world, or images mirrored left to right)",
        "negate the azimuth where the cameras are written: +X must lie to the right of a camera at +Z",
        lambda cameras: _with(cameras, _MIRROR_X @ cameras.c2w_opencv @ _MIRROR_X),
    )
    yield Hypothesis(
        "elevation",
        "negated elevations (cameras below the object that were above it, or images upside down)",
        "negate the elevation where the cameras are written: positive is above the object",
        lambda cameras: _with(cameras, _MIRROR_Y @ cameras.c2w_opencv @ _MIRROR_Y),
    )
    yield Hypothesis(
        "radius",
        "translations that were scaled view by view: with one distance for all views they fit",
        "store the distances of rendering; one scale for the whole object, never one a view",
        _equal_radii,
    )
    yield from _orders(views)
    for factor in _FOCALS:
        yield focal(factor)


def focal(factor: float) -> Hypothesis:
    """A focal length that should have been `factor` times as long."""
    return Hypothesis(
        "focal",
        f"images of another field of view (a focal length {factor:.2f} times as long fits)",
        "compare camera_angle_x or the intrinsics with the renderer's lens and sensor; angles are in radians, and of "
        "the image's width",
        lambda cameras: Cameras(cameras.c2w_opencv, _scaled(cameras.intrinsics_norm, factor)),
        factor,
    )


def _conventions(stored: Convention) -> Iterator[Hypothesis]:
    for transposed in (False, True):
        for pose in ("c2w", "w2c"):
            for axes in ("opencv", "opengl"):
                if (pose, axes, transposed) == (stored.pose, stored.axes, False):
                    continue
                other = Convention(pose, axes, stored.world)
                yield Hypothesis(
                    "convention",
                    str(other) + (" and transposed rotations" if transposed else ""),
                    f"write {stored}, as this format has them, or convert the files",
                    lambda cameras, other=other, transposed=transposed: _with(  # type: ignore[misc]
                        cameras, _reread(cameras.c2w_opencv, stored, other, transposed)
                    ),
                )


def _reread(c2w: Tensor, stored: Convention, other: Convention, transposed: bool) -> Tensor:
    """Internal poses [F, 4, 4] as they would be had the files been read in another convention."""
    matrix = c2w.double()
    if stored.world == "z_up":
        matrix = _TURN.T @ matrix
    if stored.axes == "opengl":
        matrix = matrix @ _FLIP
    if stored.pose == "w2c":
        matrix = torch.linalg.inv(matrix)
    if transposed:
        rotation = matrix[:, :3, :3].transpose(1, 2)
        matrix = torch.cat([torch.cat([rotation, matrix[:, :3, 3:]], dim=2), matrix[:, 3:]], dim=1)
    return from_stored(matrix, **other._asdict())


def _orders(views: int) -> Iterator[Hypothesis]:
    """Images and cameras in different orders; long lists by a few steps only."""
    yield _order("views stored in reverse order", list(range(views))[::-1])
    steps = range(1, views) if views <= 16 else (1, 2, views - 2, views - 1)
    for step in steps:
        late = step if step <= views // 2 else step - views
        text = f"cameras that are {abs(late)} view{'s' * (abs(late) > 1)} {'late' if late > 0 else 'early'} in the list"
        yield _order(text, [(view + step) % views for view in range(views)])


def _order(text: str, order: list[int]) -> Hypothesis:
    return Hypothesis(
        "order",
        text,
        "check the numbering of images and poses: from 0 or 1, sorted as numbers or as text",
        lambda cameras: cameras[order],
    )


def _equal_radii(cameras: Cameras) -> Cameras:
    radius = cameras.centres.norm(dim=-1)
    return at_radii(cameras, radius.median() / radius)


def at_radii(cameras: Cameras, factors: Tensor) -> Cameras:
    """Cameras [F] at distances from the origin that are `factors` [F] times as long."""
    c2w = cameras.c2w_opencv.clone()
    c2w[:, :3, 3] *= factors.to(c2w)[:, None]
    return _with(cameras, c2w)


def _with(cameras: Cameras, c2w: Tensor) -> Cameras:
    return Cameras(c2w.float(), cameras.intrinsics_norm)


def _scaled(intrinsics_norm: Tensor, factor: float) -> Tensor:
    scaled = intrinsics_norm.clone()
    scaled[:, :2, :2] *= factor
    return scaled


def world_up(c2w_opencv: Tensor) -> str:
    """The axis of the world along which cameras stand upright: `+Y` as it should be, `-Z` for others.

    A camera without roll has its right axis horizontal and its own up on the world's upper side. Empty where no axis
    fits, as for cameras that are rolled.

    Args:
        c2w_opencv: [F, 4, 4].
    """
    right, up = c2w_opencv[:, :3, 0], -c2w_opencv[:, :3, 1]
    # +Y first: cameras that all look along one axis stand upright along two.
    for axis in (1, 2, 0):
        # A degree of roll: what handheld rigs have is more, what rounding makes is less.
        if right[:, axis].abs().max() < 0.02:
            for sign, name in ((1, "+"), (-1, "-")):
                if ((sign * up[:, axis]) > -0.02).all():
                    return name + "XYZ"[axis]
    return ""


def stored_axis(stored: Convention | None, internal: str) -> str:
    """The name that an axis of the internal world has in the files."""
    if stored is None or stored.world == "y_up":
        return internal
    sign = 1 if internal[0] == "+" else -1
    vector = torch.zeros(4, dtype=torch.float64)
    vector["XYZ".index(internal[1])] = sign
    turned = _TURN.T @ vector
    axis = int(turned[:3].abs().argmax())
    return ("+" if turned[axis] > 0 else "-") + "XYZ"[axis]

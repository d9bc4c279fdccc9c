"""Depth of analytic shapes from the cameras all around, and Gaussians in two colours."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians, matrix_to_quaternion

CENTRE, RADIUS = torch.tensor([0.1, -0.05, 0.08]), 0.35


def sphere_depth(cameras: Cameras, size: int) -> Tensor:
    """[V, size, size] z along forward of the off-centre sphere, 0 beside it; from the quadratic of each ray."""
    origins, directions = (rays.movedim(-3, -1) for rays in cameras.rays(size, size))
    from_centre = origins - CENTRE
    half, rest = (from_centre * directions).sum(-1), from_centre.square().sum(-1) - RADIUS**2
    root = half.square() - rest
    distance = -half - root.clamp_min(0).sqrt()
    forward = cameras.c2w_opencv[:, None, None, :3, 2]
    return torch.where(root > 0, distance * (directions * forward).sum(-1), 0.0)


def two_coloured_ball(count: int = 1200, size: float = 0.025) -> Gaussians:
    """Nearly opaque discs [1, count] in a spiral on the sphere: red above its centre, blue below."""
    i = torch.arange(count) + 0.5
    polar, turn = torch.acos(1 - 2 * i / count), math.pi * (1 + 5**0.5) * i
    normals = torch.stack([polar.sin() * turn.cos(), polar.cos(), polar.sin() * turn.sin()], dim=-1)
    one = normalize(torch.linalg.cross(normals, torch.tensor([0.3, 0.5, 0.8]).expand_as(normals)), dim=-1)
    axes = torch.stack([one, torch.linalg.cross(normals, one), normals], dim=-1)
    red, blue = torch.tensor([0.8, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.6])
    return Gaussians(
        (CENTRE + RADIUS * normals)[None],
        torch.tensor([size, size, 1e-4]).expand(1, count, 3),
        matrix_to_quaternion(axes)[None],
        torch.full((1, count, 1), 0.95),
        torch.where(normals[:, 1:2] > 0, red, blue)[None],
    )

"""Perspective projection of 3D Gaussians to 2D ones in pixels (EWA splatting), every object from all of its cameras."""

from typing import NamedTuple

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians, quaternion_to_matrix

MIN_ALPHA = 1 / 255  # weaker contributions are skipped, as 3DGS does: less than one step of an 8 bit image
MAX_ALPHA = 0.99  # 3DGS's clamp; keeps 1 - alpha, by which the backward pass divides, away from zero
# The Jacobian is taken at a mean moved to at most 1.3 times the half field of view (3DGS): far outside the image
# the linear approximation of the projection blows splats up over the whole picture.
_FRUSTUM_MARGIN = 0.3
_LARGEST = 1e8  # pixels; a splat with a larger standard deviation is left out, before its determinant overflows


class Splats(NamedTuple):
    """Gaussians as seen from the cameras: N splats in each of M = B * V images, in pixels, corner (0, 0).

    The weight of a splat at d = pixel centre - centre is exp(-(y1^2 + y2^2) / 2) with y1 = across * (d_x - shear * d_y)
    and y2 = along * d_y: the inverse covariance in triangular form, which loses no digits on needles.

    geometry: [6, M, N] centre x, centre y, shear, across, along, opacity.
    features: [7, M, N] red, green, blue, depth, and the mean's x, y, z in the scene.
    visible: [M, N] bool: in front of the near plane, opacity above 1/255, touching the image.
    reach_y: [M, N] half the height of the ellipse outside of which the contribution is below 1/255, pixels; no grad.
    lean: [M, N] how far below its centre that ellipse extends furthest to the right, pixels; no grad.
    radius: [M, N] of the circle around that ellipse, pixels; no grad.
    """

    geometry: Tensor
    features: Tensor
    visible: Tensor
    reach_y: Tensor
    lean: Tensor
    radius: Tensor


def project(gaussians: Gaussians, cameras: Cameras, height: int, width: int, *, low_pass: float, near: float) -> Splats:
    """Project Gaussians [B, N] into cameras [B, V].

    The 2D covariance is J R S (J R S)^T + low_pass * I with the Jacobian J of the projection at the mean (Zwicker et
    al. 2001; 3DGS, Kerbl et al. 2023, whose dilation of 0.3 px^2 is the usual `low_pass`). 3DGS bounds a splat by 3
    standard deviations; here the bound is where opacity times weight falls to 1/255, so nothing that counts is cut.

    Args:
        gaussians: [B, N], float32 or float64.
        cameras: [B, V], same dtype.
        height: pixels.
        width: pixels.
        low_pass: variance added on both image axes, px^2.
        near: splats with their mean nearer than this (z, scene units) are invisible.

    Returns:
        Splats with M = B * V, differentiable in all Gaussian parameters, with finite gradients for invisible ones too.
    """
    objects, views = cameras.shape
    count = gaussians.shape[1]
    size = torch.tensor([width, height], dtype=gaussians.means.dtype, device=gaussians.means.device)
    world_to_camera = cameras.c2w_opencv[..., :3, :3].transpose(-1, -2)  # [B, V, 3, 3]
    offset = -(world_to_camera @ cameras.centres[..., None])
    means = gaussians.means.transpose(1, 2)[:, None]  # [B, 1, 3, N]
    in_camera = world_to_camera @ means + offset  # [B, V, 3, N]
    depth = in_camera[:, :, 2]
    in_front = depth > near
    # Invisible splats take harmless values before any division: the gradient of `where` then is zero, never 0 * inf.
    depth = torch.where(in_front, depth, 1.0)
    slope = in_camera[:, :, :2] / depth[:, :, None]  # [B, V, 2, N] x/z and y/z
    focal = torch.diagonal(cameras.intrinsics_norm[..., :2, :2], dim1=-2, dim2=-1)[..., None] * size[:, None]
    principal = cameras.intrinsics_norm[..., :2, 2:] * size[:, None]
    centre = focal * slope + principal

    margin = _FRUSTUM_MARGIN * 0.5 * size[:, None]
    low, high = (-principal - margin) / focal, (size[:, None] - principal + margin) / focal
    slope = torch.minimum(torch.maximum(slope, low), high)
    factor = quaternion_to_matrix(gaussians.quaternions) * gaussians.scales.clamp_max(_LARGEST)[..., None, :]
    factor = factor.permute(0, 2, 3, 1).reshape(objects, 1, 3, 3 * count)
    factor = (world_to_camera @ factor).reshape(objects, views, 3, 3, count)
    # Rows of J R S: what one standard deviation along each own axis moves in x and in y, pixels.
    scale = focal / depth[:, :, None]
    row_x, row_y = (scale[:, :, i, None] * (factor[:, :, i] - slope[:, :, i, None] * factor[:, :, 2]) for i in (0, 1))
    usable = in_front & (torch.maximum(row_x.abs(), row_y.abs()).amax(2) < _LARGEST)
    row_x, row_y = (torch.where(usable[:, :, None], row, 0.0) for row in (row_x, row_y))
    centre = torch.where(usable[:, :, None], centre, 0.0)
    xx = row_x.square().sum(2) + low_pass
    yy = row_y.square().sum(2) + low_pass
    xy = (row_x * row_y).sum(2)
    # The determinant as a sum of squares (Lagrange's identity): xx * yy - xy^2 would cancel on needles.
    cross = torch.linalg.cross(row_x, row_y, dim=2).square().sum(2)
    determinant = cross + low_pass * (xx + yy - low_pass)

    opacity = gaussians.opacities[:, None, :, 0].expand(objects, views, count)
    geometry = torch.stack([centre[:, :, 0], centre[:, :, 1], xy / yy, (yy / determinant).sqrt(), yy.rsqrt(), opacity])
    features = torch.cat([gaussians.colours, depth.new_zeros(objects, count, 1), gaussians.means], dim=-1)
    features = features.permute(2, 0, 1)[:, :, None].expand(7, objects, views, count)
    features = torch.cat([features[:3], depth[None], features[4:]])
    with torch.no_grad():
        reach = 2 * torch.log((opacity / MIN_ALPHA).clamp_min(1.0))  # squared distance in standard deviations
        extent = torch.stack([(reach * xx).sqrt(), (reach * yy).sqrt()])
        lean = (reach / xx).sqrt() * xy
        largest = (xx + yy) / 2 + ((xx - yy).square() / 4 + xy.square()).sqrt()
        radius = (reach * largest).sqrt()
        inside = (centre.movedim(2, 0) + extent > 0) & (centre.movedim(2, 0) - extent < size[:, None, None, None])
        visible = usable & (opacity > MIN_ALPHA) & inside.all(0)
    images = objects * views
    return Splats(
        geometry.reshape(6, images, count),
        features.reshape(7, images, count),
        visible.reshape(images, count),
        extent[1].reshape(images, count),
        lean.reshape(images, count),
        radius.reshape(images, count),
    )

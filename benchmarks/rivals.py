"""Other ways to render the same Gaussians: one object, V views, square images, white background.

Each takes Gaussians [1, N], Cameras [1, V] and the size in pixels, and returns colours [V, 3, size, size] and the share
of covered pixels whose list of splats was cut.
"""

import math

import torch
from pytorch3d.renderer.points.pulsar import Renderer as Pulsar
from pytorch3d.renderer.points.rasterize_points import rasterize_points
from pytorch3d.structures import Pointclouds
from pytorch3d.utils import pulsar_from_cameras_projection
from torch import Tensor

from ouroboros3d.cameras import Cameras, to_pytorch3d
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.renderers.projection import MAX_ALPHA, MIN_ALPHA, Splats, project

PLAIN_K = 128  # splats a pixel of the plain path: hardly a pixel of these scenes has more
_DENSE_PAIRS = 1 << 20  # (splat, pixel) pairs that the dense splatter holds at a time


def _alpha(splats: Splats, view: Tensor, splat: Tensor, x: Tensor, y: Tensor) -> Tensor:
    centre_x, centre_y, shear, across, along, opacity = splats.geometry[:, view, splat]
    dx, dy = x - centre_x, y - centre_y
    alpha = opacity * torch.exp(-0.5 * ((across * (dx - shear * dy)).square() + (along * dy).square()))
    return torch.where(alpha >= MIN_ALPHA, alpha.clamp_max(MAX_ALPHA), 0.0)


def _composite(alpha: Tensor, colours: Tensor) -> Tensor:
    """[..., 3] from alpha [..., P, K], sorted, and colours [..., P, K, 3] or, for all P, [..., 1, K, 3], on white."""
    through = (1 - alpha).cumprod(-1)
    weight = alpha * torch.cat([torch.ones_like(alpha[..., :1]), through[..., :-1]], -1)
    shared = colours.shape[-3] == 1
    mixed = weight @ colours[..., 0, :, :] if shared else (weight[..., None, :] @ colours)[..., 0, :]
    return mixed + through[..., -1:]


def plain(gaussians: Gaussians, cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    """PyTorch3D's rasterizer over whole images and all splats, then shading of its [pixels, K] fragments in torch."""
    splats = project(gaussians, cameras, size, size, low_pass=0.3, near=0.01)
    views, count = splats.visible.shape
    half = size / 2
    points = torch.stack([1 - splats.geometry[0] / half, 1 - splats.geometry[1] / half, splats.features[3]], -1)
    radius = torch.where(splats.visible, splats.radius / half, 0.0)
    index, _, _ = rasterize_points(Pointclouds(points.detach()), size, radius, PLAIN_K, bin_size=0)
    kept = index >= 0
    view = torch.arange(views, device=index.device)[:, None, None, None].expand(index.shape)
    splat = torch.where(kept, index.long() - view * count, 0)
    line = torch.arange(size, device=index.device) + 0.5
    alpha = _alpha(splats, view, splat, line[:, None], line[:, None, None])
    alpha = torch.where(kept, alpha, 0.0)
    colours = splats.features[:3, view, splat].movedim(0, -1)
    covered = kept.any(-1).sum().clamp_min(1)
    full = kept[..., -1] & ((1 - alpha).prod(-1) > 1e-6)
    return _composite(alpha, colours).permute(0, 3, 1, 2), full.sum() / covered


def dense_pixels(gaussians: Gaussians, cameras: Cameras, size: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """All splats at chosen pixels [P] (row * size + column) of every view, without any search.

    Returns:
        colours [V, P, 3], and [V, P] how near a splat comes to the 1/255 below which it is dropped (relative).
    """
    splats = project(gaussians, cameras, size, size, low_pass=0.3, near=0.01)
    views, count = splats.visible.shape
    order = torch.where(splats.visible, splats.features[3], torch.inf).argsort(dim=1, stable=True)[:, None]
    view = torch.arange(views, device=order.device)[:, None, None]

    def shade(chosen: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (chosen % size + 0.5)[:, None], (chosen // size + 0.5)[:, None]
        alpha = _alpha(splats, view, order, x, y)
        alpha = torch.where(splats.visible[view, order], alpha, 0.0)
        colours = splats.features[:3, view, order].movedim(0, -1)
        near = torch.where(alpha > 0, alpha * 255 - 1, 1.0).amin(-1)
        return _composite(alpha, colours), near

    parts = pixels.split(max(1, _DENSE_PAIRS // (views * max(count, 1))))
    shaded = [shade(part) for part in parts]
    return torch.cat([colour for colour, _ in shaded], 1), torch.cat([near for _, near in shaded], 1)


def dense(gaussians: Gaussians, cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    """Every splat at every pixel, all of it kept for the backward pass."""
    colours, _ = dense_pixels(gaussians, cameras, size, torch.arange(size * size, device=gaussians.means.device))
    return colours.transpose(1, 2).unflatten(2, (size, size)), colours.new_zeros(())


def pulsar(gaussians: Gaussians, cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    """PyTorch3D's Pulsar: opaque spheres of the splats' mean scale, another image model and so another image."""
    views, count = cameras.shape[1], gaussians.shape[1]
    device = gaussians.means.device
    sizes = torch.tensor([[size, size]] * views, device=device)
    renderer = Pulsar(size, size, count, right_handed_system=False, n_channels=3).to(device)
    radius = (1.5 * gaussians.scales.amax(-1)).expand(views, count).contiguous()
    image = renderer(
        gaussians.means.expand(views, count, 3).contiguous(),
        gaussians.colours.expand(views, count, 3).contiguous(),
        radius,
        pulsar_from_cameras_projection(to_pytorch3d(cameras, size, size), sizes),
        gamma=1e-3,
        min_depth=0.1,
        max_depth=5.0,
        bg_col=torch.ones(3, device=device),
        opacity=gaussians.opacities[..., 0].expand(views, count).contiguous(),
    )
    # Pulsar's rows run upwards.
    return image.flip(1).permute(0, 3, 1, 2), torch.zeros((), device=device)


def gsplat(gaussians: Gaussians, cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    """nerfstudio's CUDA rasterizer."""
    from gsplat import rasterization

    matrix = cameras.intrinsics_norm[0].clone()
    matrix[:, :2] *= size
    colours, _, _ = rasterization(
        gaussians.means[0],
        gaussians.quaternions[0],
        gaussians.scales[0],
        gaussians.opacities[0, :, 0],
        gaussians.colours[0],
        cameras.w2c_opencv[0],
        matrix,
        size,
        size,
        eps2d=0.3,
        backgrounds=torch.ones(cameras.shape[1], 3, device=matrix.device),
    )
    return colours.permute(0, 3, 1, 2), colours.new_zeros(())


def object_like(count: int, views: int, seed: int = 0) -> tuple[Gaussians, Cameras]:
    """Flat splats on a closed bumpy surface, as a reconstructed object has, and a ring of cameras around it."""
    generator = torch.Generator().manual_seed(seed)
    outward = torch.nn.functional.normalize(torch.randn(1, count, 3, generator=generator), dim=-1)
    bumps = 0.34 + 0.06 * torch.sin(7 * outward[..., :1]) * torch.cos(5 * outward[..., 1:2])
    means = outward * bumps * torch.tensor([1.0, 0.8, 1.1])
    spacing = math.sqrt(4 * math.pi * 0.34**2 / count)
    scales = spacing * (0.3 + 0.5 * torch.rand(1, count, 3, generator=generator)) * torch.tensor([1.0, 1.0, 0.15])
    # The thin axis, z, turned to the outside: half way between z and `outward`.
    half = outward + torch.tensor([0.0, 0.0, 1.0])
    w = half.norm(dim=-1, keepdim=True) / 2
    axis = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).expand_as(outward), outward) / (2 * w).clamp_min(1e-3)
    quaternions = torch.nn.functional.normalize(torch.cat([w, axis], -1), dim=-1)
    opacities = 0.3 + 0.7 * torch.rand(1, count, 1, generator=generator)
    colours = (0.5 + 0.4 * torch.sin(9 * means) + 0.1 * torch.rand(1, count, 3, generator=generator)).clamp(0, 1)
    cameras = Cameras.orbit((torch.arange(views) * 360 / views)[None], 15.0, 1.5, 49.1)
    return Gaussians(means, scales, quaternions, opacities, colours), cameras

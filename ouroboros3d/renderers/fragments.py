"""Compositing over the K nearest splats of each pixel, found by PyTorch3D's point rasterizer."""

import torch
from pytorch3d.renderer.points.rasterize_points import rasterize_points
from torch import Tensor

from ouroboros3d.renderers.projection import MAX_ALPHA, MIN_ALPHA, Splats
from ouroboros3d.renderers.gaussian_tiles import TileLists

# Below this transmittance a pixel counts as saturated: what lies behind cannot change it by more than this.
SATURATED = 1e-5


class _Tiles:
    """Tiles as the packed point clouds that `rasterize_points` reads: one cloud, and one image, a tile.

    `pytorch3d.structures.Pointclouds` would build lists and padded copies of thousands of clouds first.
    """

    def __init__(self, points: Tensor, start: Tensor, length: Tensor) -> None:
        self._N, self._P = 1, points.shape[0]
        self._points, self._start, self._length = points, start, length

    def points_packed(self) -> Tensor:
        return self._points

    def cloud_to_packed_first_idx(self) -> Tensor:
        return self._start

    def num_points_per_cloud(self) -> Tensor:
        return self._length

    def padded_to_packed_idx(self) -> Tensor:
        return torch.arange(self._P, device=self._points.device)


@torch.no_grad()
def _nearest(splats: Splats, lists: TileLists, chosen: Tensor, tile_size: int, limit: int) -> Tensor:
    """Pairs [t, rows, columns, limit] (-1 = none) of the splats nearest to each pixel of the chosen tiles."""
    pair = _expand(lists.start[chosen], lists.length[chosen])
    length = lists.length[chosen]
    start = length.cumsum(0) - length
    x, y = _corners(lists, chosen, tile_size)
    owner = torch.repeat_interleave(length)
    splat = lists.splat[pair]
    half = tile_size / 2
    centre = splats.geometry[:2].reshape(2, -1)[:, splat]
    # PyTorch3D's normalised coordinates: +x left, +y up, the image from 1 to -1. The rank stands in for z: no ties.
    points = torch.stack(
        [
            1 - (centre[0] - x[owner]) / half,
            1 - (centre[1] - y[owner]) / half,
            (pair - lists.start[chosen][owner]) + 1.0,
        ],
        dim=-1,
    ).float()
    # Slightly wider than exact: the shading drops what is below 1/255, so rounding here cannot lose a fragment.
    radius = (splats.radius.flatten()[splat] / half * (1 + 1e-5) + 1e-5).float()
    index, _, _ = rasterize_points(_Tiles(points, start, length), tile_size, radius[None], limit, bin_size=0)
    return torch.where(index >= 0, pair[index.clamp_min(0).long()], -1)


def _expand(start: Tensor, length: Tensor) -> Tensor:
    """The concatenated ranges start[i] ... start[i] + length[i] - 1."""
    owner = torch.repeat_interleave(length)
    return torch.arange(owner.shape[0], device=start.device) + (start - (length.cumsum(0) - length))[owner]


def _corners(lists: TileLists, chosen: Tensor, tile_size: int) -> tuple[Tensor, Tensor]:
    """Left and top edges of tiles, pixels."""
    tile = lists.tile[chosen]
    return tile % lists.across * tile_size, tile // lists.across % lists.down * tile_size


def _shade(splats: Splats, lists: TileLists, chosen: Tensor, index: Tensor, tile_size: int) -> tuple[Tensor, Tensor]:
    """Sums [t, rows, columns, 8] and transmittance [t, rows, columns, K + 1]."""
    x, y = _corners(lists, chosen, tile_size)
    pixel = torch.arange(tile_size, device=index.device) + 0.5
    splat = torch.where(index >= 0, lists.splat[index.clamp_min(0)], 0) if lists.splat.numel() else index
    centre_x, centre_y, shear, across, along, opacity = splats.geometry.reshape(6, -1)[:, splat.flatten()].reshape(
        6, *splat.shape
    )
    dx = (x[:, None] + pixel)[:, None, :, None] - centre_x
    dy = (y[:, None] + pixel)[:, :, None, None] - centre_y
    exponent = (across * (dx - shear * dy)).square() + (along * dy).square()
    alpha = opacity * torch.exp(-0.5 * exponent)
    alpha = torch.where((index >= 0) & (alpha >= MIN_ALPHA), alpha.clamp_max(MAX_ALPHA), 0.0)
    transmittance = torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha], dim=-1).cumprod(-1)
    weight = alpha * transmittance[..., :-1]
    features = splats.features.reshape(7, -1)[:, splat.flatten()].reshape(7, *splat.shape)
    sums = torch.cat([(features * weight).sum(-1), weight.sum(-1)[None]]).movedim(0, -1)
    return sums, transmittance


def composite_fragments(
    splats: Splats, lists: TileLists, tile_size: int, points_per_pixel: int, max_points_per_pixel: int
) -> tuple[Tensor, Tensor]:
    """Composite the tiles front to back.

    Returns:
        sums [T, rows, columns, 8] of weight times (features, 1), and how many pixels were cut at the largest K.
    """
    sums = splats.geometry.new_zeros(lists.tile.shape[0], tile_size, tile_size, 8)
    truncated = torch.zeros((), device=sums.device, dtype=sums.dtype)
    waiting = torch.arange(lists.tile.shape[0], device=sums.device)
    limit = points_per_pixel
    while waiting.numel():
        index = _nearest(splats, lists, waiting, tile_size, limit + 1)
        # One more than K was asked for, so that a pixel with exactly K splats does not count as cut.
        cut = index[..., limit] >= 0
        index = index[..., :limit]
        last_round = limit >= max_points_per_pixel
        with torch.no_grad():
            cut = cut & (_shade(splats, lists, waiting, index, tile_size)[1][..., -1] > SATURATED)
        again = cut.flatten(1).any(1) & (not last_round)
        done = ~again
        shaded, _ = _shade(splats, lists, waiting[done], index[done], tile_size)
        sums = sums.index_copy(0, waiting[done], shaded)
        truncated += cut[done].sum()
        waiting = waiting[again]
        limit = min(4 * limit, max_points_per_pixel)
    return sums, truncated

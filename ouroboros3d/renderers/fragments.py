"""Compositing over the K nearest splats of each pixel, found by PyTorch3D's point rasterizer."""

import torch
from pytorch3d.renderer.points.rasterize_points import rasterize_points
from torch import Tensor

from ouroboros3d.renderers.compositing import SATURATED
from ouroboros3d.renderers.gaussian_tiles import TileLists, ranges
from ouroboros3d.renderers.projection import MAX_ALPHA, MIN_ALPHA, Splats

_CUDA_LIMIT = 149  # PyTorch3D's CUDA rasterizer keeps up to 150 points a pixel; one tells whether there are more


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


def _nearest(splats: Splats, lists: TileLists, chosen: Tensor, tile_size: int, limit: int) -> Tensor:
    """Splats [t, pixels, limit] (flattened index, -1 = none) nearest to each pixel of the chosen tiles."""
    owner, rank = ranges(lists.length[chosen])
    splat = lists.splat[lists.start[chosen][owner] + rank]
    left, top = (edge[owner] for edge in _corners(lists, chosen, tile_size))
    half = tile_size / 2
    x, y = splats.geometry[:2].reshape(2, -1)[:, splat]
    # PyTorch3D's normalised coordinates: +x left, +y up, the image from 1 to -1. The rank stands in for z: no ties.
    points = torch.stack([1 - (x - left) / half, 1 - (y - top) / half, rank + 1.0], dim=-1).float()
    # Slightly wider than exact: the shading drops what is below 1/255, so rounding here cannot lose a fragment.
    radius = (splats.radius.flatten()[splat] / half * (1 + 1e-5) + 1e-5).float()
    length = lists.length[chosen]
    clouds = _Tiles(points, length.cumsum(0) - length, length)
    index, _, _ = rasterize_points(clouds, tile_size, radius[None], limit, bin_size=0)
    index = index.long().flatten(1, 2)
    return torch.where(index >= 0, splat[index.clamp_min(0)], -1)


def _corners(lists: TileLists, chosen: Tensor, tile_size: int) -> tuple[Tensor, Tensor]:
    """Left and top edges of tiles, pixels."""
    tile = lists.tile[chosen]
    return tile % lists.across * tile_size, tile // lists.across % lists.down * tile_size


def _alphas(splats: Splats, lists: TileLists, chosen: Tensor, index: Tensor, tile_size: int) -> tuple[Tensor, Tensor]:
    """Alpha [F] of the fragments that count, and their places [F] in the flattened `index` [t, pixels, K]."""
    place = (index.flatten() >= 0).nonzero()[:, 0]
    pixel = place // index.shape[-1]
    left, top = _corners(lists, chosen, tile_size)
    tile, within = pixel // tile_size**2, pixel % tile_size**2
    splat = index.flatten()[place]
    x, y, shear, across, along, opacity = (row[splat] for row in splats.geometry.flatten(1))
    dx = left[tile] + within % tile_size + 0.5 - x
    dy = top[tile] + within // tile_size + 0.5 - y
    alpha = opacity * torch.exp(-0.5 * ((across * (dx - shear * dy)).square() + (along * dy).square()))
    counts = (alpha >= MIN_ALPHA).nonzero()[:, 0]
    return alpha[counts].clamp_max(MAX_ALPHA), place[counts]


def _composite(splats: Splats, index: Tensor, alpha: Tensor, place: Tensor) -> Tensor:
    """Sums [t, 8, pixels] of weight times (features, 1) from the fragments' alpha, front to back along `index`."""
    pixel = place // index.shape[-1]
    # Transmittance in front of each fragment: one running sum of logarithms over all pixels, less its value where the
    # pixel begins; in double precision, since the sum grows with the number of pixels.
    through = torch.log1p(-alpha.double()).cumsum(0)
    through = torch.cat([through.new_zeros(1), through])
    first = torch.searchsorted(pixel, pixel)
    weight = alpha * torch.exp(through[:-1] - through[first]).to(alpha.dtype)
    splat = index.flatten()[place]
    tiles, pixels = index.shape[:2]
    sums = [
        weight.new_zeros(tiles * pixels).index_add(0, pixel, weight * row[splat]) for row in splats.features.flatten(1)
    ]
    sums.append(weight.new_zeros(tiles * pixels).index_add(0, pixel, weight))
    return torch.stack(sums).view(8, tiles, pixels).transpose(0, 1)


@torch.no_grad()
def _left_over(index: Tensor, alpha: Tensor, place: Tensor) -> Tensor:
    """Transmittance [t, pixels] behind the K splats."""
    logs = torch.log1p(-alpha)
    pixels = index.shape[0] * index.shape[1]
    return logs.new_zeros(pixels).index_add(0, place // index.shape[-1], logs).exp().view(index.shape[:2])


def composite_fragments(
    splats: Splats,
    lists: TileLists,
    tile_size: int,
    height: int,
    width: int,
    points_per_pixel: int,
    max_points_per_pixel: int,
) -> tuple[Tensor, Tensor]:
    """Composite the tiles front to back, first with `points_per_pixel` splats a pixel, then with 4 times as many ...

    Args:
        splats: [M, N].
        lists: the tiles.
        tile_size: pixels on a side.
        height: of the image, pixels.
        width: of the image, pixels.
        points_per_pixel: K of the first round.
        max_points_per_pixel: K of the last round; at most 149 on CUDA.

    Returns:
        sums [T, 8, pixels] of weight times (features, 1), and the share [] of covered pixels cut at the largest K.
    """
    tiles = lists.tile.shape[0]
    sums = splats.geometry.new_zeros(tiles, 8, tile_size**2)
    sums = sums + splats.features[:, :, :0].sum()  # part of the graph even where no tile has a splat
    truncated = torch.zeros(tiles, tile_size**2, dtype=torch.bool, device=sums.device)
    if sums.is_cuda:
        max_points_per_pixel = min(max_points_per_pixel, _CUDA_LIMIT)
    waiting = torch.arange(tiles, device=sums.device)
    left, top = _corners(lists, waiting, tile_size)
    pixel = torch.arange(tile_size**2, device=sums.device)
    # Pixels of border tiles beyond the image count for nothing.
    inside = (left[:, None] + pixel % tile_size < width) & (top[:, None] + pixel // tile_size < height)
    limit = min(points_per_pixel, max_points_per_pixel)
    while waiting.numel():
        with torch.no_grad():
            # One more than K is asked for, so that a pixel with exactly K splats does not count as cut.
            index = _nearest(splats, lists, waiting, tile_size, min(limit, int(lists.length[waiting].max())) + 1)
            cut = (index[..., -1] >= 0) & inside[waiting]
            index = index[..., :-1].contiguous()
            alpha, place = _alphas(splats, lists, waiting, index, tile_size)
            # A pixel that is full behind its K splats has lost nothing visible.
            cut &= _left_over(index, alpha, place) > SATURATED
            again = cut.any(1) if limit < max_points_per_pixel else torch.zeros_like(cut[:, 0])
        done = waiting[~again]
        truncated[done] = cut[~again]
        index = index[~again]
        alpha, place = _alphas(splats, lists, done, index, tile_size)
        sums = sums.index_copy(0, done, _composite(splats, index, alpha, place))
        waiting = waiting[again]
        limit = min(4 * limit, max_points_per_pixel)
    covered = (sums[:, 7] > 0) & inside | truncated
    return sums, truncated.sum() / covered.sum().clamp_min(1)

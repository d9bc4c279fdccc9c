"""Compositing of sorted tile lists: every splat of a tile against every pixel of the tile, in dense blocks."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ouroboros3d.renderers.projection import MAX_ALPHA, MIN_ALPHA
from ouroboros3d.renderers.gaussian_tiles import TileLists

# Below this transmittance a pixel is full: whatever lies behind cannot change it by more than that.
SATURATED = 1e-5
_BLOCK = 16  # splats composited at a time
_ELEMENTS = 1 << 18  # values in a block's buffers: a few of them fit into a core's cache


def pixel_basis(tile_size: int, like: Tensor) -> Tensor:
    """[6, pixels] the monomials x^2, xy, x, y^2, y, 1 at a tile's pixel centres, seen from the tile's centre."""
    line = torch.arange(tile_size, device=like.device, dtype=like.dtype) + (0.5 - tile_size / 2)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x * x, x * y, x, y * y, y, torch.ones_like(x)]).flatten(1)


class _Local(NamedTuple):
    """Pair-wise terms of the exponent in the tile's frame: t = x - shear * y + shift, y' = y - v."""

    shear: Tensor
    precision_t: Tensor
    precision_y: Tensor
    shift: Tensor
    v: Tensor
    opacity: Tensor


def _localise(geometry: Tensor, lists: TileLists, tile_size: int) -> _Local:
    """[P] terms of each (tile, splat) pair from geometry [6, S]."""
    tile = torch.repeat_interleave(lists.tile, lists.length, output_size=lists.splat.shape[0])
    centre_x, centre_y, shear, across, along, opacity = geometry.t().contiguous()[lists.splat].unbind(-1)
    u = centre_x - (tile % lists.across * tile_size + tile_size / 2)
    v = centre_y - (tile // lists.across % lists.down * tile_size + tile_size / 2)
    return _Local(shear, across.square(), along.square(), shear * v - u, v, opacity)


def _exponent_coefficients(local: _Local) -> Tensor:
    """[P + 1, 6] coefficients on `pixel_basis` of log(opacity) - (y1^2 + y2^2) / 2; the last row is an absent splat."""
    shear, precision_t, precision_y, shift, v, opacity = local
    sheared = precision_t * shear
    rows = torch.empty(shear.shape[0] + 1, 6, device=shear.device, dtype=shear.dtype)
    pairs = rows[:-1]
    pairs[:, 0] = -0.5 * precision_t
    pairs[:, 1] = sheared
    pairs[:, 2] = -precision_t * shift
    pairs[:, 3] = -0.5 * (sheared * shear + precision_y)
    pairs[:, 4] = sheared * shift + precision_y * v
    pairs[:, 5] = opacity.log() - 0.5 * (precision_t * shift.square() + precision_y * v.square())
    rows[-1] = 0
    rows[-1, 5] = -1e4
    return rows


class _Block(NamedTuple):
    """Up to `_BLOCK` successive splats of some tiles.

    tiles: [t] which of the non-empty tiles.
    pairs: [k, t] their (tile, splat) pairs; P where a tile has no more.
    transmittance: [t, pixels] in front of the block.
    """

    tiles: Tensor
    pairs: Tensor
    transmittance: Tensor


def _alphas(coefficients: Tensor, basis: Tensor, pairs: Tensor) -> Tensor:
    """[k, t, pixels] clamped at 0.99, zero below 1/255."""
    alpha = coefficients[pairs.flatten()] @ basis
    alpha.exp_()
    torch.nn.functional.threshold_(alpha, MIN_ALPHA, 0.0)
    return alpha.clamp_max_(MAX_ALPHA).view(*pairs.shape, -1)


def _transmittances(alpha: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """[k, t, pixels] in front of each splat, and [t, pixels] behind the last."""
    remain = 1 - alpha
    before = torch.empty_like(alpha)
    before[0] = first
    for k in range(1, alpha.shape[0]):
        torch.mul(before[k - 1], remain[k - 1], out=before[k])
    return before, before[-1] * remain[-1]


def _groups(lists: TileLists, pixels: int) -> Iterator[Tensor]:
    """Non-empty tiles, those with the longest lists first, in groups that fill a block's buffers."""
    order = lists.length.argsort(descending=True, stable=True)
    yield from order.split(max(1, _ELEMENTS // (_BLOCK * pixels)))


class _Composite(torch.autograd.Function):
    """Front-to-back sums with a backward pass that recomputes the weights block by block."""

    @staticmethod
    def forward(ctx: FunctionCtx, geometry: Tensor, features: Tensor, lists: TileLists, tile_size: int) -> Tensor:
        basis = pixel_basis(tile_size, geometry)
        pixels = basis.shape[1]
        tiles, pairs = lists.tile.shape[0], lists.splat.shape[0]
        coefficients = _exponent_coefficients(_localise(geometry, lists, tile_size))
        table = torch.cat([features, torch.ones_like(features[:1])]).t().contiguous()
        splat = torch.cat([lists.splat, lists.splat.new_zeros(1)])
        sums = geometry.new_zeros(tiles, 8, pixels)
        blocks = []
        for active in _groups(lists, pixels):
            remaining = geometry.new_ones(active.shape[0], pixels)
            begin = 0
            while True:
                length = lists.length[active]
                go_on = (length > begin) & (remaining.amax(1) > SATURATED)
                if not bool(go_on.all()):
                    active, remaining, length = active[go_on], remaining[go_on], length[go_on]
                if active.shape[0] == 0:
                    break
                steps = min(_BLOCK, int(length.max()) - begin)
                rank = torch.arange(begin, begin + steps, device=length.device)[:, None]
                block = torch.where(rank < length, lists.start[active] + rank, pairs)
                blocks.append(_Block(active, block, remaining))
                alpha = _alphas(coefficients, basis, block)
                before, remaining = _transmittances(alpha, remaining)
                weight = before.mul_(alpha)
                gathered = table[splat[block.flatten()]].view(*block.shape, 8)
                sums[active] += torch.bmm(gathered.permute(1, 2, 0), weight.permute(1, 0, 2))
                begin += steps
        ctx.save_for_backward(geometry, features)
        ctx.blocks, ctx.lists, ctx.tile_size = blocks, lists, tile_size
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        geometry, features = ctx.saved_tensors
        lists = ctx.lists
        basis = pixel_basis(ctx.tile_size, geometry)
        pixels = basis.shape[1]
        pairs = lists.splat.shape[0]
        local = _localise(geometry, lists, ctx.tile_size)
        coefficients = _exponent_coefficients(local)
        table = torch.cat([features, torch.ones_like(features[:1])]).t().contiguous()
        splat = torch.cat([lists.splat, lists.splat.new_zeros(1)])
        moments = geometry.new_zeros(pairs + 1, 6)
        grad_pairs = geometry.new_zeros(pairs + 1, 8)
        behind = geometry.new_zeros(lists.tile.shape[0], pixels)
        for active, block, first in reversed(ctx.blocks):
            alpha = _alphas(coefficients, basis, block)
            before, _ = _transmittances(alpha, first)
            weight = before * alpha
            incoming = grad[active]
            gathered = table[splat[block.flatten()]].view(*block.shape, 8)
            gain = torch.empty_like(alpha)
            torch.bmm(gathered.transpose(0, 1), incoming, out=gain.transpose(0, 1))
            grad_pairs[block.flatten()] = torch.bmm(weight.transpose(0, 1), incoming.transpose(1, 2)).transpose(
                0, 1
            ).reshape(-1, 8)
            # d sum / d alpha_k = T_k gain_k - (sum of weight * gain behind k) / (1 - alpha_k)
            weight.mul_(gain)
            gain.mul_(before)
            later = behind[active]
            suffix = before
            for k in range(alpha.shape[0] - 1, -1, -1):
                suffix[k] = later
                later += weight[k]
            behind[active] = later
            gain.sub_(suffix.div_(1 - alpha))
            # Below 1/255 alpha is zero here; at the clamp of 0.99 the derivative is.
            gain.mul_(alpha).masked_fill_(alpha >= MAX_ALPHA, 0.0)
            moments[block.flatten()] = gain.view(-1, pixels) @ basis.t()
        grad_geometry = _grad_geometry(moments[:-1], local, geometry, lists)
        grad_features = torch.zeros_like(features.t()).index_add_(0, lists.splat, grad_pairs[:-1, :7]).t()
        return grad_geometry, grad_features, None, None


def _grad_geometry(moments: Tensor, local: _Local, geometry: Tensor, lists: TileLists) -> Tensor:
    """Gradient [6, S] of the geometry from the gradients [P, 6] of the exponent's coefficients on the pixel basis."""
    shear, precision_t, precision_y, shift, v, _ = local
    xx, xy, x, yy, y, one = moments.unbind(-1)
    # Moments of t = x - shear * y + shift and y' = y - v.
    t = x - shear * y + shift * one
    tx = xx - shear * xy + shift * x
    ty = xy - shear * yy + shift * y
    tt = tx - shear * ty + shift * t
    y_own = y - v * one
    per_pair = torch.stack([tt, ty - v * t, t, yy - v * (y + y_own), y_own, one], dim=-1)
    sums = torch.zeros(geometry.shape[1], 6, device=geometry.device, dtype=geometry.dtype)
    tt, ty, t, yy, y, one = sums.index_add_(0, lists.splat, per_pair).unbind(-1)
    _, _, shear, across, along, opacity = geometry
    grad_x = across.square() * t
    return torch.stack(
        [
            grad_x,
            along.square() * y - shear * grad_x,
            across.square() * ty,
            -across * tt,
            -along * yy,
            torch.where(one == 0, 0.0, one / opacity),
        ]
    )


def composite_tiles(geometry: Tensor, features: Tensor, lists: TileLists, tile_size: int) -> Tensor:
    """Composite the listed splats of every non-empty tile front to back.

    Args:
        geometry: [6, S] as `Splats.geometry`, flattened over images and splats.
        features: [7, S] as `Splats.features`.
        lists: the tiles.
        tile_size: pixels on a side.

    Returns:
        [T, rows, columns, 8] sums of weight times (features, 1), differentiable in geometry and features.
    """
    sums: Tensor = _Composite.apply(geometry, features, lists, tile_size)
    return sums.view(-1, 8, tile_size, tile_size).permute(0, 2, 3, 1)

"""Compositing of sorted tile lists: every splat of a tile against every pixel of the tile, in dense blocks."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ouroboros3d.renderers.gaussian_tiles import TileLists
from ouroboros3d.renderers.projection import MAX_ALPHA, MIN_ALPHA

# Below this transmittance a pixel is full: whatever lies behind cannot change it by more than that.
SATURATED = 1e-6
_LOG2_E = math.log2(math.e)  # exp2 is the faster exponential, also where it underflows
_BLOCK = 16  # splats composited at a time
_ELEMENTS = 1 << 19  # values in a block's buffers: a few of them fit into a core's cache


def pixel_basis(tile_size: int, like: Tensor) -> Tensor:
    """[6, pixels] the monomials x^2, xy, x, y^2, y, 1 at a tile's pixel centres, seen from the tile's centre."""
    line = torch.arange(tile_size, device=like.device, dtype=like.dtype) + (0.5 - tile_size / 2)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x * x, x * y, x, y * y, y, torch.ones_like(x)]).flatten(1)


class _Blocks(NamedTuple):
    """Tile lists cut into blocks of `_BLOCK` splats, the last block of a tile filled up with absent splats.

    splat: [n * _BLOCK] index into the flattened splats, S = absent.
    first: [T] the tiles' first blocks.
    centre: [2, n] x and y of the blocks' tile centres, pixels.
    """

    splat: Tensor
    first: Tensor
    centre: Tensor


def _cut(lists: TileLists, splats: int, tile_size: int, dtype: torch.dtype) -> _Blocks:
    count = (lists.length + _BLOCK - 1) // _BLOCK
    first = count.cumsum(0) - count
    tile = torch.repeat_interleave(count)
    place = torch.repeat_interleave(first * _BLOCK - lists.start, lists.length, output_size=lists.splat.shape[0])
    place += torch.arange(place.shape[0], device=place.device)
    splat = lists.splat.new_full((tile.shape[0] * _BLOCK,), splats).scatter_(0, place, lists.splat)
    corner = torch.stack([lists.tile % lists.across, lists.tile // lists.across % lists.down]) * tile_size
    return _Blocks(splat, first, (corner.to(dtype) + tile_size / 2)[:, tile])


class _Pairs(NamedTuple):
    """What the blocks' (tile, splat) pairs need of their splats, in the tiles' frames.

    t = x - shear * y + shift and y' = y - v, with x and y seen from the tile's centre, are a pixel's distances from the
    splat along its skewed axes.

    coefficients: [6, n, _BLOCK] of log2 of the weight times opacity on `pixel_basis`.
    features: [8, n, _BLOCK] features and a one.
    shear: [n, _BLOCK]
    shift: [n, _BLOCK]
    v: [n, _BLOCK]
    """

    coefficients: Tensor
    features: Tensor
    shear: Tensor
    shift: Tensor
    v: Tensor


def _gather_pairs(geometry: Tensor, features: Tensor, blocks: _Blocks) -> _Pairs:
    x, y, shear, across, along, opacity = geometry
    rows = [x, y, shear, across.square() * (0.5 * _LOG2_E), along.square() * (0.5 * _LOG2_E)]
    # An absent splat has zeros, and a weight that underflows to zero.
    rows = [torch.cat([row, row.new_zeros(1)]) for row in (*rows, *features)]
    rows.append(torch.cat([opacity.clamp_min(1e-30).log2(), opacity.new_tensor([-1e4])]))
    x, y, shear, half_t, half_y, *features_of_pair, log_opacity = (
        row.index_select(0, blocks.splat).view(-1, _BLOCK) for row in rows
    )
    v = y - blocks.centre[1, :, None]
    shift = shear * v - (x - blocks.centre[0, :, None])
    sheared, shifted = half_t * shear, half_t * shift
    coefficients = torch.stack(
        [
            -half_t,
            2 * sheared,
            -2 * shifted,
            -(sheared * shear + half_y),
            2 * (sheared * shift + half_y * v),
            log_opacity - shifted * shift - half_y * v * v,
        ]
    )
    return _Pairs(coefficients, torch.stack([*features_of_pair, torch.ones_like(v)]), shear, shift, v)


def _alphas(coefficients: Tensor, basis: Tensor, rows: Tensor) -> Tensor:
    """[t, _BLOCK, pixels] of the blocks `rows` [t], clamped at 0.99, zero below 1/255."""
    alpha = coefficients.index_select(1, rows).view(6, -1).t() @ basis
    alpha.exp2_()
    torch.nn.functional.threshold_(alpha, MIN_ALPHA, 0.0)
    return alpha.clamp_max_(MAX_ALPHA).view(rows.shape[0], _BLOCK, -1)


def _transmittances(alpha: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Transmittance [t, k, pixels] in front of each splat, [t, pixels] behind the last, and 1 - alpha."""
    remain = 1 - alpha
    before = torch.empty_like(alpha)
    layers, factors = before.unbind(1), remain.unbind(1)
    layers[0].copy_(first)
    for k in range(1, len(layers)):
        torch.mul(layers[k - 1], factors[k - 1], out=layers[k])
    # Full pixels take nothing more; their products would soon be denormal numbers, which are slow.
    behind = torch.nn.functional.threshold_(layers[-1] * factors[-1], SATURATED, 0.0)
    return before, behind, remain


class _Step(NamedTuple):
    """One block of each of some tiles, as composited.

    tiles: [t or more] tiles of the group, of which the first t take part.
    rows: [t] their blocks.
    first: [t, pixels] transmittance in front of the blocks.
    """

    tiles: Tensor
    rows: Tensor
    first: Tensor


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
        blocks = _cut(lists, geometry.shape[1], tile_size, geometry.dtype)
        pairs = _gather_pairs(geometry, features, blocks)
        sums = geometry.new_zeros(lists.tile.shape[0], 8, pixels)
        steps = []
        for tiles in _groups(lists, pixels):
            remaining = geometry.new_ones(tiles.shape[0], pixels)
            partial = geometry.new_zeros(tiles.shape[0], 8, pixels)
            length = lists.length[tiles]
            for step in range(-(-int(length[0]) // _BLOCK)):
                count = int((length > step * _BLOCK).sum())  # lengths descend: those that go on come first
                remaining = remaining[:count]
                alive = remaining.amax(1) > SATURATED
                left = int(alive.sum())
                if left < 0.8 * count:
                    sums.index_copy_(0, tiles, partial)
                    alive = alive.nonzero()[:, 0]
                    tiles, remaining, partial, length = tiles[alive], remaining[alive], partial[alive], length[alive]
                    count = left
                if count == 0:
                    break
                rows = blocks.first[tiles[:count]] + step
                steps.append(_Step(tiles, rows, remaining))
                alpha = _alphas(pairs.coefficients, basis, rows)
                before, remaining, _ = _transmittances(alpha, remaining)
                partial[:count].baddbmm_(pairs.features.index_select(1, rows).transpose(0, 1), before.mul_(alpha))
            sums.index_copy_(0, tiles, partial)
        ctx.save_for_backward(geometry)
        ctx.steps, ctx.blocks, ctx.pairs, ctx.tile_size = steps, blocks, pairs, tile_size
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (geometry,) = ctx.saved_tensors
        blocks, pairs = ctx.blocks, ctx.pairs
        basis = pixel_basis(ctx.tile_size, geometry)
        moments = torch.zeros_like(pairs.coefficients)
        grad_features = torch.zeros_like(pairs.features)
        behind = geometry.new_zeros(grad.shape[0], basis.shape[1])
        tiles = incoming = None
        for step in reversed(ctx.steps):
            count = step.rows.shape[0]
            if tiles is not step.tiles:
                tiles = step.tiles
                incoming = grad.index_select(0, tiles)
            alpha = _alphas(pairs.coefficients, basis, step.rows)
            before, _, remain = _transmittances(alpha, step.first)
            weight = before.mul_(alpha)
            found = torch.bmm(incoming[:count], weight.transpose(1, 2))
            grad_features.index_copy_(1, step.rows, found.transpose(0, 1))
            gain = torch.bmm(pairs.features.index_select(1, step.rows).permute(1, 2, 0), incoming[:count]).mul_(weight)
            # d sum / d alpha_k = T_k gain_k - (sum of weight * gain behind k) / (1 - alpha_k)
            suffix = weight
            layers, gains = suffix.unbind(1), gain.unbind(1)
            active = tiles[:count]
            layers[-1].copy_(behind[active])
            for k in range(len(layers) - 1, 0, -1):
                torch.add(layers[k], gains[k], out=layers[k - 1])
            behind.index_copy_(0, active, layers[0] + gains[0])
            exponent = gain.sub_(suffix.mul_(torch.div(alpha, remain, out=remain)))
            if bool(alpha.amax() >= MAX_ALPHA):
                exponent.masked_fill_(alpha >= MAX_ALPHA, 0.0)  # the clamp's derivative
            found = basis @ exponent.view(-1, basis.shape[1]).t()
            moments.index_copy_(1, step.rows, found.view(6, count, _BLOCK))
        return *_to_splats(moments, grad_features, pairs, geometry, blocks), None, None


def _to_splats(
    moments: Tensor, grad_features: Tensor, pairs: _Pairs, geometry: Tensor, blocks: _Blocks
) -> tuple[Tensor, Tensor]:
    """Gradients of geometry [6, S] and features [7, S] from those of the pairs' exponents' coefficients and features."""
    shear, shift, v = pairs.shear, pairs.shift, pairs.v
    xx, xy, x, yy, y, one = moments
    # Moments of t and y', which know no tile any more and add up over the tiles of a splat.
    t = x - shear * y + shift * one
    tx = xx - shear * xy + shift * x
    ty = xy - shear * yy + shift * y
    y_own = y - v * one
    rows = [tx - shear * ty + shift * t, ty - v * t, t, yy - v * (y + y_own), y_own, one, *grad_features[:7]]
    splats = geometry.shape[1]
    # One plain scatter a row: several times faster than adding rows of 13 values.
    sums = geometry.new_zeros(13, splats + 1)
    for total, row in zip(sums, rows, strict=True):
        total.scatter_add_(0, blocks.splat, row.flatten())
    tt, ty, t, yy, y, one = sums[:6, :splats]
    _, _, shear, across, along, opacity = geometry
    grad_x = across.square() * t
    grad_geometry = torch.stack(
        [
            grad_x,
            along.square() * y - shear * grad_x,
            across.square() * ty,
            -across * tt,
            -along * yy,
            torch.where(one == 0, 0.0, one / opacity),
        ]
    )
    return grad_geometry, sums[6:, :splats]


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

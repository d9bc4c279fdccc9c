"""Compositing of sorted tile lists: every splat of a tile against every pixel of the tile, in dense blocks.

The exponent of a splat's weight is a quadratic polynomial of the pixel, so the exponents of a block of splats at a
tile's pixels are one matrix product with the monomials at the pixels, and the sums over pixels that the backward pass
needs are another. Nothing is gathered per pixel; what lies outside of a splat costs a multiplication by zero.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ouroboros3d.renderers.gaussian_tiles import TileLists, ranges
from ouroboros3d.renderers.projection import MAX_ALPHA, MIN_ALPHA

# Below this transmittance a pixel is full: whatever lies behind cannot change it by more than that.
SATURATED = 1e-6
_LOG2_E = math.log2(math.e)  # exp2 is the faster exponential, also where it underflows
_BLOCK = 16  # splats composited at a time
_ELEMENTS = 1 << 19  # values in a buffer: enough to hide the cost of a call, few enough for the cache


def _pixel_basis(tile_size: int, like: Tensor) -> Tensor:
    """[6, pixels] the monomials x^2, xy, x, y^2, y, 1 at a tile's pixel centres, seen from the tile's centre."""
    line = torch.arange(tile_size, device=like.device, dtype=like.dtype) + (0.5 - tile_size / 2)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x * x, x * y, x, y * y, y, torch.ones_like(x)]).flatten(1)


class _Plan(NamedTuple):
    """Tile lists cut into blocks of `_BLOCK` splats, stored in the order in which they are composited.

    Tiles are sorted by falling length and taken in groups. A step composites one block of each tile of a group that has
    any left, which are the first ones of the group, and so both its tiles and its blocks lie next to each other.

    order: [T] the sorted tiles.
    splat: [n * _BLOCK] index into the flattened splats, S where the last block of a tile is filled up.
    centre: [2, n] x and y of the blocks' tile centres, pixels.
    steps: for each group, how many tiles take part in each step.
    """

    order: Tensor
    splat: Tensor
    centre: Tensor
    steps: list[list[int]]


def _plan(lists: TileLists, splats: int, tile_size: int, dtype: torch.dtype) -> _Plan:
    per_group = max(1, _ELEMENTS // (_BLOCK * tile_size**2))
    order = lists.length.argsort(descending=True, stable=True)
    count = (lists.length[order] + _BLOCK - 1) // _BLOCK  # [T] blocks of each tile, falling
    tile, step = ranges(count)  # [blocks] whose block, and at which step of its group it is composited
    deepest = int(count[0]) if count.numel() else 1
    # Blocks are stored by group, then by step, then by tile: what a step composites is one slice. As the longest tiles
    # come first, those of a group that have blocks left are always its first ones.
    key, by_step = (tile // per_group * deepest + step).sort(stable=True)
    key, taking_part = torch.unique_consecutive(key, return_counts=True)
    steps: list[list[int]] = [[] for _ in range(-(-order.shape[0] // per_group))]
    for group, number in zip((key // deepest).tolist(), taking_part.tolist(), strict=True):
        steps[group].append(number)

    # Where block number i, counted tile by tile, is stored: the inverse of the sort. A pair of rank r in its tile then
    # has place r % _BLOCK of its tile's block r // _BLOCK; places that no pair takes keep S, the absent splat.
    block = torch.empty_like(by_step).scatter_(0, by_step, torch.arange(by_step.shape[0], device=by_step.device))
    pair_tile, rank = ranges(lists.length[order])
    first = count.cumsum(0) - count
    place = block[first[pair_tile] + rank // _BLOCK] * _BLOCK + rank % _BLOCK
    source = lists.start[order][pair_tile] + rank
    splat = source.new_full((tile.shape[0] * _BLOCK,), splats).scatter_(0, place, lists.splat[source])
    corner = torch.stack([lists.tile % lists.across, lists.tile // lists.across % lists.down]) * tile_size
    return _Plan(order, splat, (corner.to(dtype) + tile_size / 2)[:, order[tile[by_step]]], steps)


class _Pairs(NamedTuple):
    """What the blocks' (tile, splat) pairs need of their splats, in the tiles' frames.

    t = x - shear * y + shift and y' = y - v, with x and y seen from the tile's centre, are a pixel's distances from the
    splat along its skewed axes.

    coefficients: [6, n, _BLOCK] of log2 of the weight times opacity on `_pixel_basis`.
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


def _gather_pairs(geometry: Tensor, features: Tensor, plan: _Plan) -> _Pairs:
    x, y, shear, across, along, opacity = geometry
    rows = [x, y, shear, across.square() * (0.5 * _LOG2_E), along.square() * (0.5 * _LOG2_E)]
    # An absent splat has zeros, and a weight that underflows to zero.
    rows = [torch.cat([row, row.new_zeros(1)]) for row in (*rows, *features)]
    rows.append(torch.cat([opacity.clamp_min(1e-30).log2(), opacity.new_tensor([-1e4])]))
    x, y, shear, half_t, half_y, *features_of_pair, log_opacity = (
        row.index_select(0, plan.splat).view(-1, _BLOCK) for row in rows
    )
    v = y - plan.centre[1, :, None]
    shift = shear * v - (x - plan.centre[0, :, None])
    # -half_t t^2 - half_y y'^2 + log2(opacity), multiplied out into the monomials of `_pixel_basis`. Pixels are counted
    # from the tile's centre because squares of coordinates of the whole image would eat float32's digits.
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


_Index = slice | Tensor


class _Step(NamedTuple):
    """One block of each of t tiles, as composited.

    tiles: which of the sorted tiles.
    rows: which blocks.
    first: [t, pixels] transmittance in front of the blocks.
    """

    tiles: _Index
    rows: _Index
    first: Tensor


class _Buffers:
    """Working memory [t, _BLOCK, pixels] that the steps share: fresh memory for each would cost as much as the work."""

    def __init__(self, plan: _Plan, pixels: int, like: Tensor) -> None:
        self._most = max((counts[0] for counts in plan.steps), default=0)
        self._memory = like.new_empty(4, self._most * _BLOCK * pixels)
        self._pixels = pixels

    def views(self, tiles: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, remain, before, gain = self._memory[:, : tiles * _BLOCK * self._pixels].view(
            4, tiles, _BLOCK, self._pixels
        )
        return alpha, remain, before, gain


def _weigh(pairs: _Pairs, basis: Tensor, step: _Step, alpha: Tensor, remain: Tensor, before: Tensor) -> None:
    """Fill in alpha, clamped at 0.99 and zero below 1/255, 1 - alpha, and the transmittance in front of each splat."""
    torch.mm(pairs.coefficients[:, step.rows].flatten(1).t(), basis, out=alpha.view(-1, basis.shape[1]))
    alpha.clamp_min_(-9.0).exp2_()  # far below 1/255; exp2 is slow where it underflows
    torch.threshold_(alpha, MIN_ALPHA, 0.0)
    alpha.clamp_max_(MAX_ALPHA)
    torch.sub(1, alpha, out=remain)
    layers, factors = before.unbind(1), remain.unbind(1)
    layers[0].copy_(step.first)
    for k in range(1, _BLOCK):
        torch.mul(layers[k - 1], factors[k - 1], out=layers[k])


class _Context(FunctionCtx):
    """What the backward pass keeps."""

    saved_tensors: tuple[Tensor, ...]
    plan: _Plan
    pairs: _Pairs
    steps: list[_Step]
    tile_size: int


class _Composite(torch.autograd.Function):
    """Front-to-back sums with a backward pass that recomputes the weights block by block."""

    @staticmethod
    def forward(ctx: _Context, geometry: Tensor, features: Tensor, lists: TileLists, tile_size: int) -> Tensor:
        basis = _pixel_basis(tile_size, geometry)
        pixels = basis.shape[1]
        plan = _plan(lists, geometry.shape[1], tile_size, geometry.dtype)
        pairs = _gather_pairs(geometry, features, plan)
        buffers = _Buffers(plan, pixels, geometry)
        sums = geometry.new_zeros(plan.order.shape[0], 8, pixels)
        done = []
        first_tile = first_row = 0
        for counts in plan.steps:
            live: Tensor | None = None  # places in the group of the tiles that are not full yet; None for all
            remaining = geometry.new_ones(counts[0], pixels)
            for row, count in zip(_starts(counts, first_row), counts, strict=True):
                if live is not None:
                    live = live[live < count]
                    count = live.shape[0]
                remaining = remaining[:count]
                open_tiles = (remaining.amax(1) > SATURATED).nonzero()[:, 0]
                # Full tiles are dropped a fifth at a time: from then on rows are copied, where a slice is free.
                if open_tiles.shape[0] < 0.8 * count:
                    live = open_tiles if live is None else live[open_tiles]
                    remaining = remaining[open_tiles]
                    count = live.shape[0]
                if count == 0:
                    break
                tiles: _Index = slice(first_tile, first_tile + count) if live is None else live + first_tile
                rows: _Index = slice(row, row + count) if live is None else live + row
                step = _Step(tiles, rows, remaining)
                done.append(step)
                alpha, remain, before, _ = buffers.views(count)
                _weigh(pairs, basis, step, alpha, remain, before)
                # Full pixels take nothing more; their products would soon be denormal numbers, which are slow.
                remaining = torch.threshold_(before[:, -1] * remain[:, -1], SATURATED, 0.0)
                # [t, 8, _BLOCK] @ [t, _BLOCK, pixels]: the sums over the block's splats, of all features at once.
                weighted = torch.bmm(pairs.features[:, rows].transpose(0, 1), before.mul_(alpha))
                sums[tiles] += weighted
            first_tile += counts[0]
            first_row += sum(counts)
        ctx.save_for_backward(geometry)
        ctx.plan, ctx.pairs, ctx.steps, ctx.tile_size = plan, pairs, done, tile_size
        return torch.empty_like(sums).index_copy_(0, plan.order, sums)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (geometry,) = ctx.saved_tensors
        plan, pairs = ctx.plan, ctx.pairs
        basis = _pixel_basis(ctx.tile_size, geometry)
        pixels = basis.shape[1]
        buffers = _Buffers(plan, pixels, geometry)
        grad = grad.index_select(0, plan.order)
        moments = torch.zeros_like(pairs.coefficients)
        grad_features = torch.zeros_like(pairs.features)
        behind = geometry.new_zeros(grad.shape[0], pixels)  # sum of weight * gain of everything behind
        for step in reversed(ctx.steps):
            incoming = grad[step.tiles]  # [t, 8, pixels]
            alpha, remain, before, gain = buffers.views(incoming.shape[0])
            _weigh(pairs, basis, step, alpha, remain, before)
            weight = before.mul_(alpha)
            grad_features[:, step.rows] = torch.bmm(incoming, weight.transpose(1, 2)).transpose(0, 1)
            # gain: what one more unit of a splat's weight at a pixel would add to the loss, [t, _BLOCK, pixels].
            torch.bmm(pairs.features[:, step.rows].permute(1, 2, 0), incoming, out=gain)
            gain.mul_(weight)
            # d sum / d log(alpha_k) = weight_k gain_k - alpha_k / (1 - alpha_k) * (sum of weight * gain behind k)
            suffix = weight
            layers, gains = suffix.unbind(1), gain.unbind(1)
            layers[-1].copy_(behind[step.tiles])
            for k in range(_BLOCK - 1, 0, -1):
                torch.add(layers[k], gains[k], out=layers[k - 1])
            behind[step.tiles] = layers[0] + gains[0]
            gain.sub_(suffix.mul_(torch.div(alpha, remain, out=remain)))
            gain.mul_(torch.lt(alpha, MAX_ALPHA, out=remain))  # the clamp's derivative
            # log(alpha) is linear in its six coefficients: their gradients are sums over pixels of gain times monomial.
            moments[:, step.rows] = (basis @ gain.view(-1, pixels).t()).view(6, -1, _BLOCK)
        return *_to_splats(moments, grad_features, pairs, geometry, plan), None, None


def _starts(counts: list[int], first: int) -> list[int]:
    """Where each of successive runs of these lengths begins."""
    return [first + sum(counts[:i]) for i in range(len(counts))]


def _to_splats(
    moments: Tensor, grad_features: Tensor, pairs: _Pairs, geometry: Tensor, plan: _Plan
) -> tuple[Tensor, Tensor]:
    """Gradients of geometry [6, S] and features [7, S] from those of the pairs' coefficients and features."""
    shear, shift, v = pairs.shear, pairs.shift, pairs.v
    xx, xy, x, yy, y, one = moments  # [n, _BLOCK] each: sums over pixels of d loss / d log(alpha) times the monomial
    # Moments of t and y', which know no tile any more and add up over the tiles of a splat: t^2, t y', t, y'^2, y', 1.
    t = x - shear * y + shift * one
    tx = xx - shear * xy + shift * x
    ty = xy - shear * yy + shift * y
    y_own = y - v * one
    rows = [tx - shear * ty + shift * t, ty - v * t, t, yy - v * (y + y_own), y_own, one, *grad_features[:7]]
    splats = geometry.shape[1]
    # One plain scatter a row: several times faster than adding rows of 13 values.
    sums = geometry.new_zeros(13, splats + 1)
    for total, row in zip(sums, rows, strict=True):
        total.scatter_add_(0, plan.splat, row.flatten())
    tt, ty, t, yy, y, one = sums[:6, :splats]
    _, _, shear, across, along, opacity = geometry
    # Derivatives of log(alpha) = log(opacity) - ((across t)^2 + (along y')^2) / 2, in the order of `Splats.geometry`.
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
        [T, 8, pixels] sums of weight times (features, 1), differentiable in geometry and features.
    """
    sums: Tensor = _Composite.apply(geometry, features, lists, tile_size)  # type: ignore[no-untyped-call]
    return sums

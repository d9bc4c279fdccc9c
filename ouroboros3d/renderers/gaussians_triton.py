"""Compositing of sorted tile lists in two fused Triton kernels for CUDA.

Tested with Triton's interpreter on a CPU against the torch backend; speed on a GPU is not measured yet. One program
composites one tile, a block of splats at a time, with nothing in memory but its inputs, its sums and, in the backward
pass, the splats' gradients. Programs add these up atomically, in another order each time, so they are not bit for bit
repeatable.
"""

# Triton's language has no types for Python's checkers.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disable-error-code="import-untyped"

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ouroboros3d.renderers.compositing import SATURATED
from ouroboros3d.renderers.gaussian_tiles import TileLists
from ouroboros3d.renderers.projection import MAX_ALPHA, MIN_ALPHA

_ELEMENTS = 1024  # (splat, pixel) pairs that a program holds in registers; twice as many spill in the backward pass
_FORWARD_WARPS, _BACKWARD_WARPS = 4, 8  # the fewest that do not spill, for compute capability 9.0

_MIN_ALPHA = tl.constexpr(MIN_ALPHA)
_MAX_ALPHA = tl.constexpr(MAX_ALPHA)
_SATURATED = tl.constexpr(SATURATED)


@triton.jit
def _multiply(a, b):
    return a * b


@triton.jit
def _add(a, b):
    return a + b


@triton.jit
def _pixel_centres(tile, across, down, SIZE: tl.constexpr):
    pixel = tl.arange(0, SIZE * SIZE)
    x = (tile % across) * SIZE + pixel % SIZE + 0.5
    y = (tile // across % down) * SIZE + pixel // SIZE + 0.5
    return x, y


@triton.jit
def _weigh(geometry, index, present, splats, x, y):
    """Of [k] splats at [p] pixels: alpha [k, p], skewed distances [k, p], and the splats' own terms [k, 1]."""
    centre_x = tl.load(geometry + index, mask=present, other=0.0)[:, None]
    centre_y = tl.load(geometry + splats + index, mask=present, other=0.0)[:, None]
    shear = tl.load(geometry + 2 * splats + index, mask=present, other=0.0)[:, None]
    across = tl.load(geometry + 3 * splats + index, mask=present, other=0.0)[:, None]
    along = tl.load(geometry + 4 * splats + index, mask=present, other=0.0)[:, None]
    opacity = tl.load(geometry + 5 * splats + index, mask=present, other=0.0)[:, None]
    dy = y[None, :] - centre_y
    t = x[None, :] - centre_x - shear * dy
    raw = opacity * tl.exp(-0.5 * (across * across * t * t + along * along * dy * dy))
    alpha = tl.where(raw > _MIN_ALPHA, tl.minimum(raw, _MAX_ALPHA), 0.0)
    return alpha, t, dy, shear, across, along, opacity


@triton.jit
def _forward(
    geometry,  # [6, splats]
    features,  # [7, splats]
    pairs,  # splat of each pair
    tiles,
    starts,
    lengths,
    sums,  # [T, 8, pixels]
    splats,
    across,
    down,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    x, y = _pixel_centres(tl.load(tiles + program), across, down, SIZE)
    start, length = tl.load(starts + program), tl.load(lengths + program).to(tl.int32)
    remaining = tl.full([SIZE * SIZE], 1.0, tl.float32)
    red = tl.zeros([SIZE * SIZE], tl.float32)
    green = tl.zeros([SIZE * SIZE], tl.float32)
    blue = tl.zeros([SIZE * SIZE], tl.float32)
    depth = tl.zeros([SIZE * SIZE], tl.float32)
    world_x = tl.zeros([SIZE * SIZE], tl.float32)
    world_y = tl.zeros([SIZE * SIZE], tl.float32)
    world_z = tl.zeros([SIZE * SIZE], tl.float32)
    total = tl.zeros([SIZE * SIZE], tl.float32)
    begin = 0
    while begin < length:
        rank = begin + tl.arange(0, BLOCK)
        present = rank < length
        index = tl.load(pairs + start + rank, mask=present, other=0)
        alpha, _, _, _, _, _, _ = _weigh(geometry, index, present, splats, x, y)
        behind = tl.associative_scan(1 - alpha, 0, _multiply)
        weight = remaining[None, :] * behind / (1 - alpha) * alpha
        red += tl.sum(weight * tl.load(features + index, mask=present, other=0.0)[:, None], 0)
        green += tl.sum(weight * tl.load(features + splats + index, mask=present, other=0.0)[:, None], 0)
        blue += tl.sum(weight * tl.load(features + 2 * splats + index, mask=present, other=0.0)[:, None], 0)
        depth += tl.sum(weight * tl.load(features + 3 * splats + index, mask=present, other=0.0)[:, None], 0)
        world_x += tl.sum(weight * tl.load(features + 4 * splats + index, mask=present, other=0.0)[:, None], 0)
        world_y += tl.sum(weight * tl.load(features + 5 * splats + index, mask=present, other=0.0)[:, None], 0)
        world_z += tl.sum(weight * tl.load(features + 6 * splats + index, mask=present, other=0.0)[:, None], 0)
        total += tl.sum(weight, 0)
        remaining *= tl.min(behind, 0)  # transmittance falls, so the least is the last
        remaining = tl.where(remaining > _SATURATED, remaining, 0.0)
        begin = tl.where(tl.max(remaining, 0) > 0, begin + BLOCK, length)
    pixels = SIZE * SIZE
    out = sums + program * 8 * pixels + tl.arange(0, SIZE * SIZE)
    tl.store(out, red)
    tl.store(out + pixels, green)
    tl.store(out + 2 * pixels, blue)
    tl.store(out + 3 * pixels, depth)
    tl.store(out + 4 * pixels, world_x)
    tl.store(out + 5 * pixels, world_y)
    tl.store(out + 6 * pixels, world_z)
    tl.store(out + 7 * pixels, total)


@triton.jit
def _channel(features, grad_features, index, present, weight, gain, incoming):
    """Add one feature's share to the gain [k, p] and the feature's own gradient to memory."""
    feature = tl.load(features + index, mask=present, other=0.0)[:, None]
    tl.atomic_add(grad_features + index, tl.sum(weight * incoming[None, :], 1), mask=present)
    return gain + feature * incoming[None, :]


@triton.jit
def _backward(
    geometry,  # [6, splats]
    features,  # [7, splats]
    pairs,
    tiles,
    starts,
    lengths,
    sums,  # [T, 8, pixels]
    grad,  # [T, 8, pixels]
    grad_geometry,  # [6, splats]
    grad_features,  # [7, splats]
    splats,
    across,
    down,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    pixels = SIZE * SIZE
    x, y = _pixel_centres(tl.load(tiles + program), across, down, SIZE)
    start, length = tl.load(starts + program), tl.load(lengths + program).to(tl.int32)
    at = program * 8 * pixels + tl.arange(0, SIZE * SIZE)
    grad_red = tl.load(grad + at)
    grad_green = tl.load(grad + at + pixels)
    grad_blue = tl.load(grad + at + 2 * pixels)
    grad_depth = tl.load(grad + at + 3 * pixels)
    grad_x = tl.load(grad + at + 4 * pixels)
    grad_y = tl.load(grad + at + 5 * pixels)
    grad_z = tl.load(grad + at + 6 * pixels)
    grad_total = tl.load(grad + at + 7 * pixels)
    # Sum of weight * gain of all splats that are still to come, known from the forward pass.
    to_come = grad_red * tl.load(sums + at) + grad_green * tl.load(sums + at + pixels)
    to_come += grad_blue * tl.load(sums + at + 2 * pixels) + grad_depth * tl.load(sums + at + 3 * pixels)
    to_come += grad_x * tl.load(sums + at + 4 * pixels) + grad_y * tl.load(sums + at + 5 * pixels)
    to_come += grad_z * tl.load(sums + at + 6 * pixels) + grad_total * tl.load(sums + at + 7 * pixels)
    remaining = tl.full([SIZE * SIZE], 1.0, tl.float32)
    begin = 0
    while begin < length:
        rank = begin + tl.arange(0, BLOCK)
        present = rank < length
        index = tl.load(pairs + start + rank, mask=present, other=0)
        alpha, t, dy, shear, across_width, along, opacity = _weigh(geometry, index, present, splats, x, y)
        behind = tl.associative_scan(1 - alpha, 0, _multiply)
        weight = remaining[None, :] * behind / (1 - alpha) * alpha
        gain = tl.zeros([BLOCK, SIZE * SIZE], tl.float32) + grad_total[None, :]
        gain = _channel(features, grad_features, index, present, weight, gain, grad_red)
        step = splats
        gain = _channel(features + step, grad_features + step, index, present, weight, gain, grad_green)
        step += splats
        gain = _channel(features + step, grad_features + step, index, present, weight, gain, grad_blue)
        step += splats
        gain = _channel(features + step, grad_features + step, index, present, weight, gain, grad_depth)
        step += splats
        gain = _channel(features + step, grad_features + step, index, present, weight, gain, grad_x)
        step += splats
        gain = _channel(features + step, grad_features + step, index, present, weight, gain, grad_y)
        step += splats
        gain = _channel(features + step, grad_features + step, index, present, weight, gain, grad_z)
        gain *= weight
        later = to_come[None, :] - tl.associative_scan(gain, 0, _add)
        to_come -= tl.sum(gain, 0)
        # By the logarithm of the weight; zero at the clamp, and below 1/255 since alpha and the weight are.
        exponent = tl.where(alpha < _MAX_ALPHA, gain - alpha / (1 - alpha) * later, 0.0)
        by_t = exponent * t
        by_y = exponent * dy
        precision = across_width * across_width
        first = tl.sum(precision * by_t, 1)
        second = tl.sum(along * along * by_y - shear * precision * by_t, 1)
        tl.atomic_add(grad_geometry + index, first, mask=present)
        tl.atomic_add(grad_geometry + splats + index, second, mask=present)
        tl.atomic_add(grad_geometry + 2 * splats + index, tl.sum(precision * by_t * dy, 1), mask=present)
        tl.atomic_add(grad_geometry + 3 * splats + index, tl.sum(-across_width * by_t * t, 1), mask=present)
        tl.atomic_add(grad_geometry + 4 * splats + index, tl.sum(-along * by_y * dy, 1), mask=present)
        by_opacity = tl.sum(exponent / tl.maximum(opacity, _MIN_ALPHA), 1)
        tl.atomic_add(grad_geometry + 5 * splats + index, by_opacity, mask=present)
        remaining *= tl.min(behind, 0)
        remaining = tl.where(remaining > _SATURATED, remaining, 0.0)
        begin = tl.where(tl.max(remaining, 0) > 0, begin + BLOCK, length)


def block_size(tile_size: int) -> int:
    """How many splats a program composites at a time."""
    return max(1, _ELEMENTS // tile_size**2)


class _Context(FunctionCtx):
    """What the backward pass keeps."""

    saved_tensors: tuple[Tensor, ...]
    lists: TileLists
    tile_size: int


class _Composite(torch.autograd.Function):
    """The two kernels as one differentiable function."""

    @staticmethod
    def forward(ctx: _Context, geometry: Tensor, features: Tensor, lists: TileLists, tile_size: int) -> Tensor:
        tiles = lists.tile.shape[0]
        geometry, features = geometry.contiguous(), features.contiguous()
        sums = geometry.new_empty(tiles, 8, tile_size**2)
        if tiles:
            _forward[(tiles,)](
                geometry,
                features,
                lists.splat,
                lists.tile,
                lists.start,
                lists.length,
                sums,
                geometry.shape[1],
                lists.across,
                lists.down,
                SIZE=tile_size,
                BLOCK=block_size(tile_size),
                num_warps=_FORWARD_WARPS,
            )
        ctx.save_for_backward(geometry, features, sums)
        ctx.lists, ctx.tile_size = lists, tile_size
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        geometry, features, sums = ctx.saved_tensors
        lists = ctx.lists
        grad_geometry, grad_features = torch.zeros_like(geometry), torch.zeros_like(features)
        if sums.shape[0]:
            _backward[(sums.shape[0],)](
                geometry,
                features,
                lists.splat,
                lists.tile,
                lists.start,
                lists.length,
                sums,
                grad.contiguous(),
                grad_geometry,
                grad_features,
                geometry.shape[1],
                lists.across,
                lists.down,
                SIZE=ctx.tile_size,
                BLOCK=block_size(ctx.tile_size),
                num_warps=_BACKWARD_WARPS,
            )
        return grad_geometry, grad_features, None, None


def composite_tiles_triton(geometry: Tensor, features: Tensor, lists: TileLists, tile_size: int) -> Tensor:
    """Composite the listed splats of every non-empty tile front to back, as `compositing.composite_tiles` does.

    Args:
        geometry: [6, S] as `Splats.geometry`, flattened over images and splats, float32.
        features: [7, S] as `Splats.features`.
        lists: the tiles.
        tile_size: pixels on a side, a power of two.

    Returns:
        [T, 8, pixels] sums of weight times (features, 1), differentiable in geometry and features.

    Raises:
        ValueError: a tile size that Triton cannot lay out, or another dtype than float32.
    """
    if tile_size & (tile_size - 1):
        raise ValueError(f"tile_size: expected a power of two for the triton backend, got {tile_size}.")
    if geometry.dtype != torch.float32:
        raise ValueError(f"gaussians: expected float32 for the triton backend, got {geometry.dtype}.")
    sums: Tensor = _Composite.apply(geometry, features, lists, tile_size)
    return sums

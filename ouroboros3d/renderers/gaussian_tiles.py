"""Which splats touch which square tiles of the images, nearest first."""

from typing import NamedTuple

import torch
from torch import Tensor

from ouroboros3d.renderers.projection import Splats


class TileLists(NamedTuple):
    """Non-empty tiles of M images and their splats, nearest first.

    splat: [P] index of each (tile, splat) pair's splat into the flattened [M * N]; tile by tile, nearest first.
    tile: [T] index of each non-empty tile into the flattened [M, tiles down, tiles across].
    start: [T] where each tile's pairs begin.
    length: [T] how many pairs each tile has.
    across: tiles in a row of an image.
    down: tiles in a column of an image.
    """

    splat: Tensor
    tile: Tensor
    start: Tensor
    length: Tensor
    across: int
    down: int


@torch.no_grad()
def bin_splats(splats: Splats, height: int, width: int, tile_size: int) -> TileLists:
    """List the splats that may contribute to each tile, sorted by the depth of their means.

    Ties in depth keep the order of the Gaussians, so the result is deterministic.

    Args:
        splats: [M, N].
        height: pixels.
        width: pixels.
        tile_size: pixels on a side; tiles at the right and bottom border may reach beyond the image.

    Returns:
        the lists; a splat is left out of tiles where its contribution stays below 1/255.
    """
    across, down = -(-width // tile_size), -(-height // tile_size)
    images, count = splats.visible.shape
    visible = splats.visible.flatten()
    depth = splats.features[3].flatten()
    # Positive floats sort like their bits, and integers have a fast stable sort. One order for all images will do.
    bits = depth.contiguous().view(torch.int32 if depth.dtype == torch.float32 else torch.int64)
    order = torch.where(visible, bits, torch.iinfo(bits.dtype).max).sort(stable=True)[1][: int(visible.sum())]
    x, y, shear, spread, along, _ = (row[order] for row in splats.geometry.flatten(1))
    extent_y, lean = splats.reach_y.flatten()[order], splats.lean.flatten()[order]

    # First the rows of tiles that a splat touches, then the tiles in each row: the ellipse is narrower than its box.
    top, bottom = _touched(y - extent_y, y + extent_y, tile_size, down)
    owner, place = ranges((bottom - top + 1).clamp_min(0))
    row = top[owner] + place
    # Rows of pixel centres of the tile row, as offsets from the splat's centre, limited to the ellipse.
    from_centre = row * tile_size - y[owner]
    extent_y = extent_y[owner]
    upper = torch.maximum(from_centre + 0.5, -extent_y)
    lower = torch.minimum(from_centre + (tile_size - 0.5), extent_y)
    # The ellipse reaches furthest right at offset `lean` and furthest left at `-lean`; its edges bend between.
    lean, shear, along, spread, x = (value[owner] for value in (lean, shear, along, spread, x))
    reach = (along * extent_y).square()
    left, right = (
        x + shear * offset + sign * (reach - (along * offset).square()).clamp_min(0).sqrt() / spread
        for sign, offset in (
            (-1, torch.minimum(torch.maximum(-lean, upper), lower)),
            (1, torch.minimum(torch.maximum(lean, upper), lower)),
        )
    )
    first, last = _touched(left, right, tile_size, across)
    first_tile = (order[owner] // count * down + row) * across + first
    owner_of_row = order[owner]
    row, place = ranges((last - first + 1).clamp_min(0))
    tile, by_tile = (first_tile[row] + place).int().sort(stable=True)
    length = torch.bincount(tile, minlength=images * down * across)
    tile = length.nonzero()[:, 0]
    length = length[tile]
    return TileLists(owner_of_row[row][by_tile], tile, length.cumsum(0) - length, length, across, down)


def ranges(length: Tensor) -> tuple[Tensor, Tensor]:
    """For ranges 0 ... length[i] - 1 one after the other: whose range, and the place in it."""
    owner = torch.repeat_interleave(length)
    place = torch.arange(owner.shape[0], device=length.device) - (length.cumsum(0) - length)[owner]
    return owner, place


def _touched(low: Tensor, high: Tensor, tile_size: int, tiles: int) -> tuple[Tensor, Tensor]:
    """First and last tile with a pixel centre in [low, high] pixels; first > last where there is none."""
    slack = 0.5 - 1e-3  # pixels; rounding shall not lose a fragment, the exact test comes with the weight
    first = torch.ceil(low - 1 + slack).clamp(0, tiles * tile_size)
    last = torch.floor(high - slack).clamp(-1, tiles * tile_size - 1)
    first, last = torch.div(first, tile_size, rounding_mode="floor"), torch.div(last, tile_size, rounding_mode="floor")
    return first.long(), last.long()

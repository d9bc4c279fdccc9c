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
    device = splats.visible.device
    depth = torch.where(splats.visible, splats.features[3], torch.inf)
    order = depth.argsort(dim=1, stable=True) + torch.arange(images, device=device)[:, None] * count
    order = order.flatten()
    order = order[splats.visible.flatten()[order]]

    centre = splats.geometry[:2].reshape(2, -1)[:, order]
    extent = splats.extent.reshape(2, -1)[:, order]
    last = torch.tensor([[across - 1], [down - 1]], device=device)
    # A pixel belongs to a box if its centre, half a pixel inside its edges, does.
    first_tile = torch.floor((centre - extent) / tile_size).clamp_min(0).long()
    last_tile = torch.minimum(torch.floor((centre + extent) / tile_size).clamp(-1, max(across, down)).long(), last)
    boxes = (last_tile - first_tile + 1).clamp_min(0)
    pairs = boxes[0] * boxes[1]
    owner = torch.repeat_interleave(pairs)
    within = torch.arange(owner.shape[0], device=device) - (pairs.cumsum(0) - pairs)[owner]
    row = within // boxes[0].clamp_min(1)[owner]
    x = first_tile[0][owner] + within - row * boxes[0][owner]
    y = first_tile[1][owner] + row
    splat = order[owner]

    tile = ((splat // count) * down + y) * across + x
    tile, by_tile = tile.int().sort(stable=True)
    tile, length = torch.unique_consecutive(tile, return_counts=True)
    return TileLists(splat[by_tile], tile.long(), length.cumsum(0) - length, length, across, down)

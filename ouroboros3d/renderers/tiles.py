"""Triangles to fragments through PyTorch3D's mesh rasterizer, one small image per screen tile.

PyTorch3D's CPU rasterizer tests every face against every pixel. So faces are projected, culled and binned into square
tiles here, and every (view, tile) is handed over as an image of its own with the few faces that touch it.
"""

from typing import NamedTuple

import torch
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from torch import Tensor

TILE = 16  # pixels; 8 doubles the (face, tile) pairs, 32 quadruples the tests of a small face
# Pixel centres this near to an edge (in pixels) count as inside: PyTorch3D leaves out centres exactly on an edge, which
# would make pinholes along the diagonal of every frontal quad.
_EDGE_PX = 1e-3


class Bins(NamedTuple):
    """Faces of each non-empty tile, one tile after the other.

    face: [Q] int64 face of each (tile, face) pair, ordered by tile.
    corners: [Q, 3, 3] float32 that face's corners in the tile's NDC (+x left, +y up) and z in scene units.
    view: [N] view of each tile; row, column: [N] its first pixel.
    first, count: [N] its pairs.
    """

    face: Tensor
    corners: Tensor
    view: Tensor
    row: Tensor
    column: Tensor
    first: Tensor
    count: Tensor

    def select(self, keep: Tensor) -> "Bins":
        """Some of the tiles: keep [N] bool."""
        pairs = keep.repeat_interleave(self.count)
        count = self.count[keep]
        return Bins(
            self.face[pairs],
            self.corners[pairs],
            self.view[keep],
            self.row[keep],
            self.column[keep],
            count.cumsum(0) - count,
            count,
        )


class Fragments(NamedTuple):
    """M covered pixels with their K nearest faces, nearest first.

    tile: [M] index of the tile in its `Bins`.
    view, row, column: [M] the pixel.
    face: [M, K] int64, -1 = none.
    barycentric: [M, K, 3] perspective-correct.
    depth: [M, K] z along forward, scene units.
    """

    tile: Tensor
    view: Tensor
    row: Tensor
    column: Tensor
    face: Tensor
    barycentric: Tensor
    depth: Tensor


class _PackedFaces(NamedTuple):
    """The part of PyTorch3D's `Meshes` that its rasterizer reads; `Meshes` itself would loop over tiles in Python."""

    corners: Tensor
    first: Tensor
    count: Tensor

    @property
    def device(self) -> torch.device:
        return self.corners.device

    def verts_packed(self) -> Tensor:
        return self.corners.reshape(-1, 3)

    def faces_packed(self) -> Tensor:
        return torch.arange(self.corners.shape[0] * 3, device=self.device).reshape(-1, 3)

    def mesh_to_faces_packed_first_idx(self) -> Tensor:
        return self.first

    def num_faces_per_mesh(self) -> Tensor:
        return self.count


def bin_faces(xy_px: Tensor, depth: Tensor, faces: Tensor, height: int, width: int, near: float) -> Bins:
    """Sort projected faces into tiles.

    Args:
        xy_px: [V, P, 2] projected vertices in pixels, (0, 0) the image's upper left corner.
        depth: [V, P] z along forward.
        faces: [F, 3] vertex indices.
        height: pixels.
        width: pixels.
        near: faces with a vertex at or before this depth are left out.

    Returns:
        The non-empty tiles. Faces that no pixel centre can lie in are not in them.
    """
    device = xy_px.device
    xy, z = xy_px[:, faces], depth[:, faces]  # [V, F, 3, 2], [V, F, 3]
    limit = torch.tensor([width, height], device=device, dtype=xy.dtype)
    # Pixel i has its centre at i + 0.5: the first and last centres inside the face's box, clipped to the image.
    low = (xy.amin(dim=2) - 0.5 - _EDGE_PX).ceil().clamp(min=0)
    high = (xy.amax(dim=2) - 0.5 + _EDGE_PX).floor().minimum(limit - 1)
    visible = (z > near).all(dim=2) & (high >= low).all(dim=2) & torch.isfinite(xy).all(dim=3).all(dim=2)
    view, face = visible.nonzero(as_tuple=True)
    low_tile = low[view, face].long() // TILE
    span = high[view, face].long() // TILE - low_tile + 1
    pairs = span.prod(dim=1)
    source = torch.arange(len(pairs), device=device).repeat_interleave(pairs)
    step = torch.arange(len(source), device=device) - (pairs.cumsum(0) - pairs)[source]
    column = low_tile[source, 0] + step % span[source, 0]
    row = low_tile[source, 1] + step // span[source, 0]
    columns, rows = -(-width // TILE), -(-height // TILE)
    key, order = ((view[source] * rows + row) * columns + column).sort(stable=True)
    tile, count = key.unique_consecutive(return_counts=True)
    source, row, column = source[order], row[order] * TILE, column[order] * TILE
    view, face = view[source], face[source]
    origin = torch.stack([column, row], dim=1)[:, None]
    ndc = 1 - 2 * (xy[view, face] - origin) / TILE
    first = count.cumsum(0) - count
    corners = torch.cat([ndc, z[view, face][..., None]], dim=-1)
    return Bins(face, corners, tile // (rows * columns), row[first], column[first], first, count)


def rasterize(bins: Bins, height: int, width: int, layers: int) -> Fragments:
    """Find the nearest faces of every pixel of every tile.

    Args:
        bins: from `bin_faces`.
        height: pixels of the whole image; pixels of a border tile beyond it are dropped.
        width: pixels.
        layers: K, faces kept a pixel.

    Returns:
        The covered pixels.
    """
    index, depth, barycentric, _ = rasterize_meshes(
        _PackedFaces(bins.corners, bins.first, bins.count),
        image_size=TILE,
        blur_radius=(2 * _EDGE_PX / TILE) ** 2,  # a squared distance in NDC
        faces_per_pixel=layers,
        bin_size=0,  # the tiles are the bins
        max_faces_per_bin=0,
        perspective_correct=True,
    )
    covered = index[..., 0] >= 0
    tile, y, x = covered.nonzero(as_tuple=True)
    row, column = bins.row[tile] + y, bins.column[tile] + x
    inside = (row < height) & (column < width)
    tile, y, x, row, column = tile[inside], y[inside], x[inside], row[inside], column[inside]
    index = index[tile, y, x]
    face = torch.where(index >= 0, bins.face[index.clamp(min=0)], -1)
    return Fragments(tile, bins.view[tile], row, column, face, barycentric[tile, y, x], depth[tile, y, x])

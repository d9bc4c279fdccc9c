"""Triangles to fragments: PyTorch3D's mesh rasterizer on one small image per screen tile, tiny triangles beside it.

PyTorch3D's CPU rasterizer tests every face against every pixel. So faces are projected, culled and binned into square
tiles here, and every (view, tile) is handed over as an image of its own with the few faces that touch it. What remains
is its fixed cost a face (about 10 us: it fills boxes and areas by tensor indexing), which is most of the time for the
dense meshes of real collections, whose faces cover a handful of pixels each. Those few pixels are tested directly.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from torch import Tensor

TILE = 16  # pixels; 8 means half as many more (face, tile) pairs, 32 means four times the tests of a face
SMALL = 64  # pixels a side of a face's box up to which testing them all is far below PyTorch3D's fixed cost a face
_CHUNK = 2**18  # pixel tests at once
# Pixel centres this near to an edge (in pixels) count as inside: PyTorch3D leaves out centres exactly on an edge, which
# would make pinholes along the diagonal of every frontal quad.
_EDGE_PX = 2e-4
_ON_EDGE = 1e-5  # barycentric: rounding errors of a centre that lies exactly on an edge are smaller
_SAME_SURFACE = 1e-3  # relative difference of depth within `_EDGE_PX` of a common edge, for all but grazing faces
_MIN_AREA_PX = 1e-6  # twice the area of the smallest face drawn; PyTorch3D's own limit is of this size


class ScreenFaces(NamedTuple):
    """R faces on the screen, each in one view.

    view, face: [R] int64.
    corners: [R, 3, 3] float32 x, y in pixels ((0, 0) the image's upper left corner) and z in scene units.
    low, high: [R, 2] int64 first and last pixel (x, y) whose centre lies in the face's box, inside the image.
    """

    view: Tensor
    face: Tensor
    corners: Tensor
    low: Tensor
    high: Tensor

    def select(self, keep: Tensor) -> "ScreenFaces":
        """Some of the faces: keep [R] bool."""
        return ScreenFaces(*(field[keep] for field in self))

    def split(self, pixels: int) -> list["ScreenFaces"]:
        """Parts of which each has boxes of at most this many pixels together, or one face."""
        area = self.box_sides.prod(dim=1)
        part = (area.cumsum(0) - area) // pixels
        counts = part.unique_consecutive(return_counts=True)[1].tolist()
        return [ScreenFaces(*fields) for fields in zip(*(field.split(counts) for field in self), strict=True)]

    @property
    def box_sides(self) -> Tensor:
        """[R, 2] pixels of each face's box along x and y."""
        return self.high - self.low + 1


class Bins(NamedTuple):
    """Faces of each non-empty tile, one tile after the other.

    face: [Q] int64 face of each (tile, face) pair, ordered by tile.
    corners: [Q, 3, 3] float32 that face's corners in the tile's NDC (+x left, +y up) and z in scene units.
    view: [N] view of each tile.
    row, column: [N] its first pixel.
    first, length: [N] its pairs.
    """

    face: Tensor
    corners: Tensor
    view: Tensor
    row: Tensor
    column: Tensor
    first: Tensor
    length: Tensor

    def split(self, tiles: int) -> list["Bins"]:
        """Parts of at most this many tiles."""
        number = torch.arange(len(self.first), device=self.first.device) // tiles
        return [self.select(number == part) for part in range(-(-len(number) // tiles))]

    def select(self, keep: Tensor) -> "Bins":
        """Some of the tiles: keep [N] bool."""
        pairs, length = keep.repeat_interleave(self.length), self.length[keep]
        tiles = (self.view[keep], self.row[keep], self.column[keep])
        return Bins(self.face[pairs], self.corners[pairs], *tiles, length.cumsum(0) - length, length)


class Fragments(NamedTuple):
    """M covered pixels with their K nearest faces, nearest first.

    pixel: [M] int64 index into the flattened [V, H, W].
    face: [M, K] int64, -1 = none.
    barycentric: [M, K, 3] perspective-correct.
    depth: [M, K] z along forward, scene units.
    tile: [M] index of the tile in the `Bins` it came from; 0 where there is none.
    """

    pixel: Tensor
    face: Tensor
    barycentric: Tensor
    depth: Tensor
    tile: Tensor

    def select(self, index: Tensor) -> "Fragments":
        """Some of the pixels: index [*] int64."""
        return Fragments(*(field.index_select(0, index) for field in self))


class _PackedFaces(NamedTuple):
    """The part of PyTorch3D's `Meshes` that its rasterizer reads; `Meshes` itself would loop over tiles in Python."""

    corners: Tensor
    first: Tensor
    length: Tensor

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
        return self.length


def faces_on_screen(xy_px: Tensor, depth: Tensor, faces: Tensor, height: int, width: int, near: float) -> ScreenFaces:
    """Cull faces that no pixel centre of any view can lie in.

    Args:
        xy_px: [V, P, 2] projected vertices in pixels, (0, 0) the image's upper left corner.
        depth: [V, P] z along forward.
        faces: [F, 3] vertex indices.
        height: pixels.
        width: pixels.
        near: faces with a vertex at or before this depth are left out.

    Returns:
        The others, by view, then by face.
    """
    limit = torch.tensor([width, height], device=xy_px.device, dtype=xy_px.dtype)
    xy = xy_px[:, faces]
    # Pixel i has its centre at i + 0.5: the first and last centres inside the face's box, clipped to the image.
    low = (xy.amin(dim=2) - (0.5 + _EDGE_PX)).ceil_().clamp_(min=0)
    high = (xy.amax(dim=2) - (0.5 - _EDGE_PX)).floor_().minimum(limit - 1)
    visible = (high >= low).all(dim=2) & (depth > near)[:, faces].all(dim=2)  # comparisons with NaN are false
    view, face = visible.nonzero(as_tuple=True)
    xy = xy[view, face]
    area = _cross(xy[:, 1] - xy[:, 0], xy[:, 2] - xy[:, 0])
    keep = (area.abs() > _MIN_AREA_PX) & torch.isfinite(area)
    view, face, xy = view[keep], face[keep], xy[keep]
    corners = torch.cat([xy, depth[view[:, None], faces[face]][..., None]], dim=-1)
    return ScreenFaces(view, face, corners, low[view, face].long(), high[view, face].long())


def bin_faces(screen: ScreenFaces, height: int, width: int) -> Bins:
    """Sort faces on the screen into the tiles that their boxes overlap; tiles without a face are left out.

    Args:
        screen: from `faces_on_screen`.
        height: pixels of the whole image.
        width: pixels.
    """
    low_tile = screen.low // TILE  # [R, 2] first tile (column, row) of each face's box
    span = screen.high // TILE - low_tile + 1
    pairs = span.prod(dim=1)
    # [pairs] whose pair it is, and its number among those of its face, which the tiles of the box follow row by row.
    source = torch.arange(len(pairs), device=pairs.device).repeat_interleave(pairs)
    step = torch.arange(len(source), device=pairs.device) - (pairs.cumsum(0) - pairs)[source]
    column = low_tile[source, 0] + step % span[source, 0]
    row = low_tile[source, 1] + step // span[source, 0]
    # A tile is outside if one edge has even the tile's best corner on its far side; half of all tiles in the boxes are.
    plane, slack = _barycentric_planes(screen)
    start = torch.stack([column, row], dim=1) * TILE - screen.low[source]  # planes count from the box's first pixel
    gradient = plane[..., :2][source]  # [pairs, edge, (x, y)]
    # An affine function is largest where its gradient points: TILE - 1 pixels on, or none, along each axis.
    best = (gradient * start[:, None] + (gradient * (TILE - 1)).clamp(min=0)).sum(dim=-1) + plane[source, :, 2]
    touched = (best >= -slack[source]).all(dim=1)
    source, row, column = source[touched], row[touched], column[touched]
    columns, rows = -(-width // TILE), -(-height // TILE)
    # One number for view, row and column: sorting it lays the pairs tile by tile, and stable keeps the faces' order.
    key, order = ((screen.view[source] * rows + row) * columns + column).sort(stable=True)
    tile, count = key.unique_consecutive(return_counts=True)
    source, row, column = source[order], row[order] * TILE, column[order] * TILE
    corners = screen.corners[source]  # [Q, 3, 3]; PyTorch3D's NDC of the tile runs from 1 (left, top) to -1
    corners[..., :2] = 1 - 2 * (corners[..., :2] - torch.stack([column, row], dim=1)[:, None]) / TILE
    first = count.cumsum(0) - count
    return Bins(screen.face[source], corners, tile // (rows * columns), row[first], column[first], first, count)


def rasterize(bins: Bins, height: int, width: int, layers: int) -> Fragments:
    """Find the nearest faces of every pixel of every tile with PyTorch3D.

    Args:
        bins: from `bin_faces`.
        height: pixels of the whole image; pixels of a border tile beyond it are dropped.
        width: pixels.
        layers: K, faces kept a pixel.
    """
    # Inference mode because half of the fixed cost a face is autograd's bookkeeping of those indexing operations.
    with torch.inference_mode():
        index, depth, barycentric, _ = rasterize_meshes(
            _PackedFaces(bins.corners, bins.first, bins.length),
            image_size=TILE,
            blur_radius=(2 * _EDGE_PX / TILE) ** 2,  # a squared distance in NDC
            faces_per_pixel=layers,
            bin_size=0,  # the tiles are the bins
            max_faces_per_bin=0,
            perspective_correct=True,
        )
    tile, y, x = (index[..., 0] >= 0).nonzero(as_tuple=True)  # [M] the covered pixels: layers are sorted, -1 is last
    row, column = bins.row[tile] + y, bins.column[tile] + x
    inside = (row < height) & (column < width)
    tile, y, x, row, column = tile[inside], y[inside], x[inside], row[inside], column[inside]
    index, barycentric, depth = index[tile, y, x], barycentric[tile, y, x], depth[tile, y, x]
    face = torch.where(index >= 0, bins.face[index.clamp(min=0)], -1)
    face[:, :-1][_met_twice(barycentric, depth)[:, :-1]] = -1  # the last stays, to show that the list is full
    pixel = (bins.view[tile] * height + row) * width + column
    return Fragments(pixel, face, barycentric, depth, tile)


def _met_twice(barycentric: Tensor, depth: Tensor) -> Tensor:
    """Which of the sorted layers [M, K] only repeat a surface: centres on the edge of two faces lie in both."""
    on_edge = barycentric.amin(dim=-1) <= _ON_EDGE
    near = depth.diff(dim=1).abs() <= _SAME_SURFACE * depth[:, 1:]  # [M, K - 1] a layer and the one before it
    repeated = torch.zeros_like(on_edge)
    # Of two such layers the one on the edge goes; where both are on it, the second.
    repeated[:, 1:] |= near & on_edge[:, 1:]
    repeated[:, :-1] |= near & on_edge[:, :-1] & ~on_edge[:, 1:]
    return repeated


def rasterize_small(screen: ScreenFaces, height: int, width: int) -> Fragments:
    """All fragments (K = 1, not only the nearest) of small faces, by testing every pixel around each.

    Same pixels, depths and barycentrics as `rasterize`. Faces are grouped by the rectangle that holds their box, so
    that the tests of a group are one matrix product.

    Args:
        screen: from `faces_on_screen`, boxes of at most `SMALL` pixels a side.
        height: pixels of the whole image.
        width: pixels.
    """
    plane, slack = _barycentric_planes(screen)
    plane[..., 2] += slack  # so that inside is >= 0; taken off again where weights are used
    plane = plane.transpose(0, 1).contiguous()  # [corner, R, 3]
    first_pixel = (screen.view * height + screen.low[:, 1]) * width + screen.low[:, 0]
    sides = screen.box_sides
    shape = sides.to(plane.dtype).log2().ceil().long()  # of the rectangle around the box: powers of two
    found = [(shape[:0, 0], shape[:0, 0], plane.new_zeros(3, 0))]
    # As one number each: sorting rows takes a tenth of the whole rendering.
    for across, down in ((key >> 8, key & 255) for key in (shape[:, 0] << 8 | shape[:, 1]).unique().tolist()):
        pixels = 1 << (across + down)
        place = torch.arange(pixels, device=sides.device)
        x, y = place & ((1 << across) - 1), place >> across
        columns = torch.stack([x, y, torch.ones_like(x)]).to(plane.dtype)  # [3, pixels] of the rectangle
        group = ((shape[:, 0] == across) & (shape[:, 1] == down)).nonzero()[:, 0]
        for rows in group.split(max(1, _CHUNK // pixels)):  # chunks that stay in the processor's cache
            weights = (plane.index_select(1, rows) @ columns).reshape(3, -1)  # [corner, faces * pixels] barycentrics
            hit = (weights.amin(dim=0) >= 0).nonzero()[:, 0]
            source, place = rows.index_select(0, hit >> (across + down)), hit & (pixels - 1)
            # The rectangles reach beyond the boxes, and with them beyond the image.
            room = sides.index_select(0, source)
            inside = (x.index_select(0, place) < room[:, 0]) & (y.index_select(0, place) < room[:, 1])
            hit, place, source = hit[inside], place[inside], source[inside]
            pixel = first_pixel.index_select(0, source) + (y * width + x).index_select(0, place)
            found.append((source, pixel, weights.index_select(1, hit)))
    source, pixel = (torch.cat([part[i] for part in found]) for i in (0, 1))
    weight = torch.cat([part[2] for part in found], dim=1).T
    # Perspective: 1 / z is affine on the screen, so depth is the harmonic mean of the corners' under the screen's
    # barycentrics, and a corner's share on the face is its share of 1 / z.
    over_z = (weight - slack.index_select(0, source)) / screen.corners[..., 2].contiguous().index_select(0, source)
    depth = 1 / over_z.sum(dim=1, keepdim=True)
    face = screen.face.index_select(0, source)[:, None]
    return Fragments(pixel, face, (over_z * depth)[:, None], depth, torch.zeros_like(pixel))


def nearest(fragments: Sequence[Fragments], pixels: int) -> Fragments:
    """The nearest fragment (K = 1) of every pixel; at equal depth the first face in the list.

    Args:
        fragments: any number of sets with K = 1.
        pixels: V * H * W.
    """
    merged = Fragments(*(torch.cat(field) for field in zip(*fragments, strict=True)))
    # The bits of a positive float grow with it, so depth and face fit into one number to be minimised.
    key = (merged.depth[:, 0].contiguous().view(torch.int32).long() << 32) | merged.face[:, 0]
    best = torch.full((pixels,), torch.iinfo(torch.int64).max, device=key.device)
    best.scatter_reduce_(0, merged.pixel, key, "amin")
    return merged.select((key == best.index_select(0, merged.pixel)).nonzero()[:, 0])


def _barycentric_planes(screen: ScreenFaces) -> tuple[Tensor, Tensor]:
    """Barycentrics on the screen as affine functions of the pixel, counted from the first pixel of the face's box.

    Returns:
        [R, corner, 3] coefficients of (x, y, 1), and [R, corner] what `_EDGE_PX` amounts to.
    """
    corners = screen.corners[..., :2] - (screen.low[:, None] + 0.5)
    following, last = corners.roll(-1, dims=1), corners.roll(-2, dims=1)
    edge = last - following  # opposite the corner: along it the corner's barycentric is 0
    # Twice the areas: that of the triangle of a point and this edge over that of the face. Dividing by the signed area
    # makes barycentrics positive inside for either winding.
    area = _cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, None]
    gradient = torch.stack([-edge[..., 1], edge[..., 0]], dim=-1) / area[..., None]
    plane = torch.cat([gradient, (_cross(following, last) / area)[..., None]], dim=-1)
    return plane, _EDGE_PX * gradient.norm(dim=-1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """The z component of the cross product of plane vectors [..., 2]."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]

"""Tiles and directly tested faces find what one plain, untiled PyTorch3D call finds."""

import pytest
import torch
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from pytorch3d.structures import Meshes

from ouroboros3d.renderers import mesh_tiles
from ouroboros3d.renderers.mesh_tiles import (
    Fragments,
    ScreenFaces,
    bin_faces,
    faces_on_screen,
    nearest,
    rasterize,
    rasterize_small,
)

SIZE = 44  # no multiple of the tile
VIEWS = 2


def soup(scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Triangles on the screen of two views: vertices in pixels, depths and faces; the smaller, the more."""
    count = round(20 + 600 / scale)
    centre = torch.rand(VIEWS, count, 1, 2) * (SIZE + 20) - 10
    xy = (centre + scale * torch.randn(VIEWS, count, 3, 2)).reshape(VIEWS, -1, 2)
    depth = 1 + torch.rand(VIEWS, count, 1).expand(-1, -1, 3).reshape(VIEWS, -1) + 0.2 * torch.rand(VIEWS, 3 * count)
    return xy, depth, torch.arange(3 * count).reshape(-1, 3)


def plain(xy: torch.Tensor, depth: torch.Tensor, faces: torch.Tensor, layers: int) -> Fragments:
    """One call for whole images."""
    vertices = torch.cat([1 - 2 * xy / SIZE, depth[..., None]], dim=-1)
    meshes = Meshes(list(vertices), [faces] * VIEWS)
    index, z, weights, _ = rasterize_meshes(meshes, SIZE, faces_per_pixel=layers, perspective_correct=True)
    covered = index[..., 0] >= 0
    face = torch.where(index >= 0, index % len(faces), -1)
    pixel = covered.flatten().nonzero()[:, 0]
    return Fragments(pixel, face[covered], weights[covered], z[covered], torch.zeros_like(pixel))


def assert_same(found: Fragments, expected: Fragments) -> None:
    """Equal but for pixel centres within 2e-4 px of an edge, which PyTorch3D alone leaves out."""
    order = found.pixel.argsort()
    found = found.select(order)
    common = torch.isin(found.pixel, expected.pixel)
    assert torch.isin(expected.pixel, found.pixel).all()
    assert (~common).sum() <= 0.01 * len(common)
    found = found.select(common.nonzero()[:, 0])
    same = (found.face == expected.face).all(dim=1)
    assert same.float().mean() > 0.995
    present = (expected.face >= 0) & same[:, None]
    # Pixel coordinates against NDC of the whole image, both float32: worst seen 3e-5 in thin faces.
    assert (found.depth - expected.depth).abs()[present].max() < 1e-4
    assert (found.barycentric - expected.barycentric).abs()[present].max() < 1e-3


@pytest.mark.parametrize("scale", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("layers", [1, 3])
def test_tiles_equal_the_untiled_rasterizer(scale, layers):
    xy, depth, faces = soup(scale)
    screen = faces_on_screen(xy, depth, faces, SIZE, SIZE, near=0.1)
    found = rasterize(bin_faces(screen, SIZE, SIZE), SIZE, SIZE, layers)
    expected = plain(xy, depth, faces, layers)
    assert len(expected.pixel) > 100
    assert_same(found, expected)


@pytest.mark.parametrize("scale", [1.0, 4.0, 8.0])
def test_directly_tested_faces_equal_the_untiled_rasterizer(scale):
    xy, depth, faces = soup(scale)
    screen = faces_on_screen(xy, depth, faces, SIZE, SIZE, near=0.1)
    assert screen.box_sides.max() <= mesh_tiles.SMALL
    found = nearest((rasterize_small(screen, SIZE, SIZE),), VIEWS * SIZE * SIZE)
    assert_same(found, plain(xy, depth, faces, 1))


def test_the_comparison_can_fail():
    xy, depth, faces = soup(4.0)
    screen = faces_on_screen(xy, depth, faces, SIZE, SIZE, near=0.1)
    moved = rasterize_small(ScreenFaces(*screen[:2], screen.corners + 0.1, *screen[3:]), SIZE, SIZE)
    with pytest.raises(AssertionError):
        assert_same(nearest((moved,), VIEWS * SIZE * SIZE), plain(xy, depth, faces, 1))


def test_tiles_hold_only_what_touches_them():
    """A thin diagonal touches the tiles along it, not all the tiles of its box."""
    xy = torch.tensor([[[1.0, 1.0], [159.0, 158.0], [159.0, 159.0]]])
    screen = faces_on_screen(xy, torch.ones(1, 3), torch.tensor([[0, 1, 2]]), 160, 160, near=0.1)
    assert len(bin_faces(screen, 160, 160).face) <= 30  # of 100


def test_faces_between_pixel_centres_behind_or_without_area_are_culled():
    corners = [
        [(3.6, 3.6), (3.9, 3.6), (3.6, 3.9)],  # between centres
        [(3.2, 3.2), (3.9, 3.2), (3.2, 3.9)],  # around one
        [(-9.0, 3.0), (-2.0, 3.0), (-5.0, 9.0)],  # left of the image
        [(1.0, 1.0), (5.0, 5.0), (9.0, 9.0)],  # no area
        [(float("nan"), 1.0), (5.0, 5.0), (9.0, 2.0)],
        [(1.0, 1.0), (5.0, 5.0), (9.0, 2.0)],  # behind the camera
    ]
    xy = torch.tensor(corners).reshape(1, -1, 2)
    depth = torch.ones(1, 18)
    depth[0, 16] = -1.0
    screen = faces_on_screen(xy, depth, torch.arange(18).reshape(-1, 3), 16, 16, near=0.1)
    assert screen.face.tolist() == [1]


def test_equal_depths_go_to_the_first_face_in_any_order():
    def fragments(faces: list[int]) -> Fragments:
        count = len(faces)
        weights = torch.full((count, 1, 3), 1 / 3)
        zero = torch.zeros(count, dtype=torch.int64)
        return Fragments(zero, torch.tensor(faces)[:, None], weights, torch.ones(count, 1), zero)

    for faces in ([3, 1, 2], [2, 3, 1], [1, 2, 3]):
        assert nearest((fragments(faces[:1]), fragments(faces[1:])), 4).face.tolist() == [[1]]

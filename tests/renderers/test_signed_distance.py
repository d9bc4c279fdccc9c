"""The fused distance and its zero level against shapes whose distance, radius and volume are known."""

import math

import pytest
import torch
import trimesh
from seen_from_all_sides import CENTRE, RADIUS, sphere_depth
from torch import Tensor
from torch.testing import assert_close

from ouroboros3d.renderers.meshes import Material, MeshRenderer, TexturedMesh
from ouroboros3d.renderers.signed_distance import fuse_distance, zero_surface
from ouroboros3d.renderers.surface_fusion import inspection_cameras, trusted_pixels

CAMERAS = inspection_cameras()


def body(distance: Tensor) -> trimesh.Trimesh:
    vertices, faces = zero_surface(distance)
    return trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)


def test_a_sphere_comes_out_closed_with_its_radius_and_its_volume():
    distance = fuse_distance(sphere_depth(CAMERAS[0], 128), CAMERAS[0], 48)
    found = body(distance)
    assert found.is_watertight
    assert found.is_winding_consistent
    step, radii = 1.2 / 47, (torch.from_numpy(found.vertices).float() - CENTRE).norm(dim=1)
    assert abs(radii.mean().item() - RADIUS) < 0.1 * step
    assert (radii - RADIUS).abs().max() < step
    assert found.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.02)
    middle = ((CENTRE + 0.6) / step).round().long()
    assert distance[tuple(middle)] == -1, "the inside is seen by nobody"
    assert distance[0, 0, 0] == 1


def test_the_coarse_grid_changes_nothing():
    """The obvious twin: every camera's distance of every point, and which side has the say."""
    depth, resolution = sphere_depth(CAMERAS[0], 64), 24
    trusted = trusted_pixels(depth, CAMERAS[0])
    line = torch.linspace(-0.6, 0.6, resolution)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).view(-1, 3)
    every = []
    for view in range(26):
        uv, z = CAMERAS[0, view].project(points)
        pixel = (uv * 64).floor().long()
        there = ((pixel >= 0) & (pixel < 64)).all(dim=1)
        column, row = pixel.clamp(0, 63).unbind(1)
        sure, surface = trusted[view, row, column], depth[view, row, column]
        place = (uv * 64 - 0.5).clamp(0, 63)
        low, part = place.floor().long(), place - place.floor()
        high = (low + 1).clamp_max(63)
        upper = torch.lerp(depth[view, low[:, 1], low[:, 0]], depth[view, low[:, 1], high[:, 0]], part[:, 0])
        lower = torch.lerp(depth[view, high[:, 1], low[:, 0]], depth[view, high[:, 1], high[:, 0]], part[:, 0])
        surface = torch.where(sure, torch.lerp(upper, lower, part[:, 1]), surface)
        before = torch.where(there & (surface > 0), (surface - z) / (3 * 1.2 / 23), 1.0).clamp(-1, 1)
        every.append(torch.where(sure | (before == 1), before, -1.0))
    expected = torch.tensor(
        [
            min(vote for vote in votes if vote > 0)
            if sum(vote > 0 for vote in votes) > 3
            else max(vote for vote in votes if vote <= 0)
            for votes in torch.stack(every, dim=1).tolist()
        ]
    ).view(resolution, resolution, resolution)
    inner = slice(1, -1)
    found = fuse_distance(depth, CAMERAS[0], resolution)
    assert_close(found[inner, inner, inner], expected[inner, inner, inner], rtol=0, atol=1e-3)  # of rays of 1.7 units


def test_a_wall_of_a_step_and_a_half_stays_closed_and_as_thick():
    """The mean over all cameras makes it thicker by the truncation, three steps."""
    low, high = torch.tensor([-0.3, -0.25, -0.018]), torch.tensor([0.3, 0.25, 0.02])
    box = trimesh.creation.box(bounds=torch.stack([low, high]).numpy())
    faces = torch.from_numpy(box.faces.copy()).long()
    mesh = TexturedMesh(
        torch.from_numpy(box.vertices.copy()).float(),
        faces,
        torch.zeros(12, 3, 2),
        torch.zeros(12).long(),
        (Material(),),
    )
    depth = MeshRenderer(supersampling=1)(mesh, CAMERAS[0], 128, 128).depth[0, :, 0]
    found = body(fuse_distance(depth, CAMERAS[0], 48))
    assert found.is_watertight
    assert found.euler_number == 2, "one piece without a hole"
    thickness = found.bounds[1, 2] - found.bounds[0, 2]
    assert thickness == pytest.approx(0.038, abs=0.5 * 1.2 / 47)


def test_any_distance_has_a_closed_surface():
    """Also where values are the level itself, which PyTorch3D's marching cubes leave holes at."""
    rough = torch.randn(24, 24, 24)
    smooth = torch.nn.functional.avg_pool3d(rough[None, None], 3, 1, 1)[0, 0] * 3
    smooth = torch.where(torch.rand(24, 24, 24) < 0.05, 0.0, smooth)
    for axis in range(3):
        smooth.index_fill_(axis, torch.tensor([0, 23]), 1.0)
    found = body(smooth)
    assert len(found.faces) > 1000
    assert found.is_watertight
    assert found.is_winding_consistent


def test_too_few_points_or_cameras_are_refused():
    with pytest.raises(ValueError, match="at least 8 points along an edge and 4 cameras, got 4 and 26"):
        fuse_distance(torch.zeros(26, 8, 8), CAMERAS[0], 4)
    with pytest.raises(ValueError, match="got 16 and 3"):
        fuse_distance(torch.zeros(3, 8, 8), CAMERAS[0, :3], 16)

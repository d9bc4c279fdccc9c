"""Depth of several views against a slow twin, and what is said of it."""

import math

import pytest
import torch
from posed_writers import RIG, Lens, draw

from ouroboros3d.cameras import Cameras
from ouroboros3d.inspection.findings.maps import map_findings
from ouroboros3d.inspection.maps import Maps, Pixels, conflict

LENS = Lens(1.3, 1.6, 0.47, 0.55)
PIXELS = Pixels(LENS.size, 1)


def cameras() -> Cameras:
    poses = torch.stack([torch.from_numpy(camera.c2w) for camera in RIG]).float()
    matrix = torch.tensor([[LENS.fx, 0, LENS.cx], [0, LENS.fy, LENS.cy], [0, 0, 1]])
    return Cameras(poses, matrix.expand(len(RIG), 3, 3))


def depths() -> torch.Tensor:
    return torch.stack([torch.from_numpy(draw(camera, LENS).depth) for camera in RIG]).float()


@pytest.mark.parametrize("scale", [1.0, 1.1])
def test_conflict_equals_a_loop_over_pixels_and_views(scale: float) -> None:
    depth = depths() * scale
    height, width = LENS.size
    gaps = []
    for one, camera in enumerate(RIG):
        for row in range(height):
            for column in range(width):
                if not (depth[one, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] > 0).all():
                    continue
                x = ((column + 0.5) / width - LENS.cx) / LENS.fx
                y = ((row + 0.5) / height - LENS.cy) / LENS.fy
                ray = [x * r + y * d + f for r, d, f in zip(camera.right, camera.down, camera.forward, strict=True)]
                point = [e + depth[one, row, column].item() * r for e, r in zip(camera.eye, ray, strict=True)]
                for other, seer in enumerate(RIG):
                    if other == one:
                        continue
                    away = [p - e for p, e in zip(point, seer.eye, strict=True)]
                    z = sum(a * f for a, f in zip(away, seer.forward, strict=True))
                    u = sum(a * r for a, r in zip(away, seer.right, strict=True)) / z * LENS.fx + LENS.cx
                    v = sum(a * d for a, d in zip(away, seer.down, strict=True)) / z * LENS.fy + LENS.cy
                    i, j = math.floor(v * height), math.floor(u * width)
                    if not (0 <= i < height and 0 <= j < width):
                        continue
                    near = depth[other, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                    wide = depth[other, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
                    if (near > 0).any():
                        gaps.append(min(max(near[near > 0].min().item() - z, 0.0), 0.1))
                    else:
                        gaps.append(0.0 if (wide > 0).any() else 0.1)
    assert len(gaps) > 1000
    # A few points lie on the edge between two pixels, where float32 decides.
    assert conflict(cameras(), PIXELS, depth) == pytest.approx(sum(gaps) / len(gaps), abs=1e-4)


def test_right_depth_does_not_conflict_and_every_third_pixel_says_the_same() -> None:
    assert conflict(cameras(), PIXELS, depths()) < 1e-5
    for step in (2, 3):
        pixels = Pixels(LENS.size, step)
        rows, columns = pixels.places
        place = pixels.uv_norm[1, 0] * torch.tensor([64, 48]) - 0.5
        assert place.tolist() == pytest.approx([columns[0].item(), rows[1].item()])
        row, column = pixels.nearest(pixels.uv_norm.flatten(0, 1))
        assert (row * len(columns) + column).tolist() == list(range(len(rows) * len(columns)))
        assert conflict(cameras(), pixels, depths()[:, rows][:, :, columns]) < 1e-5


def test_points_behind_a_camera_conflict_in_full() -> None:
    """Two cameras face each other; what one sees lies beyond the other."""
    facing = Cameras.orbit([0.0, 180.0], 0.0, 1.0, 40.0)
    assert conflict(facing, Pixels((8, 8), 1), torch.full((2, 8, 8), 3.0)) == pytest.approx(0.1)


def test_one_object_of_many_may_have_a_conflict_and_many_may_not() -> None:
    """A net of half-transparent threads has one by itself."""
    right = Maps(depth=(1.0, 2.0))
    net = Maps(depth=(1.0, 2.0), conflict=0.03, conflict_of_rays=0.03, conflict_scaled=0.03)
    for nets, said in ((1, []), (4, ["Depth does not agree with the cameras"])):
        maps = {str(number): net if number < nets else right for number in range(40)}
        assert [finding.title for finding in map_findings(maps)] == said
    far = Maps(depth=(1.0, 2.0), conflict=0.08, conflict_of_rays=0.08, conflict_scaled=0.08)
    assert [finding.title for finding in map_findings({"far": far})] == ["Depth does not agree with the cameras"]

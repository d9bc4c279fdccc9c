"""The visual hull and the tangent planes, against what is known of a ball and against slow twins."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from planted import Posed

from ouroboros3d.cameras import Cameras
from ouroboros3d.inspection.camera_checks.tangency import Outlines, outline, tangency_errors
from ouroboros3d.inspection.camera_checks.visual_hull import Masks, carve_silhouettes, grid

RADIUS = 0.4
RIG = Cameras.orbit([0.0, 70.0, 130.0, 200.0, 260.0, 310.0], [0.0, 30.0, -20.0, 50.0, 10.0, 80.0], 1.7417, 39.598)


def ball(
    cameras: Cameras, size: int, centre: tuple[float, float, float] = (0.0, 0.0, 0.0), fine: int = 4
) -> torch.Tensor:
    """Alpha [F, size, size] of a ball: a ray hits it if it passes the centre nearer than the radius."""
    origins, directions = cameras.to(dtype=torch.float64).rays(size * fine, size * fine)
    away = torch.tensor(centre, dtype=torch.float64)[:, None, None] - origins
    along = (away * directions).sum(dim=-3, keepdim=True)
    hit = (away - along * directions).norm(dim=-3) < RADIUS
    return torch.nn.functional.avg_pool2d(hit.float(), fine)


def test_the_hull_of_a_ball_covers_every_mask_and_is_as_large_as_the_ball() -> None:
    hull = carve_silhouettes(Masks.of(ball(RIG, 64)), RIG)
    assert hull.coverage.tolist() == [1.0] * 6
    # The hull of few views is larger than the ball by its corners, and the tolerance adds a pixel of 0.02 a side.
    assert 2 * RADIUS < hull.extent < 2 * RADIUS + 0.12
    assert (hull.points.norm(dim=1) < RADIUS).sum() / len(hull.points) > 0.7


def test_a_camera_that_shows_another_ball_leaves_the_part_that_both_share() -> None:
    """Seen from the front, a ball that lies 0.2 to the right: two circles share a lens, which is a known share."""
    front = Cameras.orbit([0.0, 180.0], 0.0, 20.0, 3.2)  # far away: nearly parallel rays
    alpha = torch.cat([ball(front[:1], 64), ball(front[1:], 64, (0.2, 0.0, 0.0))])
    seen = carve_silhouettes(Masks.of(alpha), front).coverage
    # What counts of this mask is a smaller circle: without the pixels at its edge.
    core = RADIUS - 1.12 / 64
    angles = [math.acos((a**2 + 0.2**2 - b**2) / (2 * a * 0.2)) for a, b in ((core, RADIUS), (RADIUS, core))]
    lens = sum(a**2 * (t - math.sin(t) * math.cos(t)) for a, t in zip((core, RADIUS), angles, strict=True))
    expected = lens / (math.pi * core**2)
    # The other view's edge in this mask is an arc of half angle t. It may lie off by four pixels: one that is touched
    # in part, its neighbour, a step of the grid, and the neighbour in the hull's image.
    tolerance = 4 * 1.12 / 64 * 2 * RADIUS * angles[1] / (math.pi * core**2)
    assert expected <= seen[0].item() <= expected + tolerance
    assert seen[0].item() == pytest.approx(seen[1].item(), abs=0.03)


def test_carving_equals_a_loop_over_points_and_views(odd: list[Posed]) -> None:
    posed = odd[0]
    masks = Masks.of(torch.from_numpy(posed.rgba[..., 3]).float() / 255)
    kept = []
    for point in grid(posed.cameras, 12).double():
        inside = True
        for view in range(len(posed.rgba)):
            c2w = posed.cameras.c2w_opencv[view].double()
            x, y, z = (c2w[:3, :3].T @ (point - c2w[:3, 3])).tolist()
            (fx, _, cx), (_, fy, cy), _ = posed.cameras.intrinsics_norm[view].tolist()
            column, row = math.floor((fx * x / z + cx) * 64), math.floor((fy * y / z + cy) * 64)
            inside &= z > 0 and 0 <= column < 64 and 0 <= row < 64 and bool(masks.touched[view, row, column])
        if inside:
            kept.append(point.tolist())
    assert kept
    assert carve_silhouettes(masks, posed.cameras, 12).points.numpy() == pytest.approx(np.array(kept), abs=1e-6)


def test_a_camera_that_looks_away_explains_nothing() -> None:
    away = Cameras(RIG.c2w_opencv @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), RIG.intrinsics_norm)
    assert carve_silhouettes(Masks.of(ball(RIG, 64)), away).coverage.tolist() == [0.0] * 6


def test_an_object_that_the_border_cuts_is_not_carved_away_beyond_it() -> None:
    narrow = Cameras.orbit([0.0, 90.0, 180.0, 270.0], 10.0, 1.7417, 24.0)
    masks = Masks.of(ball(narrow, 64))
    assert masks.clipped.all()
    assert carve_silhouettes(masks, narrow).coverage.min() == 1


def test_what_is_thinner_than_two_pixels_need_not_be_explained_by_the_hull() -> None:
    """A wire that runs across a plate: its mask has a core where the plate is, and none along the wire."""
    alpha = torch.zeros(3, 64, 64)
    alpha[:, 20:40, 20:40] = 1
    alpha[:, 30:32, :] = 1
    masks = Masks.of(alpha)
    assert masks.core.nonzero().amin(dim=0).tolist() == [0, 21, 21]
    assert masks.core.nonzero().amax(dim=0).tolist() == [2, 38, 38]
    away = Cameras(RIG.c2w_opencv @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), RIG.intrinsics_norm)
    wires = torch.zeros(6, 64, 64)
    wires[:, 30:32, 8:56] = 1
    assert carve_silhouettes(Masks.of(wires), away).coverage.tolist() == [1.0] * 6


def test_an_empty_view_does_not_carve() -> None:
    alpha = ball(RIG, 64)
    alpha[2] = 0
    assert carve_silhouettes(Masks.of(alpha), RIG).coverage.tolist() == [1.0] * 6


def test_an_outline_is_known_to_a_fraction_of_a_pixel() -> None:
    """A ball in the middle is a circle of the cone's half angle, asin(R / r)."""
    corners = outline(ball(RIG[:1], 64)[0].double().numpy())
    radius = RIG.intrinsics_norm[0, 0, 0].item() * math.tan(math.asin(RADIUS / 1.7417))
    assert np.linalg.norm(corners - 0.5, axis=1) * 64 == pytest.approx(radius * 64, abs=0.15)


def test_silhouettes_of_one_ball_agree_and_those_of_two_do_not() -> None:
    one, other = ball(RIG, 64, (0.1, 0.05, -0.1)), ball(RIG, 64, (0.1, 0.15, -0.1))
    whole = torch.ones(6, dtype=torch.bool)
    assert np.nanmax(tangency_errors(Outlines.of(one, whole), RIG)) < 0.2
    mixed = Outlines.of(torch.cat([one[:1], other[1:]]), whole)
    errors = np.nanmean(tangency_errors(mixed, RIG), axis=(1, 2))
    # A tenth of a unit is 5 pixels, of which the planes see the part across them.
    assert errors[0] > 1.5
    assert np.argmax(errors) == 0


def test_tangent_planes_equal_those_of_a_loop_over_pairs(odd: list[Posed]) -> None:
    """The twin measures angles between plane normals, not between projected rays."""
    posed = odd[1]
    alpha = torch.from_numpy(posed.rgba[..., 3]).float() / 255
    outlines = Outlines.of(alpha, torch.ones(len(alpha), dtype=torch.bool))
    found = tangency_errors(outlines, posed.cameras)
    compared = 0
    for one, two in combinations(range(len(alpha)), 2):
        if np.isnan(found[one, two, 0]):
            continue
        centres = posed.cameras.centres[[one, two]].double().numpy()
        baseline = centres[1] - centres[0]
        middle = np.cross(baseline, -centres[0])  # normal of the plane through both cameras and the origin
        spans = []
        for view in (one, two):
            c2w = posed.cameras.c2w_opencv[view].double().numpy()
            matrix = posed.cameras.intrinsics_norm[view].double().numpy()
            angles = []
            for u, v in outlines.uv_norm[view]:
                ray = c2w[:3, :3] @ np.linalg.solve(matrix, [u, v, 1])
                normal = np.cross(baseline, ray)
                turn = math.acos(np.clip(normal @ middle / np.linalg.norm(normal) / np.linalg.norm(middle), -1, 1))
                angles.append(math.copysign(turn, np.cross(middle, normal) @ baseline))
            spans.append((min(angles), max(angles)))
        distance = np.linalg.norm(np.cross(baseline, centres[0])) / np.linalg.norm(baseline)
        pixels = distance * posed.cameras.intrinsics_norm[one, 0, 0].item() * 64 / np.linalg.norm(centres[0])
        expected = [abs(spans[0][side] - spans[1][side]) * pixels for side in (0, 1)]
        assert found[one, two] == pytest.approx(expected, abs=1e-4)
        compared += 1
    assert compared > 15

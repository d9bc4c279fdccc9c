"""Triangles of polygons: every place inside lies in exactly one, and none outside of the polygon does."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ouroboros3d.datamodules.meshes.polygons import triangulated

U = [(-1, -1), (1, -1), (1, 1), (0.6, 1), (0.6, -0.6), (-0.6, -0.6), (-0.6, 1), (-1, 1)]
L = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
COMB = [(0, 0), (9, 0), *[(9 - x, 3 if x % 2 else 1) for x in range(10)]]
SPIRAL = [
    (0, 0),
    (6, 0),
    (6, 6),
    (1, 6),
    (1, 2),
    (4, 2),
    (4, 4),
    (3, 4),
    (3, 3),
    (2, 3),
    (2, 5),
    (5, 5),
    (5, 1),
    (0, 1),
]
# A square with a square hole, which is reached and left along one line.
HOLE = [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)]
TWO_HOLES = [
    *[(0, 0), (7, 0), (7, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)],
    *[(0, 0), (4, 1), (4, 2), (6, 2), (6, 1), (4, 1)],
]
# Corners on straight edges, and one that comes twice.
STRAIGHT = [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (2, 2), (1, 2), (1, 1), (0, 1)]


def jagged(seed: int, corners: int) -> list[tuple[float, float]]:
    """A random polygon around the origin, which need not see all of itself from any corner."""
    draw = np.random.default_rng(seed)
    angles = np.sort(draw.uniform(0, 2 * np.pi, corners))
    radii = draw.uniform(0.1, 1, corners)
    return [(float(r * np.cos(a)), float(r * np.sin(a))) for r, a in zip(radii, angles, strict=True)]


POLYGONS = {
    **{"U": U, "L": L, "comb": COMB, "spiral": SPIRAL, "hole": HOLE, "two holes": TWO_HOLES, "straight": STRAIGHT},
    **{f"jagged {seed}": jagged(seed, 5 + seed) for seed in range(12)},
}


def crossings(polygon: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.int64]:
    """How often a ray to the right of each place crosses the outline: odd inside."""
    count = np.zeros(len(places), int)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            at = x0 + (places[:, 1] - y0) / (y1 - y0) * (x1 - x0)
            count += ((y0 > places[:, 1]) != (y1 > places[:, 1])) & (at > places[:, 0])
    return count


@pytest.mark.parametrize("name", POLYGONS)
@pytest.mark.parametrize("backwards", [False, True])
def test_triangles_cover_a_polygon_once(name: str, backwards: bool) -> None:
    flat = np.array(POLYGONS[name], float)[:: -1 if backwards else 1]
    places = np.random.default_rng(0).uniform(flat.min(axis=0), flat.max(axis=0), (400, 2))
    inside = crossings(flat, places) % 2
    # Turned and moved into space, from every corner on.
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0][:2]
    for start in range(len(flat)):
        polygon = np.roll(flat, start, axis=0)
        triangles, of_polygon = triangulated(polygon @ axes + 7, np.array([len(flat)]))
        assert triangles.shape == (len(flat) - 2, 3)
        assert (of_polygon == 0).all()
        assert ((0 <= triangles) & (triangles < len(flat))).all()
        held = sum(crossings(polygon[triangle], places) % 2 for triangle in triangles)
        assert (held == inside).all()
        one, other = (polygon[triangles[:, corner]] - polygon[triangles[:, 0]] for corner in (1, 2))
        areas = one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
        assert (areas * (-1 if backwards else 1) > -1e-12).all()  # none is turned


def test_polygons_in_a_row_and_fans_where_they_are_right() -> None:
    """Convex ones, and those that see all from their first corner, stay the fans that they were."""
    square = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    arrow = [(0, 0, 1), (2, 1, 1), (0, 0.5, 1), (-2, 1, 1)]
    rolled = [arrow[1], arrow[2], arrow[3], arrow[0]]  # not all of it is seen from here
    triangles, polygon = triangulated(
        np.array([*square[:3], *square, *arrow, *rolled, *square], float), np.array([3, 4, 4, 4, 4])
    )
    assert polygon.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    fans = {1: [[3, 4, 5], [3, 5, 6]], 2: [[7, 8, 9], [7, 9, 10]], 4: [[15, 16, 17], [15, 17, 18]]}
    for index, fan in fans.items():
        assert triangles[polygon == index].tolist() == fan
    assert sorted(map(sorted, triangles[polygon == 3].tolist())) == [[11, 12, 14], [12, 13, 14]]


def test_nearly_planar_polygons() -> None:
    bent = np.array([(x, y, 0.05 * np.sin(3 * x + y)) for x, y in U])
    triangles, _ = triangulated(bent, np.array([len(U)]))
    edges = bent[triangles]
    area = np.linalg.norm(np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0]), axis=1).sum() / 2
    assert area == pytest.approx(4 - 1.2 * 1.6, rel=0.02)


def test_polygons_without_a_right_answer_end_too() -> None:
    """Ones that cross themselves, lie on a line or in a point, or hold no numbers."""
    bow_tie = [(0, 0), (1, 1), (1, 0), (0, 1)]
    star = [(np.cos(a), np.sin(a)) for a in np.arange(5) * 4 * np.pi / 5]
    line = [(x, 0) for x in (0, 3, 1, 4, 2)]
    for polygon in (bow_tie, star, line, [(1, 1)] * 5, [(np.nan, 0), (1, 0), (0, np.inf), (2, 2)], jagged(3, 40)[::2]):
        corners = np.array([(x, y, 0) for x, y in polygon])
        triangles, _ = triangulated(corners, np.array([len(polygon)]))
        assert triangles.shape == (len(polygon) - 2, 3)

"""Polygons to triangles, as OBJ and PLY files have them: convex or not, planar or nearly."""

import numpy as np
from numpy.typing import NDArray

# Of a polygon's area: what a triangle may lie on the wrong side by rounding, and what a corner may turn by none.
_ROUNDING = 1e-6


def triangulated(
    corners: NDArray[np.float64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut polygons into triangles that cover them once.

    A polygon that its first corner sees all of becomes a fan from there, as nearly all are. The others lose one ear
    after another (Meisters 1975, "Polygons have ears"), in the plane of their area vector. One that crosses itself has
    no right answer, and is cut where the least of it lies twice.

    Args:
        corners: [C, 3] corners of all polygons, one after another.
        lengths: [P] how many corners each has, at least 3.

    Returns:
        [F, 3] triangles of corners, polygon by polygon, and [F] the polygon of each.
    """
    count = lengths - 2
    polygon = np.repeat(np.arange(len(lengths)), count)
    first, first_triangle = np.cumsum(lengths) - lengths, np.cumsum(count) - count
    second = first[polygon] + 1 + np.arange(len(polygon)) - first_triangle[polygon]
    triangles = np.stack([first[polygon], second, second + 1], axis=1)
    total, turned = _turned(corners, triangles, polygon, count)
    quads = turned[count[turned] == 2]  # by far the most: of the two ways to cut one, the other is right
    of_quads = first_triangle[quads, None] + np.arange(2)
    triangles[of_quads] = first[quads, None, None] + np.array([[1, 2, 3], [1, 3, 0]])
    for index in turned[count[turned] > 2]:
        own = slice(first_triangle[index], first_triangle[index] + count[index])
        points = corners[first[index] : first[index] + lengths[index]]
        triangles[own] = first[index] + _without_ears(_in_plane(points, total[index]))
    return triangles, polygon


def _turned(
    corners: NDArray[np.float64], triangles: NDArray[np.int64], polygon: NDArray[np.int64], count: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """[P, 3] area vectors of polygons of several triangles, and those of which one lies the other way round."""
    several = (count > 1)[polygon].nonzero()[0]
    origin, one, other = (corners[triangles[several, corner]] for corner in range(3))
    with np.errstate(all="ignore"):  # numbers out of range are refused among the vertices
        area = np.cross(one - origin, other - origin)
        sums = [np.bincount(polygon[several], area[:, axis], len(count)) for axis in range(3)]
        total = np.stack(sums, axis=1, dtype=np.float64)
        along = (area * total[polygon[several]]).sum(axis=1)
        turned = along < -_ROUNDING * (total**2).sum(axis=1)[polygon[several]]
    of_turned: NDArray[np.int64] = np.unique(polygon[several[turned]])
    return total, of_turned


def _in_plane(points: NDArray[np.float64], area: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 2] coordinates in the plane across an area vector, in which the polygon runs counter-clockwise."""
    up = area / np.linalg.norm(area)
    right = np.cross(np.eye(3)[np.abs(up).argmin()], up)
    right /= np.linalg.norm(right)
    flat: NDArray[np.float64] = (points - points[0]) @ np.stack([right, np.cross(up, right)], axis=1)
    return flat


def _without_ears(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """[N - 2, 3] triangles of a counter-clockwise polygon [N, 2].

    An ear is a corner that turns left and whose triangle holds no other corner. Corners in the same place as one of the
    ear's own do not count: polygons with holes run to the hole and back along one line.
    """
    flat = _ROUNDING * abs(_turn(points[:1], points[:-1], points[1:]).sum())
    left = np.arange(len(points))
    triangles = []
    place = 0
    while len(left) > 3:
        best, fewest = None, 2 * len(left)
        for step in range(len(left)):
            middle = (place + step) % len(left)
            ear = left[[middle - 1, middle, (middle + 1) % len(left)]]
            turn = _turn(*points[ear])
            if turn < -flat:
                continue
            # A corner that does not turn takes nothing away, and goes when there is no ear, before anything is doubled.
            inside = 2 * _held(points[left], points[ear]) if turn > flat else 1
            if inside < fewest:
                best, fewest = middle, inside
            if inside == 0:
                break
        place = (place if best is None else best) % len(left)
        triangles.append(left[[place - 1, place, (place + 1) % len(left)]])
        left = np.delete(left, place)
    return np.array([*triangles, left])


def _held(points: NDArray[np.float64], triangle: NDArray[np.float64]) -> int:
    """How many points lie in or on a counter-clockwise triangle [3, 2], in other places than its corners."""
    inside = np.ones(len(points), dtype=bool)
    for corner in range(3):
        start, end = triangle[corner], triangle[(corner + 1) % 3]
        inside &= (_turn(start, end, points) >= 0) & (points != start).any(axis=1)
    return int(inside.sum())


def _turn(start: NDArray[np.float64], middle: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the signed area of triangles, positive where they turn left."""
    one, other = middle - start, end - start
    turn: NDArray[np.float64] = one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]
    return turn

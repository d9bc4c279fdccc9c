"""The typed object between surfaces and their metrics."""

import math

import torch
from torch.testing import assert_close

from ouroboros3d.surface import Surface


def some_surface(objects: int = 2, count: int = 5) -> Surface:
    normals = torch.nn.functional.normalize(torch.randn(objects, count, 3), dim=-1)
    return Surface(torch.rand(objects, count, 3) - torch.tensor([0.2, 0.4, 0.7]), normals)


def test_a_similarity_moves_points_and_only_turns_normals():
    surface = some_surface()
    turn = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # a quarter about +Y: +Z goes to +X
    similarity = torch.eye(4).repeat(2, 1, 1)
    similarity[1, :3, :3], similarity[1, :3, 3] = 2.5 * turn, torch.tensor([0.1, 0.2, 0.3])
    moved = surface.transform(similarity)
    assert_close(moved.points[0], surface.points[0])
    x, y, z = surface.points[1].unbind(-1)
    assert_close(moved.points[1], torch.stack([2.5 * z + 0.1, 2.5 * y + 0.2, -2.5 * x + 0.3], dim=-1))
    x, y, z = surface.normals[1].unbind(-1)
    assert_close(moved.normals[1], torch.stack([z, y, -x], dim=-1))


def test_a_missing_surface_stays_missing():
    surface = Surface.cat([some_surface(1), Surface(torch.full((1, 5, 3), math.nan), torch.full((1, 5, 3), math.nan))])
    assert surface.present.tolist() == [True, False]
    assert surface.transform(2 * torch.eye(4).repeat(2, 1, 1)).present.tolist() == [True, False]


def test_indexing_is_that_of_a_tensor():
    surface = some_surface()
    assert surface.shape == (2, 5)
    assert surface[1:].shape == (1, 5)
    assert_close(surface[1:, :2].points, surface.points[1:, :2])
    assert surface.to("cpu").shape == (2, 5)

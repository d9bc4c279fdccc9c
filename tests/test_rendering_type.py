"""Canonical coordinates as an image: the map's ends, its middle, and where there is nothing."""

import pytest
import torch
from torch.testing import assert_close

from ouroboros3d.renderers.rendering import Rendering, encode_coordinates

POINT = torch.tensor([0.3, -0.6, 0.12]).reshape(3, 1, 1)


@pytest.mark.parametrize(
    ("half_extent", "expected"),
    [(0.6, [0.75, 0.0, 0.6]), (1.2, [0.625, 0.25, 0.55])],  # X / (2 b) + 0.5 by hand
)
def test_values(half_extent, expected):
    encoded = encode_coordinates(POINT, torch.ones(1, 1, 1), half_extent)
    assert_close(encoded.flatten(), torch.tensor(expected))


def test_the_default_cube_holds_every_normalised_object_in_every_rotation():
    radius = 0.58  # of the sphere that objects are normalised into
    directions = torch.nn.functional.normalize(torch.randn(3, 50, 50), dim=0)
    encoded = encode_coordinates(radius * directions, torch.ones(1, 50, 50))
    assert encoded.min() > 0
    assert encoded.max() < 1
    assert_close((encoded - 0.5) * 1.2, radius * directions, rtol=0, atol=2e-7)  # float32 steps below 1


def test_beyond_the_cube_is_clipped():
    encoded = encode_coordinates(torch.tensor([-2.0, 2.0, 0.0]).reshape(3, 1, 1), torch.ones(1, 1, 1))
    assert encoded.flatten().tolist() == [0.0, 1.0, 0.5]


def test_nothing_below_half_alpha_in_each_view():
    alpha = torch.tensor([0.0, 0.49, 0.5, 1.0]).reshape(1, 2, 1, 1, 2)  # [B, V, 1, H, W]
    encoded = encode_coordinates(POINT.expand(1, 2, 3, 1, 2), alpha)
    assert encoded.shape == (1, 2, 3, 1, 2)
    assert torch.equal(encoded[0, 0], torch.zeros(3, 1, 2))  # zero, not the cube's middle
    assert_close(encoded[0, 1, :, 0, 0], torch.tensor([0.75, 0.0, 0.6]))
    assert_close(encoded[0, 1, :, 0, 1], torch.tensor([0.75, 0.0, 0.6]))


def test_gradient_flows_to_covered_pixels_only():
    coordinates = POINT.expand(3, 1, 2).clone().requires_grad_()
    encode_coordinates(coordinates, torch.tensor([0.2, 0.9]).reshape(1, 1, 2)).sum().backward()
    assert torch.equal(coordinates.grad[..., 0], torch.zeros(3, 1))
    assert_close(coordinates.grad[0, 0, 1].item(), 1 / 1.2)


def test_fields_and_the_default():
    assert Rendering._fields == ("colour", "alpha", "depth", "coordinates", "truncated_fraction", "normals")
    assert Rendering(*torch.zeros(5)).normals is None

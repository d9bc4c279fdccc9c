"""Coordinates as an image: the map's ends, its middle, where there is nothing, and the published map."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ouroboros3d.cameras import Cameras
from ouroboros3d.renderers.rendering import Rendering, encode_coordinates, published_coordinates

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
    always = ("colour", "alpha", "depth", "coordinates", "truncated_fraction")
    assert Rendering._fields == (*always, "normals", "depth_sum")
    assert Rendering(*torch.zeros(5))[5:] == (None, None)


def test_published_coordinates():
    """The published code's own map of a sphere, and of one 40 times as far, where values are clamped."""
    with np.load(Path(__file__).parent / "fixtures" / "published" / "position_map.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in ("c2w", "intrinsics", "depth", "position_map")}
        far = torch.from_numpy(file["position_map_depth_x40"])
    cameras = Cameras(arrays["c2w"], arrays["intrinsics"])
    found = published_coordinates(arrays["depth"], cameras)
    assert_close(found, arrays["position_map"], rtol=0, atol=1e-6)
    assert_close(published_coordinates(40 * arrays["depth"][:, :2], cameras[:, :2]), far, rtol=0, atol=1e-6)
    empty = (arrays["depth"] == 0).expand_as(found)
    assert (found[empty] == 0.5).all()
    assert far.max() == 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(published_coordinates(arrays["depth"], cameras), found)

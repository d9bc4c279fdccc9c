"""LGM's augmentation: view 0 stays, nothing leaves its range, cameras stay on their spheres."""

import torch

from ouroboros3d.cameras import Cameras, check_rigid
from ouroboros3d.lightning_modules.augmentation import augment_views, distort_grid, jitter_orbit


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def cameras(batch: int) -> Cameras:
    views = Cameras.orbit(torch.arange(4) * 90.0, 10.0, 1.7, 40.0)
    return Cameras.cat([views[None]] * batch, dim=0)


def test_the_input_view_stays_and_the_others_change() -> None:
    torch.manual_seed(0)
    images, rig = torch.rand(3, 4, 3, 16, 16), cameras(3)
    changed, turned = augment_views(images, rig, stream(), probability=1.0, background=torch.ones(3, 3))
    assert torch.equal(changed[:, 0], images[:, 0])
    assert torch.equal(turned.c2w_opencv[:, 0], rig.c2w_opencv[:, 0])
    assert (changed[:, 1:] - images[:, 1:]).abs().flatten(2).amax(-1).gt(0.01).all()
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.equal(turned.c2w_opencv[:, 1:], rig.c2w_opencv[:, 1:])


def test_probability_zero_changes_nothing() -> None:
    images, rig = torch.rand(2, 4, 3, 16, 16), cameras(2)
    same, still = augment_views(images, rig, stream(), probability=0.0)
    assert same is images
    assert still is rig


def test_the_background_shows_where_an_image_ends() -> None:
    plain = torch.full((2, 4, 3, 16, 16), 0.7)
    changed, _ = augment_views(plain, cameras(2), stream(), probability=1.0, background=torch.full((2, 3), 0.7))
    # Interpolation of a constant, in float32.
    torch.testing.assert_close(changed, plain, rtol=0, atol=1e-6)


def test_a_grid_distortion_moves_pixels_and_does_not_fold() -> None:
    ramp = torch.linspace(0, 1, 64).expand(5, 1, 64, 64)
    warped = distort_grid(ramp, stream())[:, 0, 32, 3:-3]
    assert (warped - ramp[:, 0, 32, 3:-3]).abs().amax() > 0.01
    assert (warped.diff(dim=-1) >= -1e-6).all(), "a ramp stays a ramp: columns keep their order"


def test_jitter_turns_cameras_around_the_origin() -> None:
    rig = cameras(50)
    turned = jitter_orbit(rig, stream())
    check_rigid(turned.c2w_opencv)
    torch.testing.assert_close(turned.centres.norm(dim=-1), rig.centres.norm(dim=-1), rtol=1e-5, atol=0)
    relative = turned.c2w_opencv[..., :3, :3] @ rig.c2w_opencv[..., :3, :3].transpose(-1, -2)
    trace = relative.diagonal(dim1=-2, dim2=-1).sum(-1)
    angle_deg = torch.rad2deg(torch.acos(((trace - 1) / 2).clamp(-1, 1)))
    assert angle_deg.max() > 10
    assert angle_deg.max() < 18 + 9 + 1e-2, "18 degrees about y and 9 about x at most"
    # Looking at the origin before, looking at it after.
    _, depth = turned.project(torch.zeros(50, 4, 1, 3))
    torch.testing.assert_close(depth[..., 0], rig.centres.norm(dim=-1), rtol=1e-4, atol=0)

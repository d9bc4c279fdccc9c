"""Mirrored and recoloured objects are what they would be seen as."""

import pytest
import torch

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.augmentation import ObjectAugmentation, mirrored

SIZE, VIEWS = 64, 4


def cameras() -> Cameras:
    """An orbit of four views and two novel ones, with fx != fy and a principal point off the middle."""
    orbit = Cameras.orbit([10.0, 100.0, 190.0, 280.0], 15.0, 1.7417, 39.598)
    novel = Cameras.orbit([35.0, 200.0], [-5.0, 28.0], 1.7417, 39.598)
    every = Cameras.cat([orbit, novel], 0)
    intrinsics = every.intrinsics_norm.clone()
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = 0.45, 0.53
    intrinsics[:, 1, 1] *= 1.1
    return Cameras(every.c2w_opencv, intrinsics)


def pixel(point: torch.Tensor, seen_by: Cameras) -> torch.Tensor:
    """[F, 2] column and row of the pixel that shows a point: the pinhole camera, written out."""
    inverse = torch.linalg.inv(seen_by.c2w_opencv)
    local = inverse[:, :3, :3] @ point + inverse[:, :3, 3]
    x = seen_by.intrinsics_norm[:, 0, 0] * local[:, 0] / local[:, 2] + seen_by.intrinsics_norm[:, 0, 2]
    y = seen_by.intrinsics_norm[:, 1, 1] * local[:, 1] / local[:, 2] + seen_by.intrinsics_norm[:, 1, 2]
    return (torch.stack([x, y], dim=1) * SIZE).floor().long()


def marked(point: torch.Tensor, seen_by: Cameras) -> torch.Tensor:
    """Views [F, SIZE, SIZE, 4] with one opaque pixel each, where the point is seen."""
    rgba = torch.zeros(len(seen_by.c2w_opencv), SIZE, SIZE, 4, dtype=torch.uint8)
    for view, (column, row) in enumerate(pixel(point, seen_by).tolist()):
        rgba[view, row, column] = torch.tensor([200, 100, 50, 255], dtype=torch.uint8)
    return rgba


def test_a_marker_of_the_mirrored_object_is_where_its_cameras_project_it():
    point = torch.tensor([0.31, -0.12, 0.22])
    rgba, seen_by = mirrored(marked(point, cameras()), cameras(), VIEWS)
    expected = pixel(point * torch.tensor([-1.0, 1.0, 1.0]), seen_by)
    found = rgba[..., 3].flatten(1).float().argmax(1)
    assert torch.equal(torch.stack([found % SIZE, found // SIZE], dim=1), expected)
    assert not torch.equal(expected, pixel(point, seen_by))  # the object itself would be seen elsewhere


def test_a_mirrored_orbit_turns_the_same_way_from_the_same_input():
    _, seen_by = mirrored(marked(torch.zeros(3), cameras()), cameras(), VIEWS)
    centres = seen_by.centres
    azimuth = torch.rad2deg(torch.atan2(centres[:VIEWS, 0], centres[:VIEWS, 2]))
    torch.testing.assert_close((azimuth - azimuth[0]) % 360, torch.arange(4) * 90.0, atol=1e-3, rtol=0)
    torch.testing.assert_close(centres[0] * torch.tensor([-1.0, 1.0, 1.0]), cameras().centres[0])
    torch.testing.assert_close(torch.linalg.det(seen_by.c2w_opencv[:, :3, :3]), torch.ones(6))


def test_mirrored_twice_is_the_object():
    rgba = torch.randint(256, (6, 8, 8, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    again, seen_by = mirrored(*mirrored(rgba, cameras(), VIEWS), VIEWS)
    assert torch.equal(again, rgba)
    torch.testing.assert_close(seen_by.c2w_opencv, cameras().c2w_opencv)
    torch.testing.assert_close(seen_by.intrinsics_norm, cameras().intrinsics_norm)


def test_recolouring_permutes_and_bends_channels_alike_in_all_views():
    ramp = torch.arange(256, dtype=torch.uint8)
    rgba = torch.stack([ramp, ramp.flip(0), ramp // 2, ramp], dim=1)[None, None].expand(6, 1, 256, 4)
    generator = torch.Generator().manual_seed(3)
    other, seen_by = ObjectAugmentation(recolour=1.0).apply(rgba, cameras(), VIEWS, generator)
    assert torch.equal(other[..., 3], rgba[..., 3])
    assert torch.equal(seen_by.c2w_opencv, cameras().c2w_opencv)
    assert all(torch.equal(view, other[0]) for view in other)
    assert not torch.equal(other, rgba)
    signs = {int((channel.int()[-1] - channel.int()[0]).sign()) for channel in other[0, 0, :, :3].T}
    assert signs == {1, -1}  # two channels rise and one falls, wherever they went
    for channel in other[0, 0, :, :3].T.int():
        steps = channel.diff()
        assert bool((steps >= 0).all() or (steps <= 0).all())


def test_chances_of_zero_leave_the_sample_as_it_is():
    rgba = torch.randint(256, (6, 8, 8, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for seed in range(5):
        same, seen_by = ObjectAugmentation().apply(rgba, cameras(), VIEWS, torch.Generator().manual_seed(seed))
        assert same is rgba
        assert torch.equal(seen_by.c2w_opencv, cameras().c2w_opencv)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mirror": 1.5}, r"augmentation.mirror: expected a probability in \[0, 1\], got 1.5"),
        ({"recolour": -0.1}, r"augmentation.recolour: expected a probability in \[0, 1\], got -0.1"),
        ({"gamma": 0.5}, "augmentation.gamma: expected a finite factor of at least 1, got 0.5"),
    ],
)
def test_values_out_of_range_are_one_line(wrong, message):
    with pytest.raises(ValueError, match=message):
        ObjectAugmentation(**wrong)

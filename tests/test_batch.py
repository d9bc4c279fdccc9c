"""The batch is checked once, where data meets model: each thing that can be off is named."""

from dataclasses import replace

import pytest
import torch

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.surface import Surface


def good_batch(objects: int = 2, views: int = 4, targets: int = 3, height: int = 6, width: int = 10) -> MultiviewBatch:
    """A batch that passes, non-square."""
    azimuths = torch.linspace(0, 360, views + 1)[:-1]
    cameras = Cameras.orbit(azimuths.expand(objects, views), 0.0, 1.7, 40.0, aspect=width / height)
    novel = Cameras.orbit(torch.rand(objects, targets) * 360, 20.0, 1.7, 40.0, aspect=width / height)
    return MultiviewBatch(
        uids=tuple(f"object-{i}" for i in range(objects)),
        images_01=torch.rand(objects, views, 3, height, width),
        alpha=torch.rand(objects, views, 1, height, width),
        cameras=cameras,
        target_images_01=torch.rand(objects, targets, 3, height, width),
        target_alpha=torch.rand(objects, targets, 1, height, width),
        target_cameras=novel,
        background=torch.ones(objects, 3),
        object_from_batch=torch.eye(4).repeat(objects, 1, 1),
    )


def test_a_good_batch_passes_and_is_returned():
    batch = good_batch()
    assert batch.validate() is batch
    assert len(batch) == 2
    assert torch.equal(batch.input_images_01, batch.images_01[:, 0])


def test_no_targets_and_only_the_input_known():
    batch = good_batch(targets=0)
    batch.validate()
    replace(batch, images_01=batch.images_01[:, :1], alpha=batch.alpha[:, :1]).validate()


@pytest.mark.parametrize(
    "name", ["images_01", "alpha", "target_images_01", "target_alpha", "background", "object_from_batch"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(name, value):
    batch = good_batch()
    tensor = getattr(batch, name).clone()
    tensor.view(-1)[-1] = value
    with pytest.raises(ValueError, match=rf"MultiviewBatch\.{name}: expected finite values.*object-0"):
        replace(batch, **{name: tensor}).validate()


@pytest.mark.parametrize("name", ["images_01", "alpha", "target_images_01", "target_alpha", "background"])
@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0])
def test_values_out_of_range(name, value):
    batch = good_batch()
    tensor = getattr(batch, name).clone()
    tensor.view(-1)[0] = value
    with pytest.raises(ValueError, match=rf"MultiviewBatch\.{name}: expected values in \[0, 1\], got .*{value:g}"):
        replace(batch, **{name: tensor}).validate()


@pytest.mark.parametrize("name", ["alpha", "target_images_01", "target_alpha", "background", "object_from_batch"])
def test_shapes(name):
    batch = good_batch()
    with pytest.raises(ValueError, match=rf"MultiviewBatch\.{name}: expected shape \[2, .*got \[1, "):
        replace(batch, **{name: getattr(batch, name)[:1]}).validate()


def test_height_and_width_swapped():
    batch = good_batch()
    with pytest.raises(ValueError, match=r"MultiviewBatch\.alpha: expected shape \[2, 4, 1, 6, 10\]"):
        replace(batch, alpha=batch.alpha.mT).validate()


def test_number_of_views():
    batch = good_batch()
    with pytest.raises(ValueError, match=r"1 or V images.*\[2, 4\], got images of \[2, 3, 3, 6, 10\]"):
        replace(batch, images_01=batch.images_01[:, :3]).validate()


def test_number_of_uids():
    with pytest.raises(ValueError, match="expected 3 uids"):
        replace(good_batch(), uids=("a", "b", "c")).validate()


def test_poses_must_be_rigid():
    batch = good_batch()
    mirrored = batch.target_cameras.c2w_opencv * torch.tensor([-1.0, 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="expected rigid poses"):
        replace(batch, target_cameras=Cameras(mirrored, batch.target_cameras.intrinsics_norm)).validate()


@pytest.mark.parametrize("name", ["cameras", "target_cameras"])
@pytest.mark.parametrize("focal", [0.0, -1.0, float("nan")])
def test_intrinsics(name, focal):
    batch = good_batch()
    cameras = getattr(batch, name)
    intrinsics = cameras.intrinsics_norm.clone()
    intrinsics[1, 2, 1, 1] = focal
    with pytest.raises(ValueError, match=rf"MultiviewBatch\.{name}: expected finite intrinsics"):
        replace(batch, **{name: Cameras(cameras.c2w_opencv, intrinsics)}).validate()


def test_target_cameras_of_another_batch():
    with pytest.raises(ValueError, match=r"MultiviewBatch\.target_cameras: expected poses \[2, 3, 4, 4\]"):
        replace(good_batch(), target_cameras=good_batch(objects=1).target_cameras).validate()


def test_moving_moves_everything():
    moved = good_batch().to("meta")
    tensors = [moved.images_01, moved.alpha, moved.target_images_01, moved.target_alpha, moved.background]
    tensors += [moved.object_from_batch, moved.cameras.c2w_opencv, moved.target_cameras.intrinsics_norm]
    assert all(tensor.is_meta for tensor in tensors)
    assert moved.uids == ("object-0", "object-1")


def with_geometry() -> MultiviewBatch:
    batch = good_batch()
    surface = Surface(torch.rand(2, 5, 3), torch.nn.functional.normalize(torch.rand(2, 5, 3), dim=-1))
    solid = torch.rand(2, 8, 8, 8) > 0.5
    return replace(batch, surface=surface, occupancy=solid, coordinates=torch.rand(2, 4, 3, 6, 10)).validate()


def test_the_batch_of_one_object():
    batch = with_geometry()
    one = batch.object(1).validate()
    assert one.uids == ("object-1",)
    assert torch.equal(one.target_images_01, batch.target_images_01[1:])
    assert torch.equal(one.cameras.c2w_opencv, batch.cameras.c2w_opencv[1:])
    assert one.surface is not None
    assert torch.equal(one.surface.points, batch.surface.points[1:])
    assert torch.equal(one.occupancy, batch.occupancy[1:])
    assert good_batch().object(0).surface is None
    assert torch.equal(batch.to("cpu").coordinates, batch.coordinates)


def test_geometry_of_another_size():
    batch = with_geometry()
    with pytest.raises(ValueError, match=r"MultiviewBatch\.coordinates: expected shape \[2, 4, 3, 6, 10\]"):
        replace(batch, coordinates=batch.coordinates[:, :3]).validate()
    with pytest.raises(ValueError, match=r"MultiviewBatch\.surface: expected 2 objects, got 1"):
        replace(batch, surface=batch.surface[:1]).validate()

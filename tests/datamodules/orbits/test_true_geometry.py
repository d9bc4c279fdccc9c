"""True geometry of tested objects: where it is written, and that it is the surface that the views show."""

import json
from pathlib import Path

import pytest
import torch
from conftest import RIG, Tree
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.testing import assert_close

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.orbits.true_geometry import TrueGeometry, write_true_geometry
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.ouroboros3d import read_true_geometry
from ouroboros3d.datamodules.readers.stored import ObjectFiles
from ouroboros3d.metrics.geometry import Chamfer, surface_distances
from ouroboros3d.surface import Surface

POINTS = 500


def prepared(
    tree: Tree, cache_dir: Path, fn: TrainerFn = TrainerFn.TESTING, points: int = POINTS
) -> ObjaverseDataModule:
    """The data of a `test`, as Lightning prepares it."""
    data = ObjaverseDataModule(
        root=tree.root, cache_dir=cache_dir, num_views=2, num_target_views=3, surface_points=points, rig=RIG
    )
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer.state.fn = fn
    data.prepare_data()
    data.setup(fn.value)
    return data


@pytest.fixture(scope="module")
def batch(tree: Tree, cache_dir: Path) -> MultiviewBatch:
    return next(iter(prepared(tree, cache_dir).test_dataloader()))


def test_coordinate_maps_hold_the_points_that_the_pixels_see(batch: MultiviewBatch) -> None:
    assert batch.coordinates is not None
    height, width = batch.images_01.shape[-2:]
    points = batch.coordinates.permute(0, 1, 3, 4, 2).flatten(2, 3)
    uv, depth = batch.cameras.project(points)
    seen = batch.alpha.flatten(2) > 0.5
    v, u = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    centres = torch.stack([u, v], dim=-1).view(1, 1, -1, 2).expand_as(uv)
    assert seen.sum() > 1000
    # Half floats are off by up to 0.00012 scene units, and the image spans 1.25: 1e-4 of its width.
    assert_close(uv[seen], centres[seen], atol=2e-4, rtol=0)
    assert bool((depth[seen] > 1).all())


def test_the_surface_is_the_one_that_the_maps_show(batch: MultiviewBatch) -> None:
    assert batch.surface is not None
    assert batch.coordinates is not None
    assert batch.surface.shape == (len(batch), POINTS)
    assert_close(batch.surface.normals.norm(dim=-1), torch.ones(len(batch), POINTS))
    for item in range(len(batch)):
        seen = batch.coordinates[item].permute(0, 2, 3, 1)[batch.alpha[item, :, 0] > 0.5][None]
        shown = Surface(seen, torch.nn.functional.normalize(seen, dim=-1)).transform(batch.object_from_batch[[item]])
        distances = surface_distances(shown, batch.surface[[item]])
        # 500 points on a surface of about 2 square units lie about 0.03 from any place on it.
        assert distances.to_target.mean() < 0.05
    assert batch.surface.points.abs().max() <= 0.5 + 1e-5, "normalised objects lie in the unit cube"
    quarter = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    turned = batch.surface.transform(quarter.expand(len(batch), 4, 4))
    assert (Chamfer().values(surface_distances(turned, batch.surface)) > 0.05).all(), (
        "a quarter turn is another surface"
    )


def test_solid_cells_lie_under_the_surface(batch: MultiviewBatch) -> None:
    """The slab is solid to its sides: its volume and its box are known from the points on it."""
    assert batch.surface is not None
    assert batch.occupancy is not None
    points = batch.surface.points
    place = (torch.arange(64) + 0.5) / 64 * 1.2 - 0.6
    for item in range(len(batch)):
        cells = batch.occupancy[item].nonzero()
        low, high = place[cells.amin(0)], place[cells.amax(0)]
        # Within a cell of 0.019 and the half pixel of 0.005 that depth is rounded to; 500 points miss the very corners.
        assert_close(low, points[item].amin(0), atol=0.04, rtol=0)
        assert_close(high, points[item].amax(0), atol=0.04, rtol=0)
        assert 0.02 < batch.occupancy[item].float().mean() < 0.5


def test_only_a_test_writes_and_waits_for_it(tree: Tree, tmp_path: Path) -> None:
    fitted = prepared(tree, tmp_path, TrainerFn.FITTING)
    assert not list(tmp_path.rglob("surface_*"))
    assert next(iter(fitted.train_dataloader())).surface is None
    without = prepared(tree, tmp_path, points=0)
    assert next(iter(without.test_dataloader())).coordinates is None
    prepared(tree, tmp_path)
    written = {path.parent.name for path in tmp_path.rglob(f"surface_{POINTS}.npz")}
    assert written == {f"{uid}-00" for uid in tree.uids["test"]}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("surface_*")}
    prepared(tree, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("surface_*")} == before


def test_an_object_without_geometry_is_left_out_with_the_reason(tree: Tree, tmp_path: Path) -> None:
    prepared(tree, tmp_path)
    data = ObjaverseDataModule(
        root=tree.root, cache_dir=tmp_path, num_views=2, num_target_views=3, surface_points=POINTS, rig=RIG
    )
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer.state.fn = TrainerFn.TESTING
    uid = tree.uids["test"][0]
    next(tmp_path.rglob(f"{uid}-00/surface_{POINTS}.npz")).unlink()
    with pytest.raises(ValueError, match=rf"3 test objects, 1 are missing \({uid}"):
        data.setup("test")
    (cache,) = tmp_path.glob("48px-*")
    *_, entry = (json.loads(line) for line in (cache / "index.jsonl").read_text().splitlines() if uid in line)
    failure = json.dumps({**entry, "stage": "render", "error": "no area"})
    (cache / "failures.jsonl").write_text(failure + "\n")
    data.setup("test")
    assert data.failed == {uid: "render: no area"}
    assert uid not in data.tested_uids()


def test_skipped_objects_are_not_served(tree: Tree, cache_dir: Path) -> None:
    data = prepared(tree, cache_dir)
    first, *rest = data.tested_uids()
    data.skipped = frozenset([first])
    assert [uid for batch in data.test_dataloader() for uid in batch.uids] == rest


def test_the_protocol_tells_data_apart(tree: Tree, cache_dir: Path) -> None:
    one, same = (prepared(tree, cache_dir).test_protocol() for _ in range(2))
    assert one == same
    other = prepared(tree, cache_dir)
    other.test_split = "val"
    other.prepare_data()
    other.setup("test")
    changed = {name for name, value in other.test_protocol().items() if value != one[name]}
    assert changed == {"split", "split_sha256", "data_sha256"}


def test_there_and_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    geometry = TrueGeometry(
        Surface(torch.randn(1, 7, 3), torch.nn.functional.normalize(torch.randn(1, 7, 3), dim=-1)),
        torch.rand(5, 5, 5) > 0.5,
        torch.rand(2, 4, 5, 3) - 0.5,
    )
    write_true_geometry(tmp_path, geometry)
    files = ObjectFiles("thing", tmp_path)
    read = read_true_geometry(files, 7)
    assert torch.equal(read.surface.points, geometry.surface.points)
    assert torch.equal(read.surface.normals, geometry.surface.normals)
    assert torch.equal(read.occupancy, geometry.occupancy)
    assert_close(read.coordinates, geometry.coordinates, atol=1.3e-4, rtol=0)  # half of a half float's step below 0.5
    (tmp_path / "coordinate_0001.npz").write_bytes(b"broken")
    with pytest.raises(SampleError, match=r"coordinate_0001\.npz"):
        read_true_geometry(files, 7)
    with pytest.raises(SampleError, match=r"surface_8\.npz"):
        read_true_geometry(files, 8)

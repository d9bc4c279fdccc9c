"""The data module on trees of posed renders: which views make a sample, at which size, and from which split."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import posed_writers as writers
import pytest
import torch
from conftest import RIG as RENDERED
from conftest import Tree
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from posed_writers import BALLS, LAYOUTS, ORBIT, draw, pose
from torch.testing import assert_close

from ouroboros3d.cameras import Cameras
from ouroboros3d.cli import main
from ouroboros3d.datamodules.datasets import Sample, SampleKey, collate
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.splits import Split, split_of
from ouroboros3d.datamodules.views import resized, solid_colour, spread

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "tests/fixtures/published/dataset_cameras.npz"


def module(root: Path, **changes: object) -> ObjaverseDataModule:
    options = {"rig": OrbitRig(32), "num_views": 4, "num_target_views": 2, "batch_size": 1, "assume_rig": True}
    return ObjaverseDataModule(root=root, **{**options, **changes})


def ready(root: Path, stage: str = "fit", **changes: object) -> ObjaverseDataModule:
    data = module(root, **changes)
    data.prepare_data()
    data.setup(stage)
    return data


def named(split: Split) -> str:
    return next(uid for uid in (f"thing{number}" for number in range(99)) if split_of(uid) == split)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_makes_batches_whose_markers_are_where_the_cameras_say(tmp_path: Path, layout: str) -> None:
    _, uid, write = LAYOUTS[layout]
    write(tmp_path, uid)
    data = ready(tmp_path, "test", rig=OrbitRig(64), val_fraction=0.0, test_fraction=0.99)
    batch = next(iter(data.test_dataloader())).validate()
    assert batch.uids == (uid,)
    first = batch.cameras[0, 0]
    assert_close(first.c2w_opencv[:3, :3], torch.diag(torch.tensor([1.0, -1.0, -1.0])), atol=1e-6, rtol=0)
    images = torch.cat([batch.images_01[0], batch.target_images_01[0]])
    cameras = Cameras.cat([batch.cameras[0], batch.target_cameras[0]], dim=0)
    batch_from_object = torch.linalg.inv(batch.object_from_batch[0])
    shown = 0
    for centre, radius, colour in BALLS:
        point = (batch_from_object @ torch.tensor([*centre, 1.0]))[:3]
        uv, depth = cameras.project(point.expand(len(images), 1, 3))
        for view, image in enumerate(images):
            straight = torch.tensor(colour) / 255
            alpha = 160 / 255 if colour == BALLS[0][2] else 1.0
            same = (image - (straight * alpha + 1 - alpha)[:, None, None]).abs().amax(0) < 0.02
            rows, columns = same.nonzero(as_tuple=True)
            expected = 3.14 * (radius * cameras.intrinsics_norm[view, 0, 0] * 64 / depth[view]) ** 2
            if len(rows) < 0.5 * expected.item():  # behind another ball, or cut
                continue
            centroid = torch.stack([columns.float().mean(), rows.float().mean()]) + 0.5
            assert (centroid - uv[view, 0] * 64).abs().max() < 1.5
            shown += 1
    assert shown >= 6


DEPTH = [name for name in LAYOUTS if name in ("ours", "gobjaverse", "instantmesh", "trellis", "syncdreamer_gso")]


def of_a_test(root: Path, **changes: object) -> ObjaverseDataModule:
    """As `test` opens a tree whose objects are all tested."""
    data = module(root, **{"val_fraction": 0.0, "test_fraction": 0.99, **changes})
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer.state.fn = TrainerFn.TESTING
    data.setup("test")
    return data


@pytest.mark.parametrize("layout", DEPTH)
def test_true_coordinates_of_renders_with_depth_lie_on_the_balls_that_were_drawn(tmp_path: Path, layout: str) -> None:
    _, uid, write = LAYOUTS[layout]
    write(tmp_path, uid)
    for size in (64, 24):
        batch = next(iter(of_a_test(tmp_path, rig=OrbitRig(size)).test_dataloader()))
        assert (batch.surface, batch.occupancy) == (None, None)
        known = ~batch.coordinates[0].isnan().any(dim=1)
        points = batch.coordinates[0].permute(0, 2, 3, 1)[known]
        points = points @ batch.object_from_batch[0, :3, :3].T + batch.object_from_batch[0, :3, 3]
        gaps = [(points - torch.tensor(centre)).norm(dim=-1) - radius for centre, radius, _ in BALLS]
        # InstantMesh's 255 levels of depth are 0.012 apart; the others' steps are far smaller.
        assert torch.stack(gaps).abs().amin(dim=0).max() < (0.02 if layout == "instantmesh" else 2e-3)
        # A rim apart, where alpha is an average and depth one of its pixels, both say the same.
        assert (known == (batch.alpha[0, :, 0] > 0.3)).float().mean() > (0.98 if size == 64 else 0.9)
        uv, _ = batch.cameras[0].project(batch.coordinates[0].flatten(2).transpose(1, 2))
        places = (torch.arange(size) + 0.5) / size
        rows, columns = torch.meshgrid(places, places, indexing="ij")
        off = (uv.view(4, size, size, 2) - torch.stack([columns, rows], dim=-1))[known].abs().max()
        assert off <= 0.5 / 64 + 1e-5, "no more than half a stored pixel from where the pixel looks"


def test_a_view_whose_depth_cannot_be_read_has_no_true_coordinates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, uid, write = LAYOUTS["trellis"]
    write(tmp_path, uid)
    data = of_a_test(tmp_path)
    dataset = data.test_dataloader().dataset.dataset
    second = dataset._generated(dataset.views.cameras(uid), dataset._rings(uid)[0], 0)[1]
    path = tmp_path / "renders" / uid / f"{second:03d}_depth.png"
    path.write_bytes(path.read_bytes()[:100])
    batch = next(iter(data.test_dataloader()))
    assert [bool(view.isnan().all()) for view in batch.coordinates[0]] == [False, True, False, False]
    assert "coordinate_error is not measured of this view" in caplog.text


def test_without_depth_or_geometry_there_are_no_true_coordinates(tmp_path: Path) -> None:
    _, uid, write = LAYOUTS["trellis"]
    write(tmp_path / "depth", uid)
    writers.official(tmp_path / "none", uid, ORBIT[:8])
    for data in (of_a_test(tmp_path / "depth", surface_points=0), of_a_test(tmp_path / "none")):
        assert next(iter(data.test_dataloader())).coordinates is None


def test_images_of_any_shape_become_squares_with_square_pixels() -> None:
    """The resized ball is round, and its centre where the padded cameras see it."""
    for size in ((48, 64), (64, 48), (47, 64), (33, 33)):
        lens = writers.Lens.of_fov(45, size)
        image = resized(torch.from_numpy(draw(writers.RIG[0], lens).rgba), 32)
        assert image.shape == (32, 32, 4)
    wide = torch.zeros(4, 8, 4, dtype=torch.uint8)
    wide[:, :, :] = torch.tensor([200, 100, 50, 255], dtype=torch.uint8)
    square = resized(wide, 8)
    assert (square[2:6] == wide[0, 0]).all()
    assert (square[[0, 1, 6, 7], :, 3] == 0).all()


def test_colours_are_weighed_by_alpha_when_resized() -> None:
    image = torch.zeros(8, 8, 4, dtype=torch.uint8)
    image[:, :4] = torch.tensor([250, 0, 0, 255], dtype=torch.uint8)
    image[:, 4:] = torch.tensor([0, 250, 0, 0], dtype=torch.uint8)  # invisible green must not bleed
    small = resized(image, 2).float()
    assert small[..., 1].max() <= 1
    assert (small[:, 0, 0] - 250).abs().max() <= 1
    visible = small[..., 3].sum() / 255
    assert_close(visible, torch.tensor(2.0), atol=0.05, rtol=0)


def test_views_are_nearest_to_evenly_spread_ones() -> None:
    even = torch.tensor([22.5 * view + 10 for view in range(16)])
    for start in (0, 5):
        assert spread(even, range(16), start, 8) == [(start + 2 * view) % 16 for view in range(8)]
    uneven = torch.tensor([0.0, 100.0, 95.0, 175.0, 10.0, 350.0, 265.0, 181.0])
    assert spread(uneven, range(8), 0, 4) == [0, 2, 7, 6]
    assert spread(uneven, [1, 3, 5], 2, 3) == [5, 1, 3]
    crowded = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert sorted(spread(crowded, range(4), 1, 4)) == [0, 1, 2, 3]  # each view once


def test_samples_stay_in_a_ring_and_use_every_ring(tmp_path: Path) -> None:
    rings = [[pose(22.5 * view, elevation, 1.5) for view in range(16)] for elevation in (-10, 0, 10, 20, 30, 40)]
    uid = named("train")
    writers.epidiff(tmp_path, uid, tuple(camera for ring in rings for camera in ring))
    dataset = ready(tmp_path, num_views=8).train_dataloader().dataset
    elevations, inputs = set(), set()
    for repeat in range(120):
        sample = dataset[SampleKey(0, 0, repeat)]
        heights = sample.cameras.centres[:8, 1]
        assert heights.max() - heights.min() < 1e-5
        elevations.add(round(float(torch.rad2deg(torch.asin(heights[0] / 1.5)))))
        inputs.add(tuple(sample.cameras.centres[0].numpy().round(3)))
    assert elevations == {-10, 0, 10, 20, 30, 40}
    assert len(inputs) > 60  # of 96


def test_lgm_inputs_are_near_horizontal(tmp_path: Path) -> None:
    uid = named("train")
    cameras = [pose(37 * view, 80 - 1.6 * view, 1.5) for view in range(100)]
    writers.lgm(tmp_path, uid, tuple(cameras))
    dataset = ready(tmp_path).train_dataloader().dataset
    near = {tuple(np.float32(camera.eye).round(4)) for camera in cameras[36:73]}
    for repeat in range(8):
        centres = dataset[SampleKey(0, 0, repeat)].cameras.centres[:4]
        assert {tuple(centre.numpy().round(4)) for centre in centres} <= near
        azimuth = torch.rad2deg(torch.atan2(centres[:, 0], centres[:, 2]))
        steps = (azimuth - azimuth.roll(1)) % 360
        assert (steps - 90).abs().max() < 10


def test_one_factor_scales_an_object_and_moves_no_pixel(tmp_path: Path) -> None:
    """Distances differ from view to view and keep their ratios; points of the object stay at their pixels."""
    uid = named("test")
    writers.zero123(tmp_path, uid)
    plain, scaled = (
        next(iter(ready(tmp_path, "test", input_radius=radius).test_dataloader())) for radius in (None, 1.5)
    )
    factor = 1.5 / plain.cameras.centres[0, 0].norm()
    assert_close(scaled.cameras.centres[0, 0], torch.tensor([0.0, 0.0, 1.5]), atol=1e-6, rtol=0)
    # About the object's centre, which lies on no axis of the input-relative frame.
    points = torch.tensor([centre for centre, _, _ in BALLS])
    for batch in (plain, scaled):
        batch.validate()
    seen = []
    for batch in (plain, scaled):
        batch_from_object = torch.linalg.inv(batch.object_from_batch[0])
        inside = points @ batch_from_object[:3, :3].T + batch_from_object[:3, 3]
        seen.append(batch.cameras.project(inside.expand(1, 4, 3, 3)))
    assert_close(seen[1][0], seen[0][0], atol=2e-6, rtol=0)
    assert_close(seen[1][1], seen[0][1] * factor, atol=2e-6, rtol=0)
    back = scaled.cameras.transform(scaled.object_from_batch[:, None])
    assert_close(back.c2w_opencv, plain.cameras.transform(plain.object_from_batch[:, None]).c2w_opencv)
    assert torch.equal(plain.images_01, scaled.images_01)


def test_objects_may_have_different_numbers_of_views(tmp_path: Path) -> None:
    one, two = [uid for uid in (f"thing{number}" for number in range(30)) if split_of(uid) == "train"][:2]
    writers.official(tmp_path, one, ORBIT)
    writers.official(tmp_path, two, ORBIT[::2])
    batches = list(ready(tmp_path, num_target_views=3, samples_per_object=1).train_dataloader())
    assert sorted(uid for batch in batches for uid in batch.uids) == sorted([one, two])
    with pytest.raises(ValueError, match=rf"{two}: expected 4 generated and 9 novel views, got 8 in all"):
        list(ready(tmp_path, num_target_views=9, samples_per_object=1).train_dataloader())
    kept = ready(tmp_path, num_target_views=9, skip_uids=[two]).train_dataloader()
    assert {uid for batch in kept for uid in batch.uids} == {one}


def test_published_views_and_cameras_are_those_of_the_published_loader(tmp_path: Path) -> None:
    stored = np.load(PUBLISHED)
    uid = named("test")
    writers.official(tmp_path, uid, ORBIT)
    folder = tmp_path / uid
    meta = json.loads((folder / "meta.json").read_text())
    meta["camera_angle_x"] = float(stored["camera_angle_x"])
    for index, (location, matrix) in enumerate(zip(meta["locations"], stored["transform_matrix"], strict=True)):
        location["transform_matrix"] = matrix.tolist()
        pixels = np.zeros((8, 8, 4), np.uint8)
        pixels[...] = (10 * index, 100, 0, 255)
        pixels[:2, :, 3], pixels[2, :, 3] = 64, 0
        (folder / f"render_{index:04d}.webp").unlink()
        location["frames"][0]["name"] = f"render_{index:04d}.png"
        Image.fromarray(pixels).save(folder / f"render_{index:04d}.png")
    (folder / "meta.json").write_text(json.dumps(meta))
    options = {"num_views": 8, "rig": OrbitRig(8), "view_selection": "published", "background": "grey"}
    data = ready(tmp_path, "test", **options)
    dataset = data.test_dataloader().dataset.dataset
    cameras = dataset.views.cameras(uid)
    z_up_to_y_up = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    for start in (0, 5):
        generated = dataset._generated(cameras, range(16), start)
        assert generated == stored[f"view_indices_start{start}_frames8"].tolist()
        chosen = cameras[torch.tensor(generated)]
        absolute = torch.from_numpy(z_up_to_y_up @ stored[f"c2w_start{start}_frames8_absolute"]).float()
        assert_close(chosen.c2w_opencv, absolute, atol=1e-6, rtol=0)
        relative, _ = chosen.reshape(1, 8).relative_to_first()
        published = torch.from_numpy(stored[f"c2w_start{start}_frames8_relative"]).float()
        assert_close(relative.c2w_opencv[0], published, atol=1e-6, rtol=0)
        intrinsics = torch.from_numpy(stored[f"intrinsics_start{start}_frames8"])
        assert_close(chosen.intrinsics_norm, intrinsics, atol=1e-6, rtol=0)
    # The stored pictures are those of the last start.
    sample = Sample(uid, dataset.views.rgba(uid, generated), chosen, solid_colour("grey"))
    pictures = torch.from_numpy(stored["images_gray_background"]) / 2 + 0.5
    assert_close(collate([sample], num_views=8).images_01[0], pictures, atol=1e-6, rtol=0)


def test_published_selection_needs_its_orbit(tmp_path: Path) -> None:
    uid = named("train")
    writers.official(tmp_path, uid, ORBIT[:8])
    with pytest.raises(ValueError, match="view_selection: published takes 8 views, got num_views 4"):
        module(tmp_path, view_selection="published")
    with pytest.raises(ValueError, match=r"orbits of 16, got rig\.views 8"):
        ObjaverseDataModule(view_selection="published", num_views=8)
    data = ready(tmp_path, view_selection="published", num_views=8, num_target_views=0)
    with pytest.raises(ValueError, match=rf"{uid}: view_selection=published expects orbits of 16 views, got \[8\]"):
        next(iter(data.train_dataloader()))
    assert ObjaverseDataModule(view_selection="published", num_views=8, rig=OrbitRig(views=16)).num_views == 8


def test_lists_decide_splits_and_a_hash_all_others(tmp_path: Path) -> None:
    for uid in ("a", "b", "c", "d"):
        writers.official(tmp_path, uid, ORBIT[:1])
    (tmp_path / "train.txt").write_text("a\n")
    (tmp_path / "val.txt").write_text("b\n")
    (tmp_path / "test.txt").write_text("c\n")
    objects = module(tmp_path, val_fraction=0.0, test_fraction=0.0).objects()
    assert objects == {"train": ["a", "d"], "val": ["b"], "test": ["c"]}
    listed = tmp_path / "uids.json"
    listed.write_text(json.dumps(["a", "b"]))
    assert module(tmp_path, uids=listed).objects()["test"] == []


def test_a_copied_cache_is_a_tree_of_its_own(
    tree: Tree, cache_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rendered on one machine, trained and tested on another that has no mesh files: the same batches."""
    options = {"num_views": 2, "num_target_views": 3, "batch_size": 2, "samples_per_object": 2}
    rendered = ObjaverseDataModule(root=tree.root, cache_dir=cache_dir, **options, rig=RENDERED)
    rendered.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    rendered.trainer.state.fn = TrainerFn.TESTING
    rendered.surface_points = 500
    rendered.prepare_data()
    (folder,) = cache_dir.glob("48px-*")
    shutil.copytree(folder, tmp_path / "copy")
    copied = ObjaverseDataModule(root=tmp_path / "copy", rig=OrbitRig(48), surface_points=500, **options)
    copied.trainer = rendered.trainer
    for data in (rendered, copied):
        data.setup("fit")
    assert copied.objects() == rendered.objects()
    for one, two in zip(rendered.train_dataloader(), copied.train_dataloader(), strict=True):
        assert one.uids == two.uids
        assert torch.equal(one.images_01, two.images_01)
        assert torch.equal(one.target_cameras.c2w_opencv, two.target_cameras.c2w_opencv)
    for data in (rendered, copied):
        data.setup("test")
    one, two = (next(iter(data.test_dataloader())) for data in (rendered, copied))
    assert one.surface is not None
    assert two.surface is not None
    assert torch.equal(one.surface.points, two.surface.points)
    assert torch.equal(one.coordinates, two.coordinates)
    protocol = copied.test_protocol()
    assert protocol["num_points"] == 500
    assert protocol["radius"] == [1.742, 1.742]
    assert protocol["data_sha256"]
    caplog.set_level(logging.INFO, "ouroboros3d")
    copied.surface_points = 501
    copied.setup("test")
    assert next(iter(copied.test_dataloader())).surface is None
    assert copied.test_protocol()["num_points"] == 0
    assert "carries no true surfaces" in caplog.text


def test_the_protocol_of_a_tree_follows_its_files(tmp_path: Path) -> None:
    uid = named("test")
    writers.trellis(tmp_path, uid, writers.ORBIT)
    first = ready(tmp_path, "test").test_protocol()
    assert first["fov_deg"] == [35.0, 95.0]
    assert first["elevation_deg"] == [20.0, 20.0]
    assert first["resize_filter"] == "hamming"
    again = ready(tmp_path, "test").test_protocol()
    assert first == again
    Image.new("RGBA", (64, 48), (1, 2, 3, 4)).save(tmp_path / "renders" / uid / "003.png")
    assert ready(tmp_path, "test").test_protocol()["data_sha256"] != first["data_sha256"]


def test_worker_processes_read_the_same_views(tmp_path: Path) -> None:
    writers.gobjaverse_tar(tmp_path, "0_10005")
    options = {"val_fraction": 0.0, "test_fraction": 0.0, "samples_per_object": 4}
    alone, shared = (list(ready(tmp_path, num_workers=n, **options).train_dataloader()) for n in (0, 2))
    for one, two in zip(alone, shared, strict=True):
        assert torch.equal(one.images_01, two.images_01)


@pytest.mark.parametrize("layout", ["official", "zero123"])
def test_the_command_line_trains_and_tests_on_a_tree_of_renders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    _, _, write = LAYOUTS[layout]
    for split in ("train", "val", "test") if layout == "official" else ("train",):
        write(tmp_path / "tree", named(split))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OUROBOROS3D_RUN_VERSION", raising=False)
    config = [f"--config={ROOT / 'ablations/staged.yaml'}", f"--config={ROOT / 'tests/tiny.yaml'}"]
    main(["fit", *config, "--data.root=tree", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"])
    if layout == "zero123":
        return
    main(["test"])
    results = json.loads((tmp_path / "runs/staged/version_0/results.json").read_text())
    assert results["objects"] == 1
    assert results["failed"] == 0


def test_a_wrong_tree_is_one_line_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for root, message in (("empty", "expected a known format in empty"), ("nowhere", "nowhere, which does not exist")):
        with pytest.raises(SystemExit) as stopped:
            main(["fit", f"--config={ROOT / 'tests/tiny.yaml'}", f"--data.root={root}"])
        assert stopped.value.code == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ouroboros3d: error: ")]
        assert len(errors) == 1
        assert message in errors[0]

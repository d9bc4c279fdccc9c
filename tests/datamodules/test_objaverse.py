import inspect
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RIG, Tree, marker_normalised
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.testing import assert_close

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras, check_rigid
from ouroboros3d.datamodules.datasets import SampleKey, collate
from ouroboros3d.datamodules.loaders import DrawSampler
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.splits import SPLITS
from ouroboros3d.files import default_cache_dir


def module(tree: Tree, cache_dir: Path, **changes: object) -> ObjaverseDataModule:
    options = {"num_views": 2, "num_target_views": 3, "batch_size": 2, "samples_per_object": 2, "rig": RIG, **changes}
    return ObjaverseDataModule(root=tree.root, cache_dir=cache_dir, **options)


def ready(tree: Tree, cache_dir: Path, stage: str = "fit", **changes: object) -> ObjaverseDataModule:
    data = module(tree, cache_dir, **changes)
    data.setup(stage)
    return data


def same(left: list[MultiviewBatch], right: list[MultiviewBatch]) -> bool:
    if [batch.uids for batch in left] != [batch.uids for batch in right]:
        return False
    return all(
        torch.equal(a.images_01, b.images_01)
        and torch.equal(a.target_images_01, b.target_images_01)
        and torch.equal(a.cameras.c2w_opencv, b.cameras.c2w_opencv)
        for a, b in zip(left, right, strict=True)
    )


def test_each_loader_serves_its_own_split(tree: Tree, cache_dir: Path) -> None:
    data = ready(tree, cache_dir)
    served = {"train": data.train_dataloader(), "val": data.val_dataloader()}
    data.setup("test")
    served["test"] = data.test_dataloader()
    for split in SPLITS:
        uids = [uid for batch in served[split] for uid in batch.uids]
        assert sorted(set(uids)) == sorted(tree.uids[split])
        # Training shows each object twice an epoch (samples_per_object), the others once.
        assert len(uids) == len(tree.uids[split]) * (2 if split == "train" else 1)


def test_batches_are_valid_and_in_the_input_relative_frame(tree: Tree, cache_dir: Path) -> None:
    first = Cameras.orbit([0.0], 0.0, 1.7417, 39.598)
    for batch in ready(tree, cache_dir).train_dataloader():
        batch.validate()
        assert batch.images_01.shape == (2, 2, 3, 48, 48)
        assert batch.target_alpha.shape == (2, 3, 1, 48, 48)
        # float32 poses through two changes of frame; the worst seen is 3e-7
        assert_close(batch.cameras.c2w_opencv[:, 0], first.c2w_opencv.expand(2, 4, 4), atol=2e-6, rtol=0)
        assert_close(batch.cameras.intrinsics_norm[0, 0], first.intrinsics_norm[0])
        check_rigid(batch.object_from_batch, tolerance=1e-5)
        # The generated views lie on one orbit of the object, evenly spread.
        in_object = batch.cameras.transform(batch.object_from_batch[:, None]).centres
        assert_close(in_object[:, 0, 1], in_object[:, 1, 1], atol=2e-6, rtol=0)
        assert_close(in_object[:, 0, [0, 2]], -in_object[:, 1, [0, 2]], atol=2e-6, rtol=0)


def test_a_marker_projects_where_every_image_shows_it(tree: Tree, cache_dir: Path) -> None:
    data = ready(tree, cache_dir)
    checked = 0
    for batch in data.train_dataloader():
        for item, uid in enumerate(batch.uids):
            marker = torch.tensor(marker_normalised(tree.all_uids.index(uid)), dtype=torch.float32)
            marker = (torch.linalg.inv(batch.object_from_batch[item]) @ torch.cat([marker, torch.ones(1)]))[:3]
            views = torch.cat([batch.images_01[item], batch.target_images_01[item]])
            cameras = Cameras.cat([batch.cameras[item], batch.target_cameras[item]], dim=0)
            uv, _ = cameras.project(marker.expand(len(views), 1, 3))
            for image, expected in zip(views, uv[:, 0] * 48, strict=True):
                rows, columns = ((image[0] > 0.9) & (image[1] < 0.1)).nonzero(as_tuple=True)
                found = torch.stack([columns.float().mean(), rows.float().mean()]) + 0.5
                # The centroid of a cube's silhouette against its projected centre: perspective and whole pixels, worst
                # seen 0.5 px; any flipped or transposed axis is off by 5 px and more, as the next lines show.
                assert (found - expected).norm() < 1.0
                assert (found - (48 - expected)).norm() > 3
                checked += 1
    assert checked == 10 * 5


def test_compositing_of_straight_alpha(tree: Tree, cache_dir: Path) -> None:
    data = ready(tree, cache_dir, background="random")
    dataset = data.train_dataloader().dataset
    samples = [dataset[SampleKey(item, 0, 0)] for item in range(2)]
    batch = collate(samples, num_views=2)
    assert not torch.equal(batch.background[0], batch.background[1])
    for item, sample in enumerate(samples):
        for view in range(2):
            rgba = sample.rgba[view].double().numpy() / 255
            alone = rgba[..., :3] * rgba[..., 3:] + sample.background.numpy() * (1 - rgba[..., 3:])
            assert_close(batch.images_01[item, view].permute(1, 2, 0).double().numpy(), alone, atol=1e-6, rtol=0)
    levels = {"white": 1.0, "grey": 0.5, "black": 0.0}
    for background, level in levels.items():
        batch = next(iter(ready(tree, cache_dir, background=background).train_dataloader()))
        empty = (batch.alpha == 0).expand_as(batch.images_01)
        assert empty.any()
        assert (batch.images_01[empty] == level).all()
        assert (batch.background == level).all()


def test_validation_and_test_views_are_fixed(tree: Tree, cache_dir: Path) -> None:
    runs = [ready(tree, cache_dir, seed=seed, background="random") for seed in (0, 1)]
    list(runs[1].train_dataloader())
    assert same(*(list(data.val_dataloader()) for data in runs))
    assert all((batch.background == 1).all() for batch in runs[0].val_dataloader())
    for data in runs:
        data.setup("test")
    assert same(*(list(data.test_dataloader()) for data in runs))
    assert same(list(runs[0].test_dataloader()), list(runs[0].predict_dataloader()))


def test_training_draws_follow_seed_and_epoch_alone(tree: Tree, cache_dir: Path) -> None:
    def epoch(number: int, **changes: object) -> list[MultiviewBatch]:
        loader = ready(tree, cache_dir, background="random", **changes).train_dataloader()
        loader.load_state_dict({"draws": number * 10})
        return list(loader)

    reference = epoch(3)
    assert same(reference, epoch(3))
    assert same(reference, epoch(3, num_workers=2))
    assert same(reference, epoch(3, memory_limit_mb=0))
    assert not same(reference, epoch(4))
    assert not same(reference, epoch(3, seed=1))
    # The two times an object is shown in an epoch, it is shown from other views.
    shown = [(uid, batch.images_01[i]) for batch in reference for i, uid in enumerate(batch.uids)]
    pairs = [(a, b) for uid, a in shown for other, b in shown if uid == other and a is not b]
    assert pairs
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_every_view_can_be_the_input(tree: Tree, cache_dir: Path) -> None:
    loader = ready(tree, cache_dir, uids=tree.uids["train"][:1], samples_per_object=60).train_dataloader()
    inputs = {batch.images_01[i, 0].numpy().tobytes() for batch in loader for i in range(2)}
    assert len(inputs) == 8  # two orbits of four views


def test_targets_are_never_among_the_generated_views(tree: Tree, cache_dir: Path) -> None:
    data = ready(tree, cache_dir, num_target_views=6)
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        for item in range(len(batch)):
            poses = torch.cat([batch.cameras.c2w_opencv[item], batch.target_cameras.c2w_opencv[item]])
            distance = torch.cdist(poses.flatten(1), poses.flatten(1)) + torch.eye(8)
            assert distance.min() > 0.1


def test_ranks_share_the_stream_of_one_process(tree: Tree, cache_dir: Path) -> None:
    dataset = ready(tree, cache_dir).train_dataloader().dataset
    alone = DrawSampler(dataset, repeats=3, batch_size=4, seed=0, num_replicas=1, rank=0)
    assert len(alone) == 12  # whole batches of an epoch's 15 draws
    stream = list(alone)
    alone.start = 12
    stream += list(alone)
    assert len(set(stream)) == 24
    assert {draw.epoch for draw in stream[:15]} == {0}
    assert {(draw.item, draw.repeat) for draw in stream[:15]} == {(i, r) for i in range(5) for r in range(3)}
    ranks = [DrawSampler(dataset, repeats=3, batch_size=2, seed=0, num_replicas=2, rank=rank) for rank in range(2)]
    dealt = [draw for pair in zip(*ranks, strict=True) for draw in pair]
    assert dealt == stream[:12]


def test_batches_are_full_even_of_one_object(tree: Tree, cache_dir: Path) -> None:
    data = ready(tree, cache_dir, uids=tree.uids["train"][:1], samples_per_object=1, batch_size=3)
    batches = list(data.train_dataloader())
    assert [len(batch) for batch in batches] == [3]
    assert not torch.equal(batches[0].images_01[0], batches[0].images_01[1])


class Recorder(LightningModule):
    """Remembers what it was shown; its one weight depends on all of it in order."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[str, ...]] = []

    def training_step(self, batch: MultiviewBatch) -> Tensor:
        self.seen.append(batch.uids)
        return (self.weight - batch.images_01.mean()) ** 2 * (1 + len(batch.uids[0]))

    def validation_step(self, batch: MultiviewBatch) -> None:
        assert batch.uids

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    tree: Tree, cache_dir: Path, steps: int, resume: Path | None = None, workers: int = 0
) -> tuple[Recorder, Trainer]:
    recorder = Recorder()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )
    trainer.fit(recorder, module(tree, cache_dir, num_workers=workers), ckpt_path=resume)
    return recorder, trainer


@pytest.mark.parametrize("stop", [3, 5, 7])  # inside an epoch, at its end, inside the second
def test_interrupted_training_sees_what_uninterrupted_training_sees(
    tree: Tree, cache_dir: Path, tmp_path: Path, stop: int
) -> None:
    whole, _ = fit(tree, cache_dir, 12)
    before, trainer = fit(tree, cache_dir, stop)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    after, _ = fit(tree, cache_dir, 12, resume=tmp_path / "stopped.ckpt")
    assert before.seen + after.seen == whole.seen
    assert torch.equal(after.weight, whole.weight)
    assert whole.seen[:5] != whole.seen[5:10]  # epochs differ, so a wrong epoch would show


def test_no_validation_object_skips_validation(tree: Tree, cache_dir: Path) -> None:
    data = ready(tree, cache_dir, uids=tree.uids["train"][:2])
    assert data.val_dataloader() == []
    trainer = Trainer(fast_dev_run=2, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Recorder(), data)


def test_selection(tree: Tree, cache_dir: Path, tmp_path: Path) -> None:
    listed = tmp_path / "uids.txt"
    listed.write_text("\n".join(tree.uids["train"][:2]) + "\n")
    from_file = module(tree, cache_dir, uids=listed).assets()
    assert [asset.uid for asset in from_file["train"]] == sorted(tree.uids["train"][:2])
    limited = module(tree, cache_dir, max_objects=1).assets()
    assert {split: len(assets) for split, assets in limited.items()} == {"train": 1, "val": 1, "test": 1}
    odd = module(tree, cache_dir, categories=["odd_slab"]).assets()
    assert sorted(a.uid for assets in odd.values() for a in assets) == tree.all_uids[1::2]
    on_training = ready(tree, cache_dir, "test", test_split="train")
    uids = [uid for batch in on_training.test_dataloader() for uid in batch.uids]
    assert sorted(uids) == sorted(tree.uids["train"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_views": 3}, r"num_views: expected a divisor of the orbit's 4 views, got 3; try one of \[1, 2, 4\]"),
        ({"num_views": 0}, "num_views"),
        ({"num_target_views": 7}, r"num_target_views: expected 0 to 6 .* got 7"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"max_objects": 0}, "max_objects"),
        ({"input_radius": 0.0}, "input_radius"),
        ({"views_per_object": 0}, "views_per_object"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "val_fraction, test_fraction"),
        ({"render_timeout_s": 0.0}, "render_timeout_s"),
    ],
)
def test_impossible_arguments(tree: Tree, cache_dir: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(tree, cache_dir, **changes)


def test_nothing_to_do(tree: Tree, cache_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fit: expected at least one train object .* 0 train, 2 val, 0 test"):
        ready(tree, cache_dir, uids=tree.uids["val"])
    with pytest.raises(ValueError, match="test: expected at least one test object"):
        ready(tree, cache_dir, "test", uids=tree.uids["train"])
    with pytest.raises(ValueError, match=r"call prepare_data\(\) first"):
        ready(tree, tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="at least one uid"):
        ready(tree, cache_dir, uids=tmp_path / "empty.txt")
    with pytest.raises(ValueError, match="uids: expected a list, or a file with one uid a line"):
        ready(tree, cache_dir, uids=tmp_path / "missing.txt")


def test_names_to_skip_that_nothing_has_are_told_once(
    tree: Tree, cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = ready(tree, cache_dir, skip_uids=[tree.uids["train"][0], "nobody"])
    assert tree.uids["train"][0] not in data.objects()["train"]
    assert caplog.text.count("skip_uids: 1 of 2 names are no objects of") == 1
    assert "'nobody'" in caplog.text


def test_a_list_of_test_objects_leaves_training_as_it_is(tree: Tree, cache_dir: Path) -> None:
    whole = module(tree, cache_dir).objects()
    chosen = whole["test"][-1:]
    assert module(tree, cache_dir, test_uids=chosen).objects() == {**whole, "test": chosen}
    for other in (whole["train"][0], "nobody"):
        with pytest.raises(ValueError, match=f"test_uids: expected test objects of .*, got 1 others of 2, '{other}'"):
            module(tree, cache_dir, test_uids=[*chosen, other]).objects()


def test_a_damaged_view_of_the_cache_says_how_it_is_made_again(tree: Tree, cache_dir: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(cache_dir, tmp_path / "cache"))
    data = ready(tree, cache)
    uid = data.objects()["train"][0]
    (view,) = cache.glob(f"*/{uid}-00/render_0000.webp")
    content = view.read_bytes()
    view.write_bytes(content[:50])
    folder = re.escape(str(view.parent.parent / uid))
    with pytest.raises(SampleError, match=rf"^{uid}: .*render_0000\.webp.* Remove {folder}-\*: the same command"):
        list(data.train_dataloader())
    for orbit in view.parent.parent.glob(f"{uid}-*"):
        shutil.rmtree(orbit)
    module(tree, cache).prepare_data()
    assert view.read_bytes() == content


def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUROBOROS3D_CACHE", "/somewhere/else")
    assert default_cache_dir() == Path("/somewhere/else")
    monkeypatch.delenv("OUROBOROS3D_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_dir() == Path("/xdg/ouroboros3d")


def test_marker_of_the_test_tree_is_off_centre(tree: Tree) -> None:
    for index in range(len(tree.all_uids)):
        marker = marker_normalised(index)
        assert np.abs(marker).min() > 0.1
        assert len(set(np.abs(marker).round(2))) == 3


def test_what_has_no_effect_on_the_data_is_an_argument() -> None:
    assert ObjaverseDataModule.without_effect < inspect.signature(ObjaverseDataModule).parameters.keys()

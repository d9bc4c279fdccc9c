"""Objects of a tree of renders that are left out: listed with who found them, and tried again when asked for."""

import json
import logging
import shutil
from pathlib import Path

import posed_writers as writers
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from posed_writers import ORBIT

from ouroboros3d.cli import main
from ouroboros3d.datamodules.left_out import Ledger, LeftOut, say_left_out
from ouroboros3d.datamodules.loaders import ResumableLoader
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.splits import Split, split_of

ROOT = Path(__file__).parents[2]


def named(split: Split, count: int) -> list[str]:
    return [uid for uid in (f"thing{number}" for number in range(99)) if split_of(uid) == split][:count]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUROBOROS3D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(root: Path, *uids: str) -> Path:
    for uid in uids:
        writers.official(root, uid, ORBIT[:8])
    return root


def cut(root: Path, uid: str, view: int = 3) -> Path:
    """Damage one view, as an interrupted copy does."""
    path = root / uid / f"render_{view:04d}.webp"
    path.write_bytes(path.read_bytes()[:100])
    return path


def opened(root: Path, stage: str = "fit", **changes: object) -> ObjaverseDataModule:
    options = {"rig": OrbitRig(16), "num_views": 4, "num_target_views": 2, "batch_size": 1, "samples_per_object": 4}
    data = ObjaverseDataModule(root=root, **{**options, **changes})
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer.state.fn = TrainerFn.TESTING if stage == "test" else TrainerFn.FITTING
    data.prepare_data()
    data.setup(stage)
    return data


def shown(data: ObjaverseDataModule) -> list[tuple[str, torch.Tensor]]:
    return [(batch.uids[0], batch.images_01) for batch in data.train_dataloader()]


def listed(cache: Path) -> dict[str, str]:
    (path,) = (cache / "left_out").iterdir()
    return {uid: one.reason for uid, one in Ledger(path).read().items()}


def same(one: list[tuple[str, torch.Tensor]], two: list[tuple[str, torch.Tensor]]) -> bool:
    return [uid for uid, _ in one] == [uid for uid, _ in two] and all(
        torch.equal(a, b) for (_, a), (_, b) in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_ends_with_the_object_listed_and_goes_on_without_it(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture, num_workers: int
) -> None:
    bad, *good = named("train", 3)
    root = write(tmp_path / "tree", bad, *good)
    whole = shown(opened(root))
    damaged = cut(root, bad)
    with pytest.raises(SampleError, match=rf"^{bad}: view 3: .*render_0003.webp.* the same command, or fit --resume"):
        shown(opened(root, num_workers=num_workers))
    assert str(damaged) in listed(cache)[bad]
    caplog.clear()
    later = shown(opened(root))
    assert (
        "1 of 3 train objects are left out (found by read: 1; --data.retry_failed true tries again), listed in"
        in caplog.text
    )
    assert sorted(uid for uid, _ in later) == sorted(4 * good)  # nothing takes its place
    assert all(any(torch.equal(image, other) for _, other in whole) for _, image in later)  # nor changes theirs
    assert same(shown(opened(root, retry_failed=True)), later), "tried again, and still broken"
    write(root, bad)
    assert same(shown(opened(root, retry_failed=True)), whole)
    assert same(shown(opened(root)), whole)
    assert listed(cache) == {}


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_all_that_a_list_names_and_is_not_on_disk_is_found_at_once(
    stage: Split, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split: Split = "train" if stage == "fit" else "test"
    here, *away = named(split, 5)
    root = write(tmp_path / "tree", here)
    (root / "train.txt").write_text("".join(f"{uid}\n" for uid in (here, *away)))
    data = opened(root, stage)
    assert (
        f"4 of 5 {split} objects are left out (found by list: 4; they count as soon as they are on disk)" in caplog.text
    )
    assert {row["uid"] for row in data.left_out_rows()} == set(away)
    if stage == "test":
        assert data.tested_uids() == [here]
        assert sorted(data.failed) == sorted(away)  # rows of a test without values
    else:
        assert {uid for uid, _ in shown(data)} == {here}
    write(root, *away)
    caplog.clear()
    data = opened(root, stage)
    assert "left out" not in caplog.text
    assert data.left_out_rows() == []


def test_unknown_uids_are_refused_at_once(tmp_path: Path, cache: Path) -> None:
    root, names = write(tmp_path / "tree", *named("train", 2)), tmp_path / "names.txt"
    wrong = [f"nobody{number:02d}" for number in range(30)]
    names.write_text("".join(f"{uid}\n" for uid in (*named("train", 2), *wrong)))
    with pytest.raises(ValueError, match=r"2 objects of .*, got 30 others: 'nobody00', .* 'nobody19' \.\.\.;"):
        opened(root, uids=names)


def test_nothing_is_listed_where_the_tree_is_away(tmp_path: Path, cache: Path) -> None:
    data = opened(write(tmp_path / "tree", *named("train", 3)))
    shutil.rmtree(tmp_path / "tree")
    with pytest.raises(SampleError):
        shown(data)
    assert not (cache / "left_out").exists()


def test_a_fixed_sample_that_cannot_be_read_is_left_out_of_its_batch(tmp_path: Path, cache: Path) -> None:
    uids = sorted(named("test", 3))
    root = write(tmp_path / "tree", *uids)
    data = opened(root, "test", batch_size=2)
    for view in range(8):
        cut(root, uids[0], view)
    assert [batch.uids for batch in data.test_dataloader()] == [(uids[1],), (uids[2],)]
    assert list(data.failed) == uids[:1]
    for view in range(8):
        cut(root, uids[1], view)
    data = opened(root, "test", retry_failed=True, batch_size=2)
    assert [batch.uids for batch in data.test_dataloader()] == [(uids[2],)]
    assert sorted(data.failed) == sorted(uids[:2])


def test_no_process_waits_for_one_without_a_batch(tmp_path: Path, cache: Path) -> None:
    root = write(tmp_path / "tree", *named("test", 2))
    data = opened(root, "test")
    for view in range(1, 8):
        cut(root, named("test", 1)[0], view)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="expected a batch on each process"):
            list(data.test_dataloader())
        assert len(list(opened(root, "test").test_dataloader())) == 1
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_list_that_cannot_be_written_ends_in_one_line(tmp_path: Path, cache: Path, num_workers: int) -> None:
    (bad,) = named("train", 1)
    root = write(tmp_path / "tree", bad)
    cut(root, bad)
    data = opened(root, num_workers=num_workers)
    cache.mkdir()
    (cache / "left_out").write_text("")
    with pytest.raises(ValueError, match=r"^cache_dir: expected a folder that can be written, got .*render_0003"):
        shown(data)


def test_a_loader_in_order_leaves_out_what_cannot_be_read(tmp_path: Path, cache: Path) -> None:
    """As Lightning makes it of the training loader for `overfit_batches`."""
    uids = sorted(named("train", 3))
    root = write(tmp_path / "tree", *uids)
    loader = opened(root).train_dataloader()
    for view in range(8):
        cut(root, uids[1], view)
    in_order = ResumableLoader(loader.dataset, collate_fn=loader.collate_fn)
    assert [batch.uids[0] for batch in in_order] == [uids[0], uids[2]]


def test_a_broken_object_of_a_test_is_a_row_with_its_reason(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = named("test", 3)
    root = write(tmp_path / "tree", *named("train", 1), *tested)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OUROBOROS3D_RUN_VERSION", raising=False)
    config = [f"--config={ROOT / 'ablations/staged.yaml'}", f"--config={ROOT / 'tests/tiny.yaml'}"]
    main(
        [
            "fit",
            *config,
            "--data.root=tree",
            "--data.max_objects=3",
            "--trainer.max_steps=1",
            "--trainer.limit_val_batches=0",
        ]
    )
    assert (tmp_path / "runs/staged/version_0/left_out.csv").read_text() == "uid,split,found_by,reason,list\n"
    cut(root, tested[0], 0)
    (root / tested[1] / "meta.json").write_text("{")
    main(["test"])
    folder = tmp_path / "runs/staged/version_0"
    results = json.loads((folder / "results.json").read_text())
    assert (results["objects"], results["failed"]) == (3, 2)
    rows = (folder / "results.csv").read_text()
    assert "render_0000.webp" in rows
    assert f"{tested[1]}: expected" in rows


def test_lists_survive_writers_that_are_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "list.jsonl"
    caplog.set_level(logging.WARNING, "ouroboros3d")
    Ledger(path).add("a", "a: no cameras")
    path.write_text(path.read_text() + '{"uid": "b", "fo')
    ledger = Ledger(path)
    ledger.add("c", "c: cut off")
    ledger.add("c", "c: cut off")
    assert ledger.read() == {"a": LeftOut("read", "a: no cameras", path), "c": LeftOut("read", "c: cut off", path)}
    assert len(path.read_text().splitlines()) == 3


def test_a_check_takes_the_place_of_what_was_listed_and_only_reading_is_tried_again(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blank, cut_off, *good = named("train", 4)
    root = write(tmp_path / "tree", blank, cut_off, *good)
    ledger = opened(root).source.ledger
    ledger.add("gone", "gone: no such object any more")
    ledger.replace({blank: ("check", "views 1, 4 showing nothing"), cut_off: ("read", f"{cut_off}: view 3 is missing")})
    assert set(ledger.read()) == {blank, cut_off}
    caplog.clear()
    data = opened(root)
    assert {uid for uid, _ in shown(data)} == set(good)
    assert [tuple(row.values()) for row in data.left_out_rows()] == [
        (blank, "train", "check", "views 1, 4 showing nothing", str(ledger.path)),
        (cut_off, "train", "read", f"{cut_off}: view 3 is missing", str(ledger.path)),
    ]
    assert "2 of 4 train objects are left out (found by read: 1, check: 1; --data.retry_failed true" in caplog.text
    assert "--data.ignore_check true takes what check-data found" in caplog.text
    assert {uid for uid, _ in shown(opened(root, retry_failed=True))} == {cut_off, *good}
    assert {uid for uid, _ in shown(opened(root, ignore_check=True))} == {blank, cut_off, *good}
    assert {uid for uid, _ in shown(opened(root))} == {cut_off, *good}, "ignored once, not forgotten"


def test_lists_of_one_split_are_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "ouroboros3d")
    say_left_out("val", 9, {})
    assert caplog.text == ""
    found = {str(index): LeftOut("render", f"load: {index}", tmp_path / "failures.jsonl") for index in range(4)}
    say_left_out("val", 9, {**found, "r": LeftOut("read", "cut off", tmp_path / "list.jsonl")})
    (record,) = caplog.records
    assert record.getMessage() == (
        "5 of 9 val objects are left out (found by render: 4, read: 1; --data.retry_failed true tries again), listed "
        f"in {tmp_path / 'failures.jsonl'} and {tmp_path / 'list.jsonl'}: 0: load: 0; 1: load: 1; 2: load: 2 ..."
    )

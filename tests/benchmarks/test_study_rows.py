"""The rows of a study: what was measured of each object, by variant, seeds and tree."""

import csv
import sys
from pathlib import Path

import pytest

from ouroboros3d.datamodules.readers.detection import open_tree
from ouroboros3d.datamodules.splits import split_of

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "ouroboros3d/datamodules/bundled"


@pytest.fixture
def study_rows(monkeypatch: pytest.MonkeyPatch):
    """The script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "tests/comparison"))
    import study_rows

    yield study_rows
    sys.modules.pop("study_rows", None)


def test_every_object_of_every_run_has_a_row(study_rows, tmp_path: Path):
    from run_writer import write_run

    uids = sorted(open_tree(BUNDLED).select_uids())[:2]
    runs = [
        write_run(tmp_path / "staged/a", {"mv_psnr": [20.5, float("nan")]}, uids=uids, training_seed=1, seed=3),
        write_run(tmp_path / "recursive/a", {"mv_psnr": [21, 22], "lpips": [0.25, 0.5]}, uids=uids, training_seed=2),
    ]
    study_rows.main([str(tmp_path / "rows.csv"), *map(str, runs), "--trees", str(BUNDLED)])
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["variant", "training_seed", "sampling_seed", "tree", "uid", "mv_psnr"]
    read = [
        (row["variant"], row["training_seed"], row["sampling_seed"], row["tree"], row["mv_psnr"], row["lpips"])
        for row in rows
    ]
    assert read == [
        ("recursive", "2", "0", "bundled", "21", "0.25"),
        ("recursive", "2", "0", "bundled", "22", "0.5"),
        ("staged", "1", "3", "bundled", "20.5", ""),
        ("staged", "1", "3", "bundled", "", ""),
    ]
    assert [row["uid"] for row in rows] == 2 * uids


def test_an_object_of_no_tree_is_one_line(study_rows, tmp_path: Path):
    from run_writer import write_run

    run = write_run(tmp_path / "staged/a", {"mv_psnr": [20.5]}, uids=["nobody"])
    with pytest.raises(SystemExit, match=r"study_rows: trees: expected one that has every object of .*'nobody'"):
        study_rows.main([str(tmp_path / "rows.csv"), str(run), "--trees", str(BUNDLED)])


def test_the_study_was_tested_on_held_out_objects_alone():
    listed = set((ROOT / "ablations/study_objects.txt").read_text().split())
    with (ROOT / "benchmarks/results/study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    runs: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        runs.setdefault((row["variant"], row["training_seed"], row["sampling_seed"]), set()).add(row["uid"])
    assert len(listed) == 150
    assert all(uids == listed for uids in runs.values())
    assert len(rows) == len(runs) * len(listed)
    # What every training, that of the base weights too, leaves out: the split follows from the uid alone.
    assert {split_of(uid) for uid in listed} == {"test"}

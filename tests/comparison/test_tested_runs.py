"""Reading what `test` left: numbers as they are, and one line for whatever is not what it should be."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from run_writer import UIDS, write_run

from ouroboros3d.comparison.runs import how_to_test, read_run, short

VALUES = {"mv_psnr": [float(i) for i in range(8)], "chamfer": [0.1] * 7 + [math.nan]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "staged" / "version_0", VALUES)


def test_values_arrive_unchanged_and_missing_ones_missing(run):
    read = read_run(run, "test")
    assert read.uids == UIDS
    assert read.experiment == "staged"
    assert read.values["mv_psnr"].tolist() == VALUES["mv_psnr"]
    assert math.isnan(read.values["chamfer"][-1])
    assert read.failures == {}
    assert {"nfe", "seconds"} < set(read.values)
    assert not {"seed", "steps", "status", "uid", "fov_deg"} & set(read.values)
    assert read.protocol["fscore_thresholds"] == [0.01, 0.02, 0.05]


def test_a_failed_object_is_named(tmp_path):
    folder = write_run(tmp_path / "a" / "b", VALUES, failures={UIDS[2]: "ValueError: out of memory"})
    assert read_run(folder, "test").failures == {UIDS[2]: "ValueError: out of memory"}


def test_another_split_has_its_own_files(run):
    write_run(run.parent / "other", VALUES, split="train", pictures=False)
    assert read_run(run.parent / "other", "train").pictures("x").parent.name == "objects_train"
    with pytest.raises(
        ValueError, match=r"expected results of the val objects, got no test; finish it: .*test_split val"
    ):
        read_run(run, "val")


def test_curves_are_averaged_over_objects(run):
    assert read_run(run, "test").curves() == {}
    rows = [(0, "0,80,10"), (0, "1,5,20"), (1, "0,80,12"), (1, "1,5,"), (2, "0,80,"), (2, "1,5,")]
    (run / "steps.csv").write_text("\n".join(["uid,step,sigma,gap_psnr", *(f"{UIDS[i]},{rest}" for i, rest in rows)]))
    curves = read_run(run, "test").curves()
    assert curves["sigma"].tolist() == [80, 5]
    assert curves["gap_psnr"].tolist() == [11, 20]
    (run / "steps.csv").write_text("uid,step\n")
    with pytest.raises(ValueError, match=r"steps\.csv: expected the columns of a test"):
        read_run(run, "test").curves()


def test_an_unfinished_test_says_how_to_finish_it(run):
    (run / "results.0.jsonl.part").write_text("identity\n")
    expected = rf"{run}: .*got an unfinished test; finish it: python -m ouroboros3d test --config {run}/config\.yaml$"
    with pytest.raises(ValueError, match=expected):
        read_run(run, "test")  # what results.json holds is of an earlier test
    (run / "results.json").unlink()
    with pytest.raises(ValueError, match=expected):
        read_run(run, "test")


def test_a_run_that_only_tests_is_tested_with_the_checkpoint_that_it_names(run):
    config = run / "config.yaml"
    config.write_text(config.read_text() + "ckpt_path: runs/staged/version_0/checkpoints/last.ckpt\n")
    ends = " --ckpt_path runs/staged/version_0/checkpoints/last.ckpt"
    assert how_to_test(run, "test") == f"python -m ouroboros3d test --config {config}{ends}"
    (run / "checkpoints").mkdir()  # what it names is where its own training went on from
    assert how_to_test(run, "test") == f"python -m ouroboros3d test --config {config}"


def _edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _cut(path: Path, count: int) -> None:
    path.write_text(path.read_text()[:-count])


DAMAGES = {
    "truncated summary": (lambda run: _cut(run / "results.json", 5), r"results\.json: expected JSON"),
    "empty summary": (lambda run: (run / "results.json").write_text(""), r"results\.json: expected JSON"),
    "binary summary": (
        lambda run: (run / "results.json").write_bytes(b"\xff\xfe\x00"),
        r"results\.json: expected JSON",
    ),
    "another summary": (lambda run: (run / "results.json").write_text("[1]"), r"none called run_id"),
    "old summary": (
        lambda run: (run / "results.json").write_text('{"run_id": "a", "objects": 8}'),
        r"none called method, .*older than this version",
    ),
    "wrong kind": (lambda run: _edit(run / "results.json", objects="8"), "expected objects of another kind, got '8'"),
    "no table": (lambda run: (run / "results.csv").unlink(), r"results\.csv: expected a file beside"),
    "empty table": (lambda run: (run / "results.csv").write_text(""), r"results\.csv: expected the columns"),
    "binary table": (lambda run: (run / "results.csv").write_bytes(b"\xff\xfe"), r"results\.csv: expected a table"),
    "truncated row": (lambda run: _cut(run / "results.csv", 60), r"expected \d+ cells in line 9, got \d+"),
    "missing row": (
        lambda run: (run / "results.csv").write_text("".join((run / "results.csv").open().readlines()[:-1])),
        "expected the 8 objects of results.json's test, got 7",
    ),
    "other test": (lambda run: _edit(run / "results.json", timestamp="2027"), "objects of results.json's test"),
    "other split": (
        lambda run: _edit(run / "results.json", split="val"),
        "test objects of which 0 failed, got 8 of val",
    ),
    "failures": (lambda run: _edit(run / "results.json", failed=1), "of which 1 failed, got 8 of test of which 0"),
    "no number": (
        lambda run: (run / "results.csv").write_text(
            (run / "results.csv").read_text().replace("object3,3.0", "object3,x")
        ),
        "expected a number as mv_psnr of object object3, got 'x'",
    ),
    "missing metric": (
        lambda run: (run / "results.csv").write_text((run / "results.csv").read_text().replace("chamfer", "other", 1)),
        "none called chamfer",
    ),
    "repeated object": (
        lambda run: (run / "results.csv").write_text((run / "results.csv").read_text().replace(UIDS[1], UIDS[0])),
        "expected 8 different test objects",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_results_get_one_line_that_names_the_file(run, damage):
    break_, message = DAMAGES[damage]
    break_(run)
    with pytest.raises(ValueError, match=message) as raised:
        read_run(run, "test")
    assert str(run) in str(raised.value)
    assert "test the run again" in str(raised.value)


def test_protocol_values_are_shortened_for_readers():
    assert short(list(range(20))) == "0 to 19"
    assert short([0, 2, 4]) == "0 2 4"
    assert short([0.01, 0.02]) == "0.01 0.02"
    assert short([]) == short(None) == "none"
    assert short("0123456789abcdef" * 4) == "0123456789ab"
    assert short("runs/staged/version_0/checkpoints/last.ckpt") == "runs/staged/version_0/checkpoints/last.ckpt"
    assert short(True) == "true"
    assert np.float64(3.0) == float(short(3.0))

"""Runs that were trained unalike are named at the top of every table, and nothing is called better or worse."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from run_writer import write_run

from ouroboros3d.commands.compare import run
from ouroboros3d.comparison.outcome import Comparison, compare
from ouroboros3d.comparison.runs import read_run
from ouroboros3d.comparison.variants import group

BASE = {"mv_psnr_foreground": [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0], "chamfer": [0.2] * 8}
BETTER = {"mv_psnr_foreground": [value + 1 for value in BASE["mv_psnr_foreground"]], "chamfer": [0.1] * 8}


def result(folders: list[Path], mark_unlike: bool = False) -> Comparison:
    variants = group([read_run(folder, "test") for folder in folders])
    return compare(variants, None, notes=[], command="", split="test", mark_unlike=mark_unlike)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("training_length", 300, "steps 300 against 100"),
        ("training_batch", 16, "batch 16 against 8"),
        ("training_base_weights", ["bundled", "svd=x"], "base weights svd=x against none"),
        ("training_data", ["root=games"], "data root=games against root=bundled"),
        ("training_rates", ["optimizer=AdamW", "lr=0.1"], "learning rates lr=0.1 against lr=0.0003"),
    ],
)
def test_every_difference_is_named_and_takes_the_marks_away(
    tmp_path: Path, field: str, value: object, said: str
) -> None:
    folders = [
        write_run(tmp_path / "staged" / "v", BASE),
        write_run(tmp_path / "recursive" / "v", BETTER),
        write_run(tmp_path / "other" / "v", BETTER, **{field: value}),
    ]
    found = result(folders)
    assert found.unlike == {"other": said}
    assert found.cells["other", "mv_psnr_foreground"].difference.verdict == ""
    assert found.cells["recursive", "mv_psnr_foreground"].difference.verdict == "better"
    assert found.best("chamfer") == []
    asked = result(folders, mark_unlike=True)
    assert asked.unlike == found.unlike
    assert asked.cells["other", "mv_psnr_foreground"].difference.verdict == "better"
    assert asked.best("chamfer") == ["recursive", "other"]


def test_the_same_training_tested_at_another_step_is_alike(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "staged" / "v", BASE), write_run(tmp_path / "b" / "v", BETTER, training_steps=50)]
    assert result(folders).unlike == {}


def test_every_table_begins_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    write_run(runs / "staged" / "v", BASE)
    write_run(runs / "longer" / "v", BETTER, training_length=300)
    run(["--runs", str(runs)])
    said = "longer was trained unlike staged: steps 300 against 100; so nothing is called better or worse."
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.index(said) < shown.index("views PSNR fg")
    text = (runs / "comparison/comparison.md").read_text()
    tables = text.count("| | staged | longer |\n") - 1  # the protocol's is none of results
    assert tables > 2
    assert text.count(f"**{said}**\n\n| | staged | longer |") == tables
    page = (runs / "comparison/comparison.html").read_text()
    assert page.count(said) == page.count("<table>")
    assert "▲" not in page.replace("▲ better", "")
    run(["--runs", str(runs), "--mark_unlike"])
    text = (runs / "comparison/comparison.md").read_text()
    assert "**longer was trained unlike staged: steps 300 against 100.**" in text
    assert "+1.00▲" in text
    assert "--mark_unlike\n" in text


def _forget(folder: Path) -> None:
    """Make results those of a version that kept no record of the training."""
    lines = (folder / "results.csv").read_text().splitlines()
    (folder / "results.csv").write_text("\n".join([lines[0].replace("training_", "old_"), *lines[1:]]))
    text = (folder / "results.json").read_text()
    for field in ("length", "batch", "base_weights", "data", "rates"):
        text = text.replace(f"training_{field}", f"old_{field}")
    for path, kept in ((folder / "results.csv", "seed"), (folder / "results.csv", "steps")):
        path.write_text(path.read_text().replace(f"old_{kept}", f"training_{kept}"))
    (folder / "results.json").write_text(text)


def test_results_of_earlier_versions_are_told_apart_by_the_configuration_of_their_training(tmp_path: Path) -> None:
    for name, batch in {"staged": 8, "recursive": 16}.items():
        folder = write_run(tmp_path / name / "v", BASE)
        _forget(folder)
        (folder / "checkpoints").mkdir()
        model = {
            "base_weights": "bundled",
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-4}},
        }
        config = {"model": {"init_args": model}, "data": {"init_args": {"batch_size": batch}}, "trainer": {}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    # The weights of the first, tested again in a folder of its own.
    again = write_run(tmp_path / "again" / "v", BASE, checkpoint=f"{tmp_path}/staged/v/checkpoints/last.ckpt")
    _forget(again)
    folders = [tmp_path / "staged" / "v", tmp_path / "recursive" / "v", again]
    found = result(folders)
    assert found.unlike == {"recursive": "batch 16 against 8"}
    assert not any("Not recorded" in note for note in found.notes)
    shutil.rmtree(tmp_path / "staged" / "v" / "checkpoints")
    found = result(folders)
    assert found.unlike == {}
    said = (
        "Not recorded of all runs, so it may differ: the batch, base weights, data, learning rates of their training."
    )
    assert said in found.notes


def test_wall_clock_is_never_the_best_and_counts_are(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "staged" / "v", BASE, seed=0),
        write_run(tmp_path / "recursive" / "v", BETTER | {"nfe": [10.0] * 8, "seconds": [0.5] * 8}),
    ]
    found = result(folders)
    assert json.loads((folders[1] / "results.json").read_text())["mean"]["seconds"] == 0.5
    assert found.best("seconds") == found.best("peak_memory_mib") == []
    assert found.best("nfe") == ["recursive"]

"""The benchmark of the data at its smallest: its trees are such as the readers know, its file has the promised keys."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "tiny.yaml"


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The script, with fewer objects, batches and epochs."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("OUROBOROS3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OUROBOROS3D_RUN_VERSION", raising=False)
    import data

    for name, value in {"OBJECTS": 300, "EPOCHS": 1, "_BATCHES": 2, "_NAMES": 70, "_OBJECTS_A_SHARD": 90}.items():
        monkeypatch.setattr(data, name, value)
    yield data
    for name in ("data", "step_cost", "fake_run"):
        sys.modules.pop(name, None)


def test_every_made_tree_opens_with_all_its_objects(data):
    seconds = data.openings()
    assert list(seconds) == ["open_folders_s", "open_meshes_s", "prepare_100k_s", "open_shards_s"]
    assert all(0 < taken < 60 for taken in seconds.values())


def test_a_tree_that_is_not_there_is_a_usage_error(data, capsys, tmp_path):
    with pytest.raises(SystemExit):
        data.main(["--full", "--tree", str(tmp_path / "nowhere")])
    assert "--full: expected a folder of meshes to render, got --tree" in capsys.readouterr().err


@pytest.mark.slow
def test_the_values_are_written_under_their_keys(data, capsys, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    bundled = sorted((ROOT / "ouroboros3d/datamodules/bundled/glbs").rglob("*.glb"))[0]
    (tree / "one.glb").write_bytes(bundled.read_bytes())
    file = tmp_path / "data.json"
    small = ["--repeats", "1", "--scale", str(TINY), "--json", str(file)]
    assert data.main([*small, "--full", "--tree", str(tree)]) == 0
    found = json.loads(file.read_text())
    assert set(found) >= {"loader_over_step", "rss_growth_mb", "open_100k_s", "render_511_s"}
    assert found["loader_over_step"] == min(found["loader_over_step_memory"], found["loader_over_step_disk"]) > 0
    assert found["open_100k_s"] == max(found[f"open_{name}_s"] for name in data.TREES) > 0
    assert found["render_511_s"] > 0
    assert "| loader over step, views from disk |" in capsys.readouterr().out

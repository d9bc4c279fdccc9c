import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_rows_have_the_keys_that_every_tool_reads(tmp_path):
    arguments = ["--scenes=1", "--rounds=1", "--names", "ours", "plain", f"--json={tmp_path / 'rows.json'}"]
    command = [sys.executable, ROOT / "benchmarks" / "renderer.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == ["ours", "plain"]
    for row in rows:
        assert list(row) == [
            *("name", "device", "splats", "views", "size"),
            *("forward_s", "backward_s", "peak_mb", "max_error", "truncated_fraction"),
        ]
        assert row["max_error"] < 1e-4  # of float32 against float64
        assert row["truncated_fraction"] == 0
        assert row["peak_mb"] > 0
    assert "| ours | 1,024 |" in done.stdout


def test_an_unknown_name_is_a_usage_error(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    renderer = runpy.run_path(str(ROOT / "benchmarks" / "renderer.py"))
    with pytest.raises(SystemExit) as stopped:
        renderer["main"](["--names", "theirs"])
    assert stopped.value.code == 2
    assert "expected some of ours, plain" in capsys.readouterr().err


def test_meshes_are_those_with_the_wanted_number_of_faces(tmp_path):
    meshes = runpy.run_path(str(ROOT / "benchmarks" / "meshes.py"))
    small = ["--objects=2", "--views=2", "--size=16", "--rounds=1", f"--json={tmp_path / 'rows.json'}"]
    assert meshes["main"](["--faces=0", *small]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert 0 < rows[0]["faces"] <= rows[1]["faces"]
    assert all(row["load_s"] > 0 and row["render_s"] > 0 for row in rows)
    meshes["main"](["--faces=1000000", *small])
    assert json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))[0]["faces"] > rows[1]["faces"]

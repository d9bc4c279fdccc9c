"""The weights that come with the package: small, described, and enough for every command where nothing was trained."""

import json
import re
from pathlib import Path

import pytest
import yaml
from commands import refusal

from ouroboros3d.cli import main
from ouroboros3d.files import sha256_of
from ouroboros3d.networks.pretrained.base import read_variant
from ouroboros3d.weight_names import SHIPPED, shipped_names

ABLATIONS = Path(__file__).parents[1] / "ablations"
VALUES = ("max_objects=1", "rig.orbits=1", "rig.supersampling=1", "surface_points=0", "render_workers=1")
QUICK = ["--model.sampler.num_steps=2", *(f"--data.init_args.{value}" for value in VALUES)]


@pytest.mark.parametrize("name", ["staged", "recursive"])
def test_they_are_small_and_say_what_they_are(name: str) -> None:
    path = SHIPPED / f"{name}.safetensors"
    assert path.stat().st_size <= 15e6
    _, about = read_variant(path)
    assert about["variant"] == f"ouroboros3d.lightning_modules.{name}.{name.capitalize()}"
    assert about["steps"] > 0
    assert about["recipe"]
    readme = (SHIPPED / "README.md").read_text()
    assert about["sources"]
    for source, licences in about["sources"].items():
        assert f"| {source} |" in readme
        assert licences in readme
    assert not re.search(r'"/', json.dumps(about)), "a path of the machine that it was made on"


def test_they_are_tested_and_compared_where_nothing_was_trained(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", *QUICK])
    assert "so the weights that come with this package, bundled:recursive" in capsys.readouterr().out
    for name, weights in {"staged": "staged", "inference_combined": "staged"}.items():
        main(["test", f"--config={ABLATIONS / name}.yaml", *QUICK])
        assert f"so the weights that come with this package, bundled:{weights}" in capsys.readouterr().out
        results = json.loads((here / f"runs/{name}/version_0/results.json").read_text())
        assert results["checkpoint"] == f"bundled:{weights}"
        assert results["checkpoint_sha256"] == sha256_of(SHIPPED / f"{weights}.safetensors")
    assert yaml.safe_load((here / "runs/staged/version_0/config.yaml").read_text())["ckpt_path"] == "bundled:staged"
    main(["compare"])


def test_they_predict_and_are_exported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", "--model.sampler.num_steps=2", "--ckpt_path=bundled:staged"])
    assert (here / "runs/staged/version_0/predictions/example/turntable.gif").is_file()
    main(["export"])
    card = (here / "runs/export/recursive/README.md").read_text()
    assert "`bundled:recursive`" in card
    assert shipped_names() == ["bundled:recursive", "bundled:staged"]
    assert "bundled:recursive and bundled:staged" in refusal(capsys, "test", "--ckpt_path=bundled:nothing")

"""Configurations that earlier versions saved load, from runs and from files of weights."""

import json
from pathlib import Path

import pytest
import yaml
from commands import refusal

from ouroboros3d.cli import main
from ouroboros3d.commands.earlier_configurations import brought_up_to_date, text_up_to_date

STAGED = Path(__file__).parents[2] / "ablations" / "staged.yaml"
OBJAVERSE = "ouroboros3d.datamodules.objaverse.ObjaverseDataModule"
PHOTOS = "ouroboros3d.datamodules.photos.PhotoDataModule"
FLAT = {
    "image_size": 16,
    "orbits": 2,
    "orbit_views": 4,
    "elevation_deg": [0.0, 20.0],
    "radius": 2.0,
    "fov_deg": 35.0,
    "supersampling": 1,
    "light": 0.5,
}
RIG = {**{name: value for name, value in FLAT.items() if name != "orbit_views"}, "views": 4}


def test_flat_keys_become_fields_of_the_rig() -> None:
    saved = {
        "seed_everything": 3,
        "data": {"class_path": OBJAVERSE, "init_args": {"root": None, **FLAT, "num_views": 4}},
    }
    today = brought_up_to_date(saved)
    assert today == {
        "seed_everything": 3,
        "data": {"class_path": OBJAVERSE, "init_args": {"root": None, "num_views": 4, "rig": RIG}},
    }
    assert brought_up_to_date(today) is today
    assert yaml.safe_load(text_up_to_date(json.dumps(saved))) == today


def test_the_elevation_of_a_photo_stays_its_own() -> None:
    saved = {"data": {"class_path": PHOTOS, "init_args": {"image_size": 16, "elevation_deg": 10.0}}}
    assert brought_up_to_date(saved)["data"]["init_args"] == {"elevation_deg": 10.0, "rig": {"image_size": 16}}


@pytest.mark.parametrize(
    "text", ["", "a: [", "{model: {}}", "5", "data: null", "data: bundled", "data: {init_args: []}"]
)
def test_what_is_not_of_an_earlier_version_stays_as_it_is(text: str) -> None:
    assert text_up_to_date(text) == text


def test_a_saved_configuration_is_parsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As that of shipped weights is, which `test_weights_of_the_package.py` tests with."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"data": {"class_path": OBJAVERSE, "init_args": FLAT}}))
    with pytest.raises(SystemExit, match="0"):
        main(["fit", f"--config={STAGED}", f"--config={file}", "--data.rig.light=0.25", "--print_config"])
    data = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert data["rig"] == {**RIG, "light": 0.25, "seed": 0}
    assert "image_size" not in data


def test_the_old_name_of_an_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "orbit_views" in refusal(capsys, "fit", f"--config={STAGED}", "--data.orbit_views=4", "--print_config")

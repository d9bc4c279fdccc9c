"""Configurations from elsewhere: within bounds, and of them no more than weights need."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ouroboros3d.configurations import PACKAGES, check_classes, for_fit, for_use, of_this_machine, parse_yaml, read_yaml

# Ten lists of ten of the list above each: 10^8 values of 10 lines.
_BOMB = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))


def own() -> dict[str, Any]:
    """A run's configuration, as far as anything looks at it."""
    return {
        "seed_everything": 3,
        "trainer": {
            "precision": "bf16-mixed",
            "limit_val_batches": 2,
            "devices": 1000,
            "callbacks": [
                {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": None}}
            ],
            "logger": {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "runs"}},
        },
        "model": {"class_path": "ouroboros3d.lightning_modules.staged.Staged", "init_args": {"base_weights": "x.ckpt"}},
        "data": {
            "class_path": "ouroboros3d.datamodules.objaverse.ObjaverseDataModule",
            "init_args": {"root": "tree", "download": False, "cache_dir": None},
        },
        "runs": "runs",
        "experiment": "staged",
        "version": "version_0",
        "ckpt_path": None,
        "weights_only": True,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_BOMB, "at most 10,000 values through aliases"),
        ("a: &a [*a]", "an alias of a value before it, got *a"),
        ("a: &a {b: *a}", "an alias of a value before it"),
        ("[" * 5000 + "]" * 5000, "at most 64 levels of brackets"),
        ("{a: " * 100 + "1" + "}" * 100, "at most 64 levels of brackets"),
        ("".join(f"{'  ' * level}a:\n" for level in range(100)), "at most 64 levels of brackets"),
        ("[" + "1," * 500_001 + "]", "at most 500,000 values"),
        ("model: [", "expected YAML, got"),
        ("seeds: [2026-99-99]", "expected YAML, got month must be in 1..12"),
        ("a: !!python/object/apply:os.system [touch executed]", "expected YAML, got"),
        ("a: !!python/name:os.system", "expected YAML, got"),
    ],
)
def test_yaml_beyond_any_configuration_is_refused_before_it_is_made(text: str, expected: str, here: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)) as refused:
        parse_yaml(text, "x.yaml")
    assert str(refused.value).startswith("x.yaml: ")
    assert "\n" not in str(refused.value)
    assert not Path("executed").exists()


def test_yaml_within_bounds_is_what_it_says() -> None:
    text = "a: &x {lr: 1.0e-4, betas: [0.9, 0.95]}\nb: *x\nc: [*x, *x]\nd:\n  <<: *x\n  lr: 2\n"
    assert parse_yaml(text, "x.yaml") == yaml.safe_load(text)
    assert parse_yaml(_BOMB[: _BOMB.index("a4")], "x.yaml") == yaml.safe_load(_BOMB[: _BOMB.index("a4")])
    assert parse_yaml("[" * 64 + "]" * 64, "x.yaml") == yaml.safe_load("[" * 64 + "]" * 64)


def test_what_is_no_file_is_not_read(here: Path) -> None:
    os.mkfifo("pipe.yaml")
    Path("zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml", "."):
        with pytest.raises(ValueError, match=re.escape(f"{Path(name)}: expected a file of YAML")):
            read_yaml(Path(name))
    with Path("large.yaml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="at most 16 MiB of YAML"):
        read_yaml(Path("large.yaml"))


def test_of_a_run_that_is_used_model_and_data_are_taken() -> None:
    config = own()
    assert for_use(config, "config.yaml", []) == {
        "seed_everything": 3,
        "trainer": {"precision": "bf16-mixed", "limit_val_batches": 2},
        "model": config["model"],
        "data": config["data"],
    }
    assert for_use({"model": config["model"], "data": config["data"]}, "config.yaml", []).keys() == {"model", "data"}
    config["trainer"] = {"precision": {"class_path": "subprocess.Popen"}, "limit_test_batches": [1]}
    assert for_use(config, "config.yaml", []).keys() == {"seed_everything", "model", "data"}
    for part in ("model", "data"):
        for wrong in (None, "subprocess.Popen", ["model"]):
            with pytest.raises(ValueError, match=f"config.yaml: expected a run's configuration .* none of {part}"):
                for_use(own() | {part: wrong}, "config.yaml", [])


@pytest.mark.parametrize(
    "path", ["subprocess.Popen", "payload.Model", "ouroboros3d_evil.Model", "lightning.X", ["a.b"]]
)
def test_classes_come_from_known_packages(path: Any) -> None:
    config = own()
    config["model"]["init_args"]["unet"] = [{"class_path": path}]
    with pytest.raises(ValueError, match=r"config\.yaml: model\.init_args\.unet\.0: expected a class of ouroboros3d"):
        for_use(config, "config.yaml", [])
    with pytest.raises(ValueError, match="--allow_package"):
        for_fit(config, "config.yaml", [])


def test_what_the_user_trusts_is_known_too() -> None:
    config = own()
    config["model"]["init_args"]["unet"] = {"class_path": "payload.Model"}
    assert for_use(config, "config.yaml", ["payload"])["model"] == config["model"]
    check_classes({"class_path": "Staged"}, "config.yaml", PACKAGES)  # looked up among known ones


def test_a_run_that_trains_again_writes_into_its_own_folder() -> None:
    config = own()
    assert for_fit(config, "config.yaml", []) == {
        name: value for name, value in config.items() if name not in ("runs", "experiment", "version")
    }
    for place, value in {
        "default_root_dir": "elsewhere",
        "profiler": {"class_path": "lightning.pytorch.profilers.SimpleProfiler", "init_args": {"dirpath": "elsewhere"}},
        "logger": [{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "elsewhere"}}],
        "callbacks": {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"filename": "../elsewhere"},
        },
    }.items():
        wrong = own()
        wrong["trainer"][place] = value
        with pytest.raises(ValueError, match=r"config\.yaml: trainer.*expected a run that writes into its own folder"):
            for_fit(wrong, "config.yaml", [])


def test_a_run_s_configuration_is_one_file(here: Path) -> None:
    """Another file in a value's place would be read as its configuration."""
    Path("more.yaml").touch()
    config = own()
    config["model"]["init_args"]["base_weights"] = config["data"]["init_args"]["root"] = "more.yaml"  # paths they are
    for_use(config, "config.yaml", [])
    config["data"]["init_args"]["augmentation"] = "more.yaml"
    with pytest.raises(ValueError, match=r"data\.init_args\.augmentation: .* in one file, got 'more\.yaml'"):
        for_use(config, "config.yaml", [])


def test_of_a_run_no_download_and_no_folder_to_write_to_are_taken(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = own()
    settings = config["data"]["init_args"]
    settings["cache_dir"] = str(here / "elsewhere")
    with caplog.at_level("INFO", logger="ouroboros3d"):
        of_this_machine(config, "config.yaml", given=())
    assert settings["cache_dir"] is None
    assert "elsewhere of the run is no cache of this machine" in caplog.text
    (here / "cache/32px-0123456789abcdef").mkdir(parents=True)
    (here / "cache/32px-0123456789abcdef/index.jsonl").touch()
    settings["cache_dir"] = str(here / "cache")
    of_this_machine(config, "config.yaml", given=())
    assert settings["cache_dir"] == str(here / "cache")
    settings["download"] = True
    with pytest.raises(ValueError, match=r"add --data\.download true if they may be fetched"):
        of_this_machine(config, "config.yaml", given=())
    of_this_machine(config, "config.yaml", given={"download"})

"""A run from elsewhere, its configuration and its checkpoint, executes nothing and writes nowhere else."""

import io
import os
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import refusal

from ouroboros3d.cli import main

ROOT = Path(__file__).parents[1]
STAGED = [f"--config={ROOT / name}.yaml" for name in ("ablations/staged", "tests/tiny")]
_PAYLOAD = """
from pathlib import Path
Path("executed").touch()
from lightning.pytorch import Callback
from ouroboros3d.lightning_modules.staged import Staged
class Evil(Staged): pass
class EvilCallback(Callback): pass
"""


def spec(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


POPEN = spec("subprocess.Popen", args=["touch", "executed"])
LOAD = spec("torch.load", f="runs/downloaded/version_0/evil.ckpt", weights_only=False)
CUT = spec("logging.FileHandler", filename="kept", mode="w")
PROFILER = "lightning.pytorch.profilers.AdvancedProfiler"
DDP = "lightning.pytorch.strategies.DDPStrategy"
# Planted values by their places: what is taken of a run's configuration is refused, what is not is not looked at.
TAKEN: dict[str, tuple[str, Any]] = {
    "module of the run": ("model.class_path", "runs.downloaded.version_0.payload.Evil"),
    "module of the run, short": ("model.init_args.unet", "runs.downloaded.version_0.payload.Evil"),
    "optimizer": ("model.init_args.optimizer", POPEN),
    "optimizer, short": ("model.init_args.optimizer", "subprocess.Popen"),
    "optimizer through a module": ("model.init_args.optimizer", "ouroboros3d.files.subprocess.Popen"),
    "argument of the optimizer": ("model.init_args.optimizer", spec("torch.optim.AdamW", lr=POPEN)),
    "class method": (
        "model",
        spec(
            "ouroboros3d.lightning_modules.staged.Staged.load_from_checkpoint",
            checkpoint_path="runs/downloaded/version_0/evil.ckpt",
            weights_only=False,
        ),
    ),
    "data": ("data", spec("runs.downloaded.version_0.payload.Evil")),
    "module with an effect": ("model.init_args.codec", spec("antigravity.X")),
    "endless file": ("model.init_args.unet", "/proc/self/pagemap"),
    "download": ("data.init_args.download", True),
}
NOT_TAKEN: dict[str, tuple[str, Any]] = {
    "callback of the run": ("trainer.callbacks", [spec("runs.downloaded.version_0.payload.EvilCallback")]),
    "object of the strategy": ("trainer.strategy", spec(DDP, ddp_comm_state=LOAD)),
    "logger elsewhere": ("trainer.logger", spec("lightning.pytorch.loggers.CSVLogger", save_dir="outside", name="x")),
    "profiler elsewhere": ("trainer.profiler", spec(PROFILER, dirpath="outside", filename="x")),
    "plugins": ("trainer.plugins", [POPEN, CUT]),
    "processes": ("trainer.devices", 1000),
    "runs elsewhere": ("runs", "outside"),
    "version elsewhere": ("version", "../../outside"),
    "pickles": ("weights_only", False),
    "cache elsewhere": ("data.init_args.cache_dir", "outside"),
    "unknown": ("nonsense", POPEN),
}


class Evil:
    """What touches a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("executed"),)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The whole configuration of a tiny run."""
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        main(["fit", *STAGED, "--print_config"])
    return yaml.safe_load(printed.getvalue())


@pytest.fixture
def downloaded(config: dict[str, Any], here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A run with a planted value, in a working folder that is on Python's path, as under `python -m`."""
    monkeypatch.syspath_prepend(here)
    Path("kept").write_text("kept")

    def plant(*values: tuple[str, Any], **more: Any) -> Path:
        run = here / "runs/downloaded/version_0"
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "payload.py").write_text(_PAYLOAD)
        torch.save({"state_dict": Evil()}, run / "evil.ckpt")
        content = {"state_dict": {}, "global_step": 1, "pytorch-lightning_version": "2.6.0", **more}
        torch.save(content, run / "checkpoints/last.ckpt")
        planted = yaml.safe_load(yaml.safe_dump({**config, "experiment": "downloaded", "version": "version_0"}))
        for place, value in values:
            inner, (*folders, last) = planted, place.split(".")
            for folder in folders:
                inner = inner[folder]
            inner[last] = value
        (run / "config.yaml").write_text(yaml.safe_dump(planted))
        return run / "checkpoints/last.ckpt"

    return plant


def files() -> dict[str, int]:
    """What is in the working folder besides the runs."""
    found = (path for path in Path().rglob("*") if not {"runs", "__pycache__"} & set(path.parts))
    return {str(path): path.stat().st_size for path in found}


@pytest.mark.parametrize("attack", TAKEN)
def test_what_is_taken_of_its_configuration_executes_nothing(
    attack: str, downloaded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = downloaded(TAKEN[attack])
    before = files()
    refusal(capsys, "test", f"--ckpt_path={checkpoint}")
    assert files() == before


def test_of_its_configuration_no_more_than_model_and_data_are_taken(
    downloaded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = downloaded(*NOT_TAKEN.values())
    before = files()
    # The checkpoint has no weights: what gets so far as to load them has made all that the configuration names.
    for command in ("test", "validate", "predict", "export"):
        assert "expected the weights of Staged" in refusal(capsys, command, f"--ckpt_path={checkpoint}")
        assert files() == before


def test_its_configuration_trains_with_known_classes_alone(
    downloaded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for attack in ("callback of the run", "object of the strategy", "logger elsewhere"):
        config = downloaded(NOT_TAKEN[attack]).parents[1] / "config.yaml"
        before = files()
        line = refusal(capsys, "fit", f"--config={config}")
        assert re_of(attack) in line
        assert files() == before


def re_of(attack: str) -> str:
    return "writes into its own folder" if "elsewhere" in attack else "expected a class of ouroboros3d"


def test_a_file_that_is_named_executes_nothing_either(
    downloaded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever may be of any class is left as it is written; functions are not called in its place."""
    downloaded()
    Path("mine.yaml").write_text(
        yaml.safe_dump(
            {"trainer": {"strategy": spec(DDP, ddp_comm_state=spec("ouroboros3d.cli.main", args=["--version"]))}}
        )
    )
    before = files()
    capsys.readouterr()
    refusal(
        capsys, "test", *STAGED, "--config=mine.yaml", "--ckpt_path=runs/downloaded/version_0/checkpoints/last.ckpt"
    )
    assert "ouroboros3d 0" not in capsys.readouterr().out
    assert files() == before


def test_a_package_is_trusted_by_name(downloaded: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = downloaded(("model.class_path", "mine.Model"))
    Path("mine.py").write_text("from ouroboros3d.lightning_modules.staged import Staged\nclass Model(Staged): pass\n")
    assert "mine.Model, whose code would run; add --allow_package mine" in refusal(
        capsys, "test", f"--ckpt_path={checkpoint}"
    )
    line = refusal(capsys, "test", f"--ckpt_path={checkpoint}", "--allow_package=mine")
    assert "expected the weights of Model" in line
    assert "whose code would run" in refusal(capsys, "test", f"--ckpt_path={checkpoint}", "--model=mine.Model")


@pytest.mark.parametrize("name", ["hyper_parameters", "datamodule_hyper_parameters"])
def test_a_checkpoint_with_hyper_parameters_is_refused(
    name: str, downloaded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = downloaded(**{name: {"_class_path": "runs.downloaded.version_0.payload.Evil"}})
    for arguments in (["test"], ["test", *STAGED], ["export"], ["fit", *STAGED]):
        assert f"without {name}" in refusal(capsys, *arguments, f"--ckpt_path={checkpoint}")
    assert f"without {name}" in refusal(capsys, "fit", *STAGED, f"--model.base_weights={checkpoint}")
    assert not Path("executed").exists()


def test_yaml_without_end_ends(downloaded: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = downloaded()
    config = checkpoint.parents[1] / "config.yaml"
    bomb = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    for text, expected in ((bomb, "values through aliases"), ("[" * 5000, "levels of brackets")):
        config.write_text(text)
        for command in ("test", "export", "predict"):
            assert expected in refusal(capsys, command, f"--ckpt_path={checkpoint}")
        assert expected in refusal(capsys, "fit", f"--config={config}")
        assert expected in refusal(capsys, "fit", "--trainer.callbacks", text)
        Path("suite.yaml").write_text(text)
        assert expected in refusal(capsys, "ablate", "suite.yaml")


def test_links_out_of_a_run_lead_nowhere(downloaded: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = downloaded()
    config = checkpoint.parents[1] / "config.yaml"
    for target in ("/dev/zero", "/proc/self/pagemap"):
        config.unlink()
        config.symlink_to(target)
        refusal(capsys, "test", f"--ckpt_path={checkpoint}")
    config.unlink()
    os.mkfifo(config)
    refusal(capsys, "test", f"--ckpt_path={checkpoint}")
    assert "config.yaml: expected a file of YAML" in refusal(capsys, "fit", f"--config={config}")

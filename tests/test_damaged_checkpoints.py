"""Checkpoints with values of any type: one line each, from every command that reads one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refusal, working_in

from ouroboros3d.cli import main

ROOT = Path(__file__).parents[1]
STAGED = [f"--config={ROOT / name}.yaml" for name in ("ablations/staged", "tests/tiny")]
# Read before anything is built, or by what goes on from it.
WRONG: dict[str, tuple[tuple[Any, ...], Any]] = {
    "callbacks are a list": (("callbacks",), [1]),
    "a callback's state is a number": (("callbacks", "LastCheckpoint"), 3),
    "the step is a text": (("global_step",), "x"),
    "the step is true": (("global_step",), True),
    "the step is nothing": (("global_step",), None),
    "weights are a list": (("state_dict",), [1]),
    "a weight is a number": (("state_dict", "unet.x"), 3),
    "the version is a number": (("pytorch-lightning_version",), 2.6),
    "the meaning is a list": (("ouroboros3d_meaning",), []),
    "loops are a text": (("loops",), "x"),
    "the optimizers are a number": (("optimizer_states",), 3),
}
WRONG_INSIDE: dict[str, tuple[tuple[Any, ...], Any]] = {
    "a loop is a number": (("loops", "fit_loop"), 3),
    "progress is a list": (("loops", "fit_loop", "epoch_loop.batch_progress"), [1]),
    "an optimizer is a number": (("optimizer_states",), [3]),
    "groups are a text": (("optimizer_states", 0, "param_groups"), "x"),
    "a scheduler is a text": (("lr_schedulers",), ["x"]),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny run."""
    folder = tmp_path_factory.mktemp("trained")
    with working_in(folder):
        main(["fit", *STAGED, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"])
    return folder / "runs/staged/version_0/checkpoints/last.ckpt"


@pytest.fixture
def damaged(trained: Path, here: Path) -> Callable[..., Path]:
    """The checkpoint with another value at a place, beside the run's configuration."""

    def damage(place: tuple[Any, ...], value: Any) -> Path:
        content = torch.load(trained, weights_only=True)
        *folders, last = place
        inner = content
        for key in folders:
            inner = inner[key]
        inner[next((name for name in inner if str(last) in str(name)), last) if folders else last] = value
        path = here / "run/checkpoints/last.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        (here / "run/config.yaml").write_bytes((trained.parents[1] / "config.yaml").read_bytes())
        torch.save(content, path)
        return path

    return damage


@pytest.mark.parametrize("what", WRONG)
def test_values_of_another_type_are_found_at_once(
    what: str, damaged: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(*WRONG[what])
    line = refusal(capsys, "test", f"--ckpt_path={path}")
    assert f"{path}: expected a checkpoint of this project, whose {WRONG[what][0][0]} " in line
    assert "it is damaged or of another kind" in line


def test_every_command_finds_them(damaged: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = damaged(*WRONG["the step is a text"])
    for arguments in (["export"], ["predict"], ["fit", *STAGED]):
        assert "whose global_step is of type int, got str" in refusal(capsys, *arguments, f"--ckpt_path={path}")
    assert "whose global_step is of type int" in refusal(capsys, "fit", *STAGED, f"--model.base_weights={path}")


@pytest.mark.parametrize("what", WRONG_INSIDE)
def test_a_state_that_nothing_can_go_on_from_is_one_line(
    what: str, damaged: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(*WRONG_INSIDE[what])
    line = refusal(capsys, "fit", *STAGED, "--trainer.max_steps=2", f"--ckpt_path={path}")
    assert f"{path}: expected a checkpoint that a run wrote, got one that nothing can go on from" in line

"""`fit --resume`: a run that was cut off goes on in its own folder, and ends as if nothing had happened."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ouroboros3d.cli import main

ROOT = Path(__file__).parents[1]
RECURSIVE = ["fit", f"--config={ROOT / 'ablations' / 'recursive.yaml'}", f"--config={ROOT / 'tests' / 'tiny.yaml'}"]
# The last checkpoint is one step older than the last validation and its best checkpoint.
STEPS = [
    "--trainer.max_steps=7",
    "--trainer.val_check_interval=3",
    "--trainer.callbacks+=ouroboros3d.callbacks.checkpoints.LastCheckpoint",
    "--trainer.callbacks.every_n_steps=5",
]
# A run that sends itself a signal in a method of its module, once it has made a given number of steps.
_STOPPED = """
import os, sys
from ouroboros3d.cli import main
from ouroboros3d.lightning_modules.recursive import Recursive
number, method, after, *arguments = sys.argv[1:]
whole = getattr(Recursive, method)
def stop(self, *args):
    if self.global_step == int(after):
        os.kill(os.getpid(), int(number))
    return whole(self, *args)
setattr(Recursive, method, stop)
main(arguments)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OUROBOROS3D_DEBUG", raising=False)
    monkeypatch.delenv("OUROBOROS3D_RUN_VERSION", raising=False)
    return tmp_path


def stopped(number: int, method: str, after: int, *arguments: str) -> int:
    command = [sys.executable, "-c", _STOPPED, str(number), method, str(after), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).returncode


def checkpoints(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    files = sorted((run / "checkpoints").iterdir())
    return {path.name: torch.load(path, weights_only=True)["state_dict"] for path in files}


def assert_same_checkpoints(run: Path, other: Path) -> None:
    one, two = checkpoints(run), checkpoints(other)
    assert one.keys() == two.keys()
    for name, state in one.items():
        for key, value in state.items():
            assert torch.equal(value, two[name][key]), (name, key)


def steps_of(run: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(run))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


def test_a_killed_run_goes_on_exactly(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*RECURSIVE, *STEPS, "--version=whole"])
    whole, killed = here / "runs/recursive/whole", here / "runs/recursive/killed"
    assert stopped(9, "training_step", 6, *RECURSIVE, *STEPS, "--version=killed") == -9
    saved = torch.load(killed / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    config = (killed / "config.yaml").read_bytes()
    # As if a validation after the last checkpoint had been the best one, on a way that is not taken again.
    shutil.copy(killed / "checkpoints/last.ckpt", killed / "checkpoints/best-60.ckpt")

    main(["fit", "--resume", "runs/recursive/killed"])
    assert_same_checkpoints(killed, whole)
    assert (killed / "config.yaml").read_bytes() == config
    assert sorted(path.name for path in killed.parent.iterdir()) == ["killed", "whole"]
    for tag in ("train/loss", "val/novel_psnr_foreground"):  # the sixth step was made twice
        assert steps_of(killed, tag) == steps_of(whole, tag)

    # A finished run ends at once; with more steps to do it goes on.
    main(["fit", "--resume=runs/recursive/killed"])
    assert_same_checkpoints(killed, whole)
    main(["fit", "--resume=runs/recursive/killed", "--trainer.max_steps=8"])
    last = torch.load(killed / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 8


def test_a_run_that_is_killed_while_it_validates_validates_again(here: Path) -> None:
    # A checkpoint is due at the very step.
    short = [*STEPS, "--trainer.callbacks.every_n_steps=2", "--trainer.max_steps=4", "--trainer.val_check_interval=2"]
    main([*RECURSIVE, *short, "--version=whole"])
    assert stopped(9, "validation_step", 4, *RECURSIVE, *short, "--version=killed") == -9
    whole, killed = here / "runs/recursive/whole", here / "runs/recursive/killed"
    main(["fit", "--resume", str(killed)])
    assert_same_checkpoints(killed, whole)
    tag = "val/novel_psnr_foreground"
    assert steps_of(killed, tag) == steps_of(whole, tag) == [1, 3]


def test_a_run_without_a_checkpoint_starts_again(here: Path) -> None:
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    main([*RECURSIVE, *short, "--version=whole"])
    assert stopped(15, "training_step", 0, *RECURSIVE, *short, "--version=ended") == 128 + 15  # 0 would say complete
    ended = here / "runs/recursive/ended"
    assert not (ended / "checkpoints").exists()
    main(["fit", "--resume", str(ended)])
    assert_same_checkpoints(ended, here / "runs/recursive/whole")
    assert steps_of(ended, "train/loss") == [0, 1]


def test_what_cannot_go_on_gets_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["fit", *arguments])
        assert ended.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ouroboros3d: error: ")]
        assert len(lines) == 1
        return lines[0]

    assert "got nowhere without a config.yaml" in refusal("--resume", "nowhere")
    main([*RECURSIVE, "--trainer.max_steps=1", "--version=one"])
    run = here / "runs/recursive/one"
    assert "no --version" in refusal(f"--resume={run}", "--version=two")
    assert "no --ckpt_path" in refusal(f"--resume={run}", "--ckpt_path=last.ckpt")
    last = run / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert "last.ckpt: expected a checkpoint" in refusal(f"--resume={run}")
    moved = run.rename(here / "runs/recursive/moved")
    assert "at the path that its config.yaml names" in refusal(f"--resume={moved}")
    (moved / "config.yaml").write_text("model: [")
    assert "got" in refusal(f"--resume={moved}")

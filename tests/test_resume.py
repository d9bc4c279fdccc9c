"""`fit --resume`: a run that was cut off goes on in its own folder, and ends as if nothing had happened."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
import yaml
from processes import Command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ouroboros3d.cli import main
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.files import lock
from ouroboros3d.lightning_modules.recursive import Recursive

ROOT = Path(__file__).parents[1]
RECURSIVE = ["fit", f"--config={ROOT / 'ablations' / 'recursive.yaml'}", f"--config={ROOT / 'tests' / 'tiny.yaml'}"]
LAST = "ouroboros3d.callbacks.checkpoints.LastCheckpoint"
# The last checkpoint is one step older than the last validation and its best checkpoint.
STEPS = [
    "--trainer.max_steps=7",
    "--trainer.val_check_interval=3",
    "--trainer.callbacks+=" + LAST,
    "--trainer.callbacks.every_n_steps=5",
    "--model.init_args.sampler.num_steps=2",
]


def _die_in(method: str, after: int) -> None:
    """Let this process be killed in a method of its module, once it has made a given number of steps."""
    whole: Callable[..., Any] = getattr(Recursive, method)

    def die(self: Recursive, *arguments: Any) -> Any:
        if self.global_step == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, *arguments)

    setattr(Recursive, method, die)


def _end_while_preparing(number: signal.Signals) -> None:
    """Let this process get a signal while it prepares its data, which may take hours."""
    ObjaverseDataModule.prepare_data = lambda self: os.kill(os.getpid(), number)


def _move_after(steps: int, run: str) -> None:
    """Let somebody move this process's run, once it has made a given number of steps."""
    whole = Recursive.training_step

    def step(self: Recursive, *arguments: Any) -> Any:
        if self.global_step == steps:
            Path(run).rename(Path(run).with_name("away"))
        return whole(self, *arguments)

    Recursive.training_step = step


def _die_while_saving(number: int, share: float) -> None:
    """Let this process be killed in its n-th checkpoint, when a share of the checkpoint's bytes is written."""
    whole, left = torch.save, [number]

    def save(content: Any, file: Any) -> None:
        whole(content, file)
        left[0] -= 1
        if left[0] == 0:
            file.flush()
            os.truncate(file.name, int(share * os.path.getsize(file.name)))
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save


def killed(*arguments: str, before: Callable[[], None]) -> None:
    command = Command(*arguments, before=before)
    assert command.wait() == -signal.SIGKILL, command.printed


def checkpoints(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Weights by file and name: their moving average, and those of the last step, from which a run goes on."""
    files = {path.name: torch.load(path, weights_only=True) for path in sorted((run / "checkpoints").iterdir())}
    last = {name: {f"last {key}": w for key, w in file["current_model_state"].items()} for name, file in files.items()}
    return {name: {**file["state_dict"], **last[name]} for name, file in files.items()}


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


def test_a_killed_run_goes_on_exactly(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    main([*RECURSIVE, *STEPS, "--version=whole"])
    whole, cut = here / "runs/recursive/whole", here / "runs/recursive/cut"
    killed(*RECURSIVE, *STEPS, "--version=cut", before=partial(_die_in, "training_step", 6))
    saved = torch.load(cut / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    config = (cut / "config.yaml").read_bytes()
    # As if a validation after the last checkpoint had been the best one, on a way that is not taken again.
    shutil.copy(cut / "checkpoints/last.ckpt", cut / "checkpoints/best-60.ckpt")

    main(["fit", "--resume", "runs/recursive/cut"])
    assert_same_checkpoints(cut, whole)
    assert (cut / "config.yaml").read_bytes() == config
    assert sorted(path.name for path in cut.parent.iterdir()) == ["cut", "whole"]
    for tag in ("train/loss", "val/novel_psnr_foreground"):  # the sixth step was made twice
        assert steps_of(cut, tag) == steps_of(whole, tag)

    # A finished run ends at once; with more steps to do it goes on.
    main(["fit", "--resume=runs/recursive/cut"])
    assert_same_checkpoints(cut, whole)
    rate = "--model.optimizer.init_args.lr=0.001"
    main(["fit", "--resume=runs/recursive/cut", "--trainer.max_steps=8", rate])
    last = torch.load(cut / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 8
    assert {group["initial_lr"] for group in last["optimizer_states"][0]["param_groups"]} == {0.001, 0.008}
    changed = [event for event in caplog.messages if "in place of the checkpoint's" in event]
    assert changed == ["optimizer: lr is 0.001 from here on, in place of the checkpoint's 0.0003."]
    # What was asked for besides the run's own configuration is in the run.
    history = yaml.safe_load((cut / "resumed.yaml").read_text())
    assert history == [
        {"step": 5, "options": []},
        {"step": 7, "options": []},
        {"step": 7, "options": ["--trainer.max_steps=8", rate]},
    ]


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_validates_validates_again(here: Path) -> None:
    # A checkpoint is due at the very step.
    short = [*STEPS, "--trainer.callbacks.every_n_steps=2", "--trainer.max_steps=4", "--trainer.val_check_interval=2"]
    main([*RECURSIVE, *short, "--version=whole"])
    killed(*RECURSIVE, *short, "--version=cut", before=partial(_die_in, "validation_step", 4))
    whole, cut = here / "runs/recursive/whole", here / "runs/recursive/cut"
    main(["fit", "--resume", str(cut)])
    assert_same_checkpoints(cut, whole)
    tag = "val/novel_psnr_foreground"
    assert steps_of(cut, tag) == steps_of(whole, tag) == [1, 3]


def test_a_run_that_is_killed_at_any_moment_goes_on_exactly(here: Path) -> None:
    chance = random.Random(0)
    steps = ["--trainer.max_steps=6", "--trainer.limit_val_batches=0", "--trainer.callbacks+=" + LAST]
    steps += ["--trainer.callbacks.every_n_steps=2"]
    main([*RECURSIVE, *steps, "--version=whole"])
    run = here / "runs/recursive/cut"
    again = ["fit", "--resume=runs/recursive/cut"]
    # In the second checkpoint, in the first of the run that goes on, in a step.
    killed(*RECURSIVE, *steps, "--version=cut", before=partial(_die_while_saving, 2, chance.random()))
    for before in (
        partial(_die_while_saving, 1, chance.random()),
        partial(_die_in, "training_step", chance.randrange(2, 6)),
    ):
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
        killed(*again, before=before)
    main([*again, "--data.num_workers=1"])
    assert_same_checkpoints(run, here / "runs/recursive/whole")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"], "no unfinished file"


def test_a_run_without_a_checkpoint_starts_again(here: Path) -> None:
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    main([*RECURSIVE, *short, "--version=whole"])
    killed(*RECURSIVE, *short, "--version=ended", before=partial(_die_in, "training_step", 1))
    ended = here / "runs/recursive/ended"
    assert not (ended / "checkpoints").exists()
    main(["fit", "--resume", str(ended)])
    assert_same_checkpoints(ended, here / "runs/recursive/whole")
    assert steps_of(ended, "train/loss") == [0, 1]


def test_what_cannot_go_on_gets_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(*arguments: str) -> str:
        return commands.refusal(capsys, "fit", *arguments)

    assert "got nowhere without a config.yaml" in refusal("--resume", "nowhere")
    main([*RECURSIVE, "--trainer.max_steps=1", "--version=one"])
    run = here / "runs/recursive/one"
    assert "no --version" in refusal(f"--resume={run}", "--version=two")
    assert "no --ckpt_path" in refusal(f"--resume={run}", "--ckpt_path=last.ckpt")
    Path("elsewhere.yaml").write_text("experiment: elsewhere")
    assert "configurations without experiment" in refusal(f"--resume={run}", "--config=elsewhere.yaml")
    last = run / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert "last.ckpt: expected a checkpoint" in refusal(f"--resume={run}")
    moved = run.rename(here / "runs/recursive/moved")
    assert "at the path that its config.yaml names" in refusal(f"--resume={moved}")
    (moved / "config.yaml").write_text("model: [")
    assert "got" in refusal(f"--resume={moved}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_what_was_stopped_before_its_first_step_can_be_called_again(
    number: signal.Signals, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*RECURSIVE, "--version=mine", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    assert Command(*command, before=partial(_end_while_preparing, number)).wait() == -number
    run = here / "runs/recursive/mine"
    assert [path.name for path in run.iterdir()] == [".fit.lock"]
    # Not while another one holds it, nor where anything began.
    with lock(run / ".fit.lock"):
        assert "mine exists already" in commands.refusal(capsys, *command)
    (run / "config.yaml").touch()
    assert "mine exists already" in commands.refusal(capsys, *command)
    (run / "config.yaml").unlink()
    (run / "events.out.tfevents.1.x").touch()
    main(command)
    assert not (run / "events.out.tfevents.1.x").exists()
    assert (run / "checkpoints/last.ckpt").is_file()


def test_a_run_whose_folder_is_moved_ends_with_one_line(here: Path) -> None:
    run = here / "runs/recursive/moved"
    started = Command(*RECURSIVE, "--trainer.max_steps=4", "--version=moved", before=partial(_move_after, 2, str(run)))
    assert started.wait() == 2
    lines = [line for line in started.printed.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert "runs/recursive/moved to stay while the fit writes to it, got none with a config.yaml" in lines[0]
    assert not run.exists(), "nothing makes it anew"
    run.with_name("away").rename(run)
    main(["fit", "--resume=runs/recursive/moved"])
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


def test_a_fit_that_is_only_tried_out_needs_no_folder(here: Path) -> None:
    main([*RECURSIVE, "--trainer.fast_dev_run=1"])
    assert not list(here.glob("runs/*/*/checkpoints"))


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("accumulate_grad_batches=0", "trainer.accumulate_grad_batches: expected at least 1 batch a step, got 0"),
        ("limit_train_batches=0", "trainer.limit_train_batches: expected something to train, got 0"),
        ("limit_train_batches=0.0", "trainer.limit_train_batches: expected something to train, got 0"),
        ("max_steps=0", "trainer.max_steps: expected something to train, got 0"),
    ],
)
def test_a_fit_with_nothing_to_do_gets_one_line(
    option: str, expected: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in commands.refusal(capsys, *RECURSIVE, f"--trainer.{option}")
    assert not Path("runs").exists()

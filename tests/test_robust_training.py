"""Training that survives what happens to it: numbers that are not finite, signals, a full disk."""

import logging
import multiprocessing
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import working_in
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from processes import Command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader

from ouroboros3d.callbacks.non_finite import SkipNonFinite
from ouroboros3d.cli import main
from ouroboros3d.lightning_modules.recursive import Recursive

ROOT = Path(__file__).parents[1]
FIT = ["fit", f"--config={ROOT / 'ablations' / 'recursive.yaml'}", f"--config={ROOT / 'tests' / 'tiny.yaml'}"]
QUIET = ["--trainer.enable_model_summary=false"]
NO_VALIDATION = "--trainer.limit_val_batches=0"


def last(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def assert_equal(one: Any, two: Any, where: str = "") -> None:
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_equal(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_equal(a, b, f"{where}/{index}")
    elif isinstance(one, Tensor):
        assert torch.equal(one, two), where
    else:
        assert one == two, where


def assert_same_state(run: Path, other: Path) -> None:
    """Weights, averages, optimiser, schedule and counts; not the loops' notes of how they were entered."""
    one, two = last(run), last(other)
    for name in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert (name in one) == (name in two)
        assert_equal(one.get(name), two.get(name), name)
    assert one["global_step"] == two["global_step"]


def curve(run: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def error_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("ouroboros3d: error: ")]
    assert len(lines) == 1, text
    return lines[0]


class Line(LightningModule):
    """Two weights that follow batches of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = (self.line(batch) - 1).square().mean()
        self.log("train/line_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.5)


def fit_line(folder: Path, numbers: list[float], skip: SkipNonFinite, **options: Any) -> tuple[Line, Trainer]:
    torch.manual_seed(0)
    line = Line()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[skip, *options.pop("callbacks", [])],
        **options,
    )
    trainer.fit(line, DataLoader(torch.tensor(numbers, dtype=torch.float32)[:, None], batch_size=1))
    return line, trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_optimiser(tmp_path: Path, bad: float) -> None:
    skip = SkipNonFinite()
    average = EMAWeightAveraging(decay=0.5)
    line, trainer = fit_line(tmp_path, [1, 2, bad, 3, bad], skip, gradient_clip_val=1.0, callbacks=[average])
    plain, other = fit_line(tmp_path, [1, 2, 3], SkipNonFinite(), gradient_clip_val=1.0)
    assert skip.skipped == 2
    assert skip.in_a_row == 1
    assert trainer.global_step == 5
    assert trainer.callback_metrics["train/skipped_steps"] == 2
    assert all(p.isfinite().all() for p in line.parameters()), "the average of finite weights"
    assert_equal(trainer.optimizers[0].state_dict()["state"], other.optimizers[0].state_dict()["state"])
    assert plain is not line


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_one_bad_batch_spoils_all_batches_of_its_step_and_no_other(tmp_path: Path) -> None:
    skip = SkipNonFinite()
    line, _ = fit_line(tmp_path, [1, 2, float("nan"), 1, 3, 4], skip, accumulate_grad_batches=2)
    plain, _ = fit_line(tmp_path, [1, 2, 3, 4], SkipNonFinite(), accumulate_grad_batches=2)
    assert skip.skipped == 1
    assert_equal(dict(line.state_dict()), dict(plain.state_dict()))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_bad_steps_in_a_row_end_the_run_and_are_counted_over_a_resume(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 steps in a row.*step 5 \(train/line_loss nan.*line.weight"):
        fit_line(tmp_path, [1, float("nan"), 2, *[float("nan")] * 2, 1], SkipNonFinite(max_in_a_row=2))
    before, after = SkipNonFinite(), SkipNonFinite(max_in_a_row=2)
    fit_line(tmp_path, [1, float("nan")], before)
    after.load_state_dict(before.state_dict())
    with pytest.raises(ValueError, match="got 2 steps in a row"):
        fit_line(tmp_path, [float("nan"), 1], after)
    with pytest.raises(ValueError, match="max_in_a_row: expected at least 1, got 0"):
        SkipNonFinite(max_in_a_row=0)


# Steps of two batches of one object, averaged weights, a validation after every second step.
STEPS = [
    *QUIET,
    "--data.batch_size=1",
    "--trainer.accumulate_grad_batches=2",
    "--trainer.max_steps=5",
    "--trainer.val_check_interval=4",
    "--model.init_args.sampler.num_steps=2",
]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    with working_in(folder):
        main([*FIT, *STEPS, "--version=whole"])
    return folder / "runs/recursive/whole"


def test_a_learning_rate_that_is_far_too_high_ends_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--trainer.max_steps=12", "--trainer.val_check_interval=5", "--model.init_args.optimizer.lr=1e30"]
    with pytest.raises(SystemExit) as ended:
        main([*FIT, *QUIET, *options, "--model.init_args.sampler.num_steps=2"])
    assert ended.value.code == 2
    line = error_line(capsys.readouterr().err)
    assert "got 10 steps in a row without, up to step 11 (train/diffusion_loss nan" in line
    assert "first such gradient: unet." in line
    # The validation in between met weights whose output is not finite.
    assert [value for _, value in curve(here / "runs/recursive/version_0", "train/skipped_steps")] == list(range(10))


def test_a_checkpoint_of_poisoned_weights_ends_in_one_line(
    here: Path, whole_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = last(whole_run)
    content["state_dict"]["reconstructor.conv.weight"][0, 0] = float("nan")
    torch.save(content, here / "poisoned.ckpt")
    options = [NO_VALIDATION, "--trainer.max_steps=12"]
    with pytest.raises(SystemExit) as ended:
        main([*FIT, *QUIET, *options, f"--model.base_weights={here / 'poisoned.ckpt'}"])
    assert ended.value.code == 2
    # The renderer leaves broken Gaussians out, so the loss is finite and only gradients tell.
    line = error_line(capsys.readouterr().err)
    assert "nan" not in line
    assert "first such gradient: reconstructor." in line


def signal_in(patch: pytest.MonkeyPatch, number: int, method: str, step: int, calls: int) -> None:
    """Let this process send itself a signal in a method of its module, in the n-th call after some optimiser steps."""
    whole: Callable[..., Any] = getattr(Recursive, method)
    left = [calls]

    def stop(self: Recursive, *arguments: Any) -> Any:
        if self.global_step == step:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), number)
        return whole(self, *arguments)

    patch.setattr(Recursive, method, stop)


@pytest.mark.parametrize(
    ("number", "method", "step", "calls", "saved"),
    [
        pytest.param(signal.SIGTERM, "training_step", 2, 1, 3, id="SIGTERM in the first batch of a step"),
        pytest.param(signal.SIGINT, "training_step", 3, 2, 4, id="Ctrl-C in a step that a validation follows"),
        pytest.param(signal.SIGTERM, "validation_step", 2, 1, 2, id="SIGTERM in a validation"),
    ],
)
def test_a_run_that_is_told_to_stop_saves_its_last_step_and_goes_on_exactly(
    here: Path,
    whole_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
    method: str,
    step: int,
    calls: int,
    saved: int,
) -> None:
    run = here / "runs/recursive/version_0"
    caplog.set_level(logging.INFO, "ouroboros3d")
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        signal_in(patch, number, method, step, calls)
        with pytest.raises(SystemExit) as ended:
            main([*FIT, *STEPS])
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == before
    said = f"Stopped by {number.name} after step {saved}. Go on with: python -m ouroboros3d fit --resume "
    assert f"{said}runs/recursive/version_0" in caplog.messages
    assert last(run)["global_step"] == saved
    main(["fit", "--resume=runs/recursive/version_0"])
    assert_same_state(run, whole_run)
    for tag in ("train/loss", "val/novel_psnr_foreground"):
        assert curve(run, tag) == curve(whole_run, tag)


def _signal_the_group(number: signal.Signals) -> None:
    """Let this process send its whole group, loader workers included, a signal in its third step."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    whole = Recursive.training_step

    def step(self: Recursive, *arguments: Any) -> Tensor:
        if self.global_step == 2:
            assert len(multiprocessing.active_children()) >= 2, "loader workers"
            os.killpg(0, number)
            time.sleep(0.5)  # time for a worker to end, and for the loader to notice
        return whole(self, *arguments)

    Recursive.training_step = step  # type: ignore[method-assign]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_a_signal_to_all_processes_of_a_run_ends_it_as_one_to_the_first(
    number: signal.Signals, here: Path, whole_run: Path
) -> None:
    workers = ["--data.num_workers=2"]
    started = Command(*FIT, *STEPS, *workers, before=partial(_signal_the_group, number))
    assert started.wait() == 128 + number, started.printed
    run = here / "runs/recursive/version_0"
    assert f"Stopped by {number.name} after step 3. Go on with" in started.printed
    assert "Traceback" not in started.printed
    assert last(run)["global_step"] == 3
    main(["fit", "--resume=runs/recursive/version_0", *workers])
    assert_same_state(run, whole_run)


def test_a_full_disk_ends_in_one_line_and_keeps_the_checkpoint_before(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Recursive.training_step
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(self: Recursive, *arguments: Any) -> Tensor:
        if self.global_step == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limit[1]))  # a checkpoint has 14 MiB
        return whole(self, *arguments)

    steps = ["--trainer.max_steps=2", "--trainer.callbacks+=ouroboros3d.callbacks.checkpoints.LastCheckpoint"]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Recursive, "training_step", fill_the_disk)
            with pytest.raises(SystemExit) as ended:
                main([*FIT, *QUIET, NO_VALIDATION, *steps, "--trainer.callbacks.every_n_steps=1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert ended.value.code == 2
    line = error_line(capsys.readouterr().err)
    assert re.search(r"last.ckpt: expected to save about 1\d\.\d MiB, got 'File too large' with [\d,.]+ MiB free", line)
    assert line.endswith("Make room, then go on with: python -m ouroboros3d fit --resume runs/recursive/version_0")
    run = here / "runs/recursive/version_0"
    assert last(run)["global_step"] == 1
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    main(["fit", "--resume=runs/recursive/version_0"])
    assert last(run)["global_step"] == 2

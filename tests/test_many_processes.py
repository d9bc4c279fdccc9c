"""Training in several processes: the steps of one, one run's folder, and a clear end where one of them is killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sharded_on_cpu
import torch
import yaml
from processes import Command, ranks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.fsdp._common_utils import clean_tensor_name

from ouroboros3d.callbacks.processes import is_first_process
from ouroboros3d.cli import main
from ouroboros3d.lightning_modules.recursive import Recursive

ROOT = Path(__file__).parents[1]
# AdamW, whose decay and momentum move what has a gradient of zero, but not what has none. With its default eps the
# first steps would follow the sign of a gradient, which rounding may turn.
FIT = [
    "fit",
    f"--config={ROOT / 'ablations' / 'recursive.yaml'}",
    f"--config={ROOT / 'tests' / 'tiny.yaml'}",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
    "--model.init_args.optimizer=torch.optim.AdamW",
    "--model.init_args.optimizer.lr=0.01",
    "--model.init_args.optimizer.eps=0.01",
    "--model.init_args.optimizer.weight_decay=0.5",
    "--model.init_args.learning_rates.adapters=1",  # at 0.8 the rounding of four steps grows beyond the tolerance
    "--model.init_args.sampler.num_steps=2",
]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=1"]
ONE = ["--data.batch_size=2"]


def curve(run: Path, tag: str) -> tuple[list[int], list[float]]:
    events = EventAccumulator(str(run))
    events.Reload()
    return [event.step for event in events.Scalars(tag)], [event.value for event in events.Scalars(tag)]


def last(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def error_line(command: Command) -> str:
    assert "Traceback" not in command.printed, command.printed
    lines = [line for line in command.printed.splitlines() if "ouroboros3d: error: " in line]
    assert len(lines) == 1, command.printed
    return lines[0]


def assert_same_run(two: Path, one: Path, tags: tuple[str, ...]) -> None:
    for tag in tags:
        steps, values = curve(one, tag)
        assert curve(two, tag)[0] == steps, tag
        # The mean over two processes is taken in another order than over two objects.
        torch.testing.assert_close(curve(two, tag)[1], values, rtol=1e-4, atol=1e-6)
    found, expected = last(two), last(one)
    for weights in ("state_dict", "current_model_state"):  # the average, and those of the last step
        assert_same_tensors(found[weights], expected[weights])
    of_two, of_one = (content["optimizer_states"][0]["state"] for content in (found, expected))
    assert steps_of(of_two) == steps_of(of_one)
    moments = ({index: part["exp_avg"] for index, part in state.items()} for state in (of_two, of_one))
    assert_same_tensors(*moments, atol=1e-6)


def assert_same_tensors(found: dict[Any, torch.Tensor], expected: dict[Any, torch.Tensor], atol: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-3, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def steps_of(state: dict[Any, dict[str, torch.Tensor]]) -> dict[Any, int]:
    """How often the optimiser moved each parameter."""
    return {index: int(part["step"]) for index, part in state.items()}


def test_two_processes_make_the_steps_of_one_with_the_same_batch(here: Path) -> None:
    steps = ["--trainer.max_steps=5", "--trainer.val_check_interval=2", "--data.max_objects=3"]
    main([*FIT, *ONE, *steps])
    moved = steps_of(last(here / "runs/recursive/version_0")["optimizer_states"][0]["state"]).values()
    assert set(moved) == {3, 5}, "of the five steps two are tails, which leave the adapters alone"
    best = {path.name for path in (here / "runs/recursive/version_0/checkpoints").iterdir()}
    commands = ranks(*FIT, *TWO, *steps)
    assert [command.wait() for command in commands] == [0, 0], [command.printed for command in commands]
    # The second process does not know the name of the run, and leaves others of that name alone.
    assert {path.name for path in (here / "runs/recursive/version_0/checkpoints").iterdir()} == best
    assert sorted(path.name for path in (here / "runs/recursive").iterdir()) == ["version_0", "version_1"]
    tags = ("train/loss", "train/diffusion_loss", "train/reconstruction_loss")
    # Three objects on two processes: the one that is there twice counts once.
    tags += ("val/diffusion_loss", "val/reconstruction_loss", "val/novel_psnr_foreground")
    assert_same_run(here / "runs/recursive/version_1", here / "runs/recursive/version_0", tags)


def _die_in_the_second(after: int = 2) -> None:
    """Let the process of rank 1 be killed in a step."""
    if os.environ["RANK"] != "1":
        return
    whole: Callable[..., Any] = Recursive.training_step

    def die(self: Recursive, *arguments: Any) -> Any:
        if self.global_step == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, *arguments)

    Recursive.training_step = die  # type: ignore[method-assign]


def _stop_the_second() -> None:
    """Let the process of rank 1 alone be told to stop."""
    if os.environ["RANK"] != "1":
        return
    whole: Callable[..., Any] = Recursive.training_step

    def stop(self: Recursive, *arguments: Any) -> Any:
        if self.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, *arguments)

    Recursive.training_step = stop  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_killed_process_ends_the_others_in_one_line_and_the_run_goes_on(here: Path) -> None:
    steps = ["--trainer.max_steps=3", "--trainer.limit_val_batches=0"]
    main([*FIT, *ONE, *steps, "--version=whole"])
    stopped = ranks(*FIT, *TWO, *steps, "--version=cut", before=_stop_the_second)
    assert [command.wait() for command in stopped] == [128 + signal.SIGTERM] * 2, [c.printed for c in stopped]
    run = here / "runs/recursive/cut"
    assert last(run)["global_step"] == 2
    first, second = ranks("fit", "--resume=runs/recursive/cut", before=_die_in_the_second)
    assert second.wait() == -signal.SIGKILL
    assert first.wait() == 2, first.printed
    line = error_line(first)
    assert "another process of this run ended" in line
    assert line.endswith("Go on with: python -m ouroboros3d fit --resume runs/recursive/cut")
    # One process goes on where two were.
    main(["fit", "--resume=runs/recursive/cut", "--trainer.devices=1", "--trainer.strategy=auto", *ONE])
    assert_same_run(run, here / "runs/recursive/whole", ("train/loss",))


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True),
        ({"SLURM_PROCID": "8", "SLURM_LOCALID": "0"}, False),
    ],
)
def test_one_process_of_all_makes_the_folder(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], first: bool
) -> None:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == first


@pytest.mark.parametrize("path", sorted((ROOT / "ablations" / "strategies").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_strategy_is_one_more_configuration(here: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*FIT, f"--config={path}", "--trainer.accelerator=gpu", "--print_config"])
    strategy = yaml.safe_load(capsys.readouterr().out)["trainer"]["strategy"]
    expected = {
        "ddp": "ddp",
        "fsdp": "ouroboros3d.lightning_modules.sharding.ShardedStrategy",
        "deepspeed": "lightning.pytorch.strategies.DeepSpeedStrategy",
    }
    assert (strategy if isinstance(strategy, str) else strategy["class_path"]) == expected[path.stem]


def test_deepspeed_that_is_not_installed_and_its_folders_get_one_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*FIT, f"--config={ROOT / 'ablations' / 'strategies' / 'deepspeed.yaml'}"])
    assert ended.value.code == 2
    assert "pip install -U deepspeed" in capsys.readouterr().err
    (here / "last.ckpt").mkdir()
    with pytest.raises(SystemExit) as ended:
        main([*FIT, "--ckpt_path=last.ckpt"])
    assert ended.value.code == 2
    assert "expected one file, got the folder last.ckpt" in capsys.readouterr().err


def _keep_losses_and_parts() -> None:
    """Write each step's loss of this process to a file, and in the end its share of weights and of AdamW's state."""
    sharded_on_cpu.prepare()
    whole: Callable[..., Any] = Recursive.training_step

    def keep(self: Recursive, *arguments: Any) -> Any:
        loss = whole(self, *arguments)
        with Path(f"losses-{self.global_rank}-of-{self.trainer.world_size}").open("a") as file:
            file.write(f"{loss.item()}\n")
        return loss

    def keep_parts(self: Recursive) -> None:
        state = self.trainer.optimizers[0].state
        parts = {
            clean_tensor_name(name): (p.detach().flatten(), state[p]["exp_avg"].flatten(), int(state[p]["step"]))
            for name, p in self.named_parameters()
            if p in state and p.numel()
        }
        torch.save(parts, f"parts-{self.global_rank}-of-{self.trainer.world_size}")

    Recursive.training_step = keep  # type: ignore[method-assign]
    Recursive.on_train_end = keep_parts  # type: ignore[method-assign]


@pytest.mark.slow
def test_sharded_processes_train_what_one_trains(here: Path) -> None:
    text = (ROOT / "ablations" / "strategies" / "fsdp.yaml").read_text()
    ours = "ouroboros3d.lightning_modules.sharding.ShardedStrategy"
    assert ours in text
    (here / "fsdp.yaml").write_text(text.replace(ours, "sharded_on_cpu.ShardedOnCPU"))
    # Five steps of one epoch, and no checkpoint.
    steps = [*FIT, "--trainer.fast_dev_run=5", "--trainer.limit_val_batches=0", "--data.samples_per_object=5"]
    sharded = ["--config=fsdp.yaml", "--trainer.accelerator=cpu", "--trainer.devices=2", "--data.batch_size=1"]
    commands = [
        Command(*steps, *ONE, before=_keep_losses_and_parts),
        *ranks(*steps, *sharded, before=_keep_losses_and_parts),
    ]
    assert [command.wait() for command in commands] == [0, 0, 0], [command.printed for command in commands]
    one, first, second = (
        torch.tensor([float(line) for line in Path(f"losses-{name}").read_text().split()])
        for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    assert len(one) == 5
    torch.testing.assert_close((first + second) / 2, one, rtol=1e-4, atol=0)
    whole, *shares = (torch.load(f"parts-{name}", weights_only=True) for name in ("0-of-1", "0-of-2", "1-of-2"))
    assert {steps for _, _, steps in whole.values()} == {3, 5}
    for name, (weight, average, steps) in whole.items():
        held = [share[name] for share in shares if name in share]
        assert {part[2] for part in held} == {steps}, name
        assert_same_tensors({name: torch.cat([part[0] for part in held])}, {name: weight})
        assert_same_tensors({name: torch.cat([part[1] for part in held])}, {name: average}, atol=1e-6)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def torchrun(*options: str, arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "ouroboros3d", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


SHORT = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0"]


@pytest.mark.slow
@pytest.mark.parametrize("machines", [1, 2])
def test_torchrun_starts_one_run_on_one_machine_and_on_two(here: Path, machines: int) -> None:
    main([*FIT, *ONE, *SHORT, "--version=whole"])
    arguments = [*FIT, *TWO, *SHORT, f"--trainer.devices={2 // machines}", f"--trainer.num_nodes={machines}"]
    options = [f"--nproc_per_node={2 // machines}", f"--nnodes={machines}", "--master_addr=127.0.0.1"]
    options.append(f"--master_port={free_port()}")
    started = [torchrun(*options, f"--node_rank={rank}", arguments=arguments) for rank in range(machines)]
    printed = [process.communicate(timeout=500)[0] for process in started]
    assert [process.returncode for process in started] == [0] * machines, printed
    assert sorted(path.name for path in (here / "runs/recursive").iterdir()) == ["version_0", "whole"]
    assert_same_run(here / "runs/recursive/version_0", here / "runs/recursive/whole", ("train/loss",))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_those_that_lightning_started_in_one_line(here: Path, rank: int) -> None:
    arguments = [*FIT, *TWO, "--trainer.max_steps=1000", "--trainer.limit_val_batches=0", "--version=cut"]
    command = [sys.executable, "-m", "ouroboros3d", *arguments]
    with (here / "errors").open("w+") as errors:
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        until = time.monotonic() + 300
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
        while not list((here / "runs/recursive/cut").glob("checkpoints/last.ckpt")):
            assert first.poll() is None
            assert time.monotonic() < until
            time.sleep(0.5)
        second = int(children.read_text().split()[0])
        os.kill(second if rank else first.pid, signal.SIGKILL)
        assert first.wait(60) == (2 if rank else -signal.SIGKILL)
        while Path(f"/proc/{second}/stat").exists():
            assert time.monotonic() < until
            time.sleep(0.5)
        text = Path(errors.name).read_text()
    line = [line for line in text.splitlines() if "ouroboros3d: error: " in line]
    assert len(line) == 1, text
    assert "was killed by SIGKILL" in line[0] if rank else "another process of this run ended" in line[0]
    assert line[0].endswith("Go on with: python -m ouroboros3d fit --resume runs/recursive/cut")

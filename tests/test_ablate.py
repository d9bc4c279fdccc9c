"""`ablate`: a suite runs to its end whatever happens on the way, and says clearly what did."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
import torch
import yaml
from processes import Command

from ouroboros3d.ablation.execution import Execution
from ouroboros3d.ablation.manifest import Manifest
from ouroboros3d.ablation.suite import read_suite
from ouroboros3d.ablation.tasks import Task, plan
from ouroboros3d.ablation.workers import environments, visible_gpus
from ouroboros3d.cli import main

ROOT = Path(__file__).parents[1]
STAGED = {"name": "staged", "config": str(ROOT / "ablations/staged.yaml")}
COMBINED = {
    "name": "inference_combined",
    "config": str(ROOT / "ablations/inference_combined.yaml"),
    "weights_of": "staged",
}
# Long enough to be killed on the way, with a checkpoint every few steps.
TINY = [
    f"--config={ROOT / 'tests' / 'tiny.yaml'}",
    "--trainer.max_steps=24",
    "--trainer.val_check_interval=24",
    "--trainer.callbacks+=ouroboros3d.callbacks.checkpoints.LastCheckpoint",
    "--trainer.callbacks.every_n_steps=4",
    "--data.surface_points=0",
]


@pytest.fixture
def here(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return here


def write_suite(path: Path, *experiments: object, **more: object) -> Path:
    path.write_text(yaml.safe_dump({"seeds": [0], "experiments": list(experiments), **more}))
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return commands.refusal(capsys, "ablate", *arguments)


def manifest(suite: str = "pair") -> dict[str, dict]:
    path = Path("runs/ablate", suite, "manifest.json")
    return json.loads(path.read_text())["tasks"] if path.exists() else {}


def wait_for(condition: Callable[[], object], possible: Callable[[], bool] = lambda: True) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert possible(), "expected it before the command ends"
        assert time.monotonic() < deadline, "expected it within ten minutes"
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.timeout(1800)  # five commands, each of which takes seconds to start
def test_a_suite_survives_whatever_happens(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_suite(here / "pair.yaml", STAGED, COMBINED, seeds=[3], arguments=TINY)
    fit, run = "staged-seed_3-fit", here / "runs/staged/pair-seed_3"

    # Asked to stop: it ends its task, and says how to go on.
    ablate = Command("ablate", "pair.yaml")
    wait_for(lambda: "pid" in manifest().get(fit, {}), ablate.process.is_alive)
    task = manifest()[fit]["pid"]
    ablate.process.terminate()
    assert ablate.wait(60) == 128 + signal.SIGTERM
    assert ablate.printed.endswith("the same command goes on: python -m ouroboros3d ablate pair.yaml\n")
    assert f"interrupted {fit}" in ablate.printed
    assert manifest()[fit]["state"] == "interrupted"
    assert not alive(task)

    # Killed without notice in the middle of training: its task outlives it and keeps others out.
    ablate = Command("ablate", "pair.yaml")
    wait_for((run / "checkpoints/last.ckpt").exists, ablate.process.is_alive)
    task = manifest()[fit]["pid"]
    os.kill(task, signal.SIGSTOP)  # so that it does not come to its end meanwhile
    ablate.process.kill()
    ablate.wait()
    assert f"at {fit} (process {task})" in refusal(capsys, "pair.yaml")
    assert alive(task)
    os.killpg(task, signal.SIGKILL)
    wait_for(lambda: not alive(task))
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] < 24

    # The same command goes on from there to the end.
    capsys.readouterr()
    main(["ablate", "pair.yaml"])
    printed = capsys.readouterr().out
    assert f"goes on {fit}" in printed
    assert "4 of 4 tasks done" in printed
    assert manifest()[fit]["command"] == f"fit --resume {Path('runs/staged/pair-seed_3')}"
    assert "Restored all states" in Path(manifest()[fit]["log"]).read_text()
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 24
    assert {entry["state"] for entry in manifest().values()} == {"done"}
    assert all(entry["seconds"] > 0 and entry["exit_code"] == 0 for entry in manifest().values())

    # Both variants were tested alike: the same weights, objects and noise.
    combined = here / "runs/inference_combined/pair-seed_3"
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (run, combined))
    for name in ("checkpoint_sha256", "data_sha256", "split_sha256", "seed", "training_seed", "steps"):
        assert one[name] == two[name], name
    assert one["seed"] == one["training_seed"] == 3
    assert (one["method"], two["method"]) == ("Staged", "InferenceCombined")
    assert "inference_combined" in (here / "runs/comparison/comparison.md").read_text()
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["seed"] == 3

    # Done is done.
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file() and path.name != "lock"}
    main(["ablate", "pair.yaml"])
    assert "4 of 4 tasks were done before" in capsys.readouterr().out
    changed = [path.name for path, mtime in before.items() if path.stat().st_mtime_ns != mtime]
    assert set(changed) <= {"manifest.json"}

    # An interrupted test of another variant's checkpoint goes on in its own folder too.
    main(["test", "--config", str(combined / "config.yaml"), "--ckpt_path", str(run / "checkpoints/last.ckpt")])
    assert list(combined.parent.iterdir()) == [combined]


def test_a_failed_task_does_not_stop_the_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/comparison").mkdir(parents=True)
    Path("runs/comparison/comparison.md").touch()
    tasks = [
        Task("broken-fit", "fit", here / "runs/broken", ("fitt",)),
        Task("broken-test", "test", here / "runs/broken", ("--version",), ("broken-fit",)),
        Task("empty-fit", "fit", here / "runs/empty", ("--version",)),
        Task("other", "compare", here / "runs/comparison", ("--version",)),
    ]
    with Manifest(here / "runs/ablate/pair", {}) as state:
        execution = Execution(tasks, state, environments(2))
        execution.run([])
        execution.summary()
    printed = capsys.readouterr().out
    assert execution.done == {"other"}
    assert execution.failed == {"broken-fit": "exit code 2", "empty-fit": "nothing left behind"}
    assert "unknown command 'fitt'" in printed  # the end of its log
    assert "1 of 4 tasks done" in printed
    assert "failed, exit code 2" in printed
    assert manifest()["broken-test"] == {"state": "pending"}
    # Tried again.
    with Manifest(here / "runs/ablate/pair", {}) as state:
        again = Execution([Task("broken-fit", "compare", here / "runs/comparison", ("--version",))], state, [{}])
        again.run([])
    assert again.done == {"broken-fit"}


def test_what_failed_is_told_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_suite(here / "pair.yaml", STAGED, COMBINED, arguments=["--help"])  # every fit ends at once with nothing
    line = refusal(capsys, "pair.yaml")
    assert "1 that failed (first staged-seed_0-fit: runs/ablate/pair/logs/staged-seed_0-fit.log) and 3 that" in line
    assert "compare RUN RUN" in line
    assert manifest()["staged-seed_0-fit"]["state"] == "failed"


def test_what_is_done_stays_done_while_its_outputs_are_there(here: Path) -> None:
    suite = read_suite(write_suite(here / "pair.yaml", STAGED, COMBINED))
    tasks = plan(suite, Path("runs"), [])

    def done() -> set[str]:
        with Manifest(here / "runs/ablate/pair", {}) as state:
            return Execution(tasks, state, [{}]).done

    with Manifest(here / "runs/ablate/pair", {}) as state:
        for task in tasks:
            state.entry(task.name).update(state="done", started="before", command=" ".join(task.arguments))
        state.save()
    assert done() == set()
    for name in ("staged/pair-seed_0/checkpoints/last.ckpt", "staged/pair-seed_0/results.json"):
        path = here / "runs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("inference_combined/pair-seed_0/results.json", "comparison/comparison.md"):
        path = here / "runs" / name
        path.parent.mkdir(parents=True)
        path.touch()
    assert done() == {task.name for task in tasks}
    (here / "runs/inference_combined/pair-seed_0/results.json").unlink()
    assert done() == {"staged-seed_0-fit", "staged-seed_0-test"}
    (here / "runs/inference_combined/pair-seed_0/results.json").touch()
    (here / "runs/staged/pair-seed_0/checkpoints/last.ckpt").unlink()  # then the tests of it are of another one
    assert done() == set()


def test_the_paper_s_suite(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = ROOT / "ablations" / "suite.yaml"
    main(["ablate", str(suite), "--dry_run", "--runs", "other", "--trainer.max_steps", "10", "-c", str(suite)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * (5 * 2 + 1) + 1
    assert [line.split()[3] for line in lines].count("fit") == 10
    fit = lines[0]
    assert f"--config {ROOT}/ablations/staged.yaml --trainer.max_steps 10 -c {suite} --seed_everything 0" in fit
    assert "--data.seed 0 --model.sampler.seed 0 --runs other --experiment staged --version suite-seed_0" in fit
    assert "other/staged/suite-seed_0/checkpoints/best-STEP.ckpt" in lines[2]
    assert lines[-1].count("other/") == 12 + 1
    assert not list(here.iterdir())
    main(["ablate", str(suite), "--dry_run", "--only", "inference_combined", "--seeds", "7", "--", "--data.root", "x"])
    lines = capsys.readouterr().out.splitlines()  # with staged, whose checkpoint it needs
    assert [line.split()[3] for line in lines] == ["fit", "test", "test", "compare"]
    assert "--data.root x --seed_everything 7" in lines[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [", "wrong.yaml: expected YAML, got"),
        ("- staged", "the suite: expected the keys experiments, seeds, got ['staged']"),
        ("seeds: [0]", "expected the key 'experiments', got seeds"),
        ("seeds: [0]\nexperiments: [{name: a}]\nseed: 1", "got 'seed'"),
        ("seeds: [0]\nexperiments: []", "at least one, got []"),
        ("seeds: [0]\nexperiments: [a]", "an experiment: expected the keys name, got 'a'"),
        ("seeds: []\nexperiments: [{name: a}]", "seeds: expected different whole numbers"),
        ("seeds: [0, 0]\nexperiments: [{name: a}]", "seeds: expected different whole numbers"),
        ("seeds: [true]\nexperiments: [{name: a}]", "seeds: expected different whole numbers"),
        ("seeds: [0]\nexperiments: [{name: a}, {name: a}]", "got 'a' twice"),
        ("seeds: [0]\nexperiments: [{name: a, weights: b}]", "got 'weights'"),
        ("seeds: [0]\nexperiments: [{name: a, config: 1}]", "config: expected a text, got 1"),
        ("seeds: [0]\nexperiments: [{name: ../a}]", "since it names a folder"),
        ("seeds: [0]\nexperiments: [{name: comparison, config: a.yaml}]", "since it names a folder"),
        ("seeds: [0]\nexperiments: [{name: comparison.html, config: a.yaml}]", "since it names a folder"),
        ("seeds: [2026-99-99]\nexperiments: [{name: a}]", "wrong.yaml: expected YAML, got"),
        ("seeds: [0]\nexperiments: [{name: nowhere}]", "no file nowhere.yaml"),
        ("seeds: [0]\nexperiments: [{name: a, weights_of: b}]", "of which there is none, got 'b'"),
        ("seeds: [0]\nexperiments: [{name: a}, {name: b, config: a.yaml, weights_of: c}]", "trained, a, got 'c'"),
        ("seeds: [0]\nexperiments: [{name: a}]\narguments: --trainer.max_steps=1", "arguments: expected a list"),
        ("seeds: [0]\nexperiments: [{name: a}]\narguments: [--version=x]", "expected no --version"),
        ("seeds: [0]\nexperiments: [{name: a}]\narguments: [--data.test_split=train]", "expected no --data.test_split"),
        ("seeds: [0]\nexperiments: [{name: a}]\narguments: [--data.seed, '3']", "expected no --data.seed"),
    ],
)
def test_a_wrong_suite_gets_one_line(text: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text("")
    Path("wrong.yaml").write_text(text)
    assert message in refusal(capsys, "wrong.yaml")
    assert not Path("runs").exists()


def test_wrong_usage_gets_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_suite(here / "pair.yaml", STAGED, COMBINED)
    assert "no file ablations/suite.yaml" in refusal(capsys)
    assert "jobs: expected at least 1" in refusal(capsys, "pair.yaml", "--jobs", "0")
    assert "invalid int value: 'a'" in refusal(capsys, "pair.yaml", "--seeds", "a")
    assert "seeds: expected different" in refusal(capsys, "pair.yaml", "--seeds", "-1")
    assert "only: expected one of staged, inference_combined, got 'recursive'" in refusal(
        capsys, "pair.yaml", "--only", "recursive"
    )
    assert "no file nowhere.yaml" in refusal(capsys, "pair.yaml", "-c", "nowhere.yaml")
    assert "expected no --experiment" in refusal(capsys, "pair.yaml", "--experiment=mine")
    assert "options for every fit and test after --, got 'mine'" in refusal(capsys, "pair.yaml", "--", "mine")
    assert not Path("runs").exists()
    Path("runs/staged/pair-seed_0").mkdir(parents=True)
    assert "expected no run at runs/staged/pair-seed_0" in refusal(capsys, "pair.yaml")


def test_a_full_disk_is_one_line_with_file_and_remedy(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_suite(here / "pair.yaml", STAGED, COMBINED)
    Path("runs/ablate/pair").mkdir(parents=True)
    Path(f"runs/ablate/pair/.manifest.json.{os.getpid()}.part").symlink_to("/dev/full")
    assert refusal(capsys, "pair.yaml") == (
        f"ouroboros3d: error: {Path('runs/ablate/pair/manifest.json')}: expected room to write it, got 'No space left "
        "on device'; make room on its disk and call the same command again."
    )


def test_another_suite_of_the_same_name_is_told_apart(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = write_suite(here / "pair.yaml", STAGED, COMBINED, arguments=["--help"])
    refusal(capsys, "pair.yaml")
    assert "arguments: expected what runs/ablate/pair was started with, --help, got --help --trainer.max_steps 3" in (
        refusal(capsys, "pair.yaml", "--trainer.max_steps", "3")
    )
    write_suite(suite, STAGED, {**COMBINED, "config": STAGED["config"]}, arguments=["--help"])
    assert "inference_combined: expected what runs/ablate/pair was started with" in refusal(capsys, "pair.yaml")
    for damaged in ("{", "[]", '{"settings": {}, "tasks": {"a": {"state": "lost"}}}', '{"settings": {"a": 1}}'):
        Path("runs/ablate/pair/manifest.json").write_text(damaged)
        assert "got a damaged file" in refusal(capsys, "pair.yaml")


def test_gpus_and_cores_are_shared_out(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("OMP_NUM_THREADS")
    listing = here / "nvidia-smi"
    listing.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: a)'\necho '  MIG 1g (UUID: m)'\necho 'GPU 1: A (UUID: b)'\n")
    listing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    assert visible_gpus() == ["0", "1"]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in environments(None)] == ["0", "1"]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in environments(1)] == ["0,1"]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in environments(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    slots = environments(None)
    assert len(slots) == min(2, cores)
    assert {slot["OMP_NUM_THREADS"] for slot in slots} == {str(cores // len(slots))}
    assert "CUDA_VISIBLE_DEVICES" not in slots[0]
    assert environments(2 * cores)[0]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environments(1)[0]["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(here / "nothing"))
    assert visible_gpus() == []


def test_each_training_is_tested_with_each_seed_of_the_sampler(here: Path) -> None:
    off = {**STAGED, "name": "off", "weights_of": "staged", "arguments": ["--model.sampler.num_steps=2"]}
    suite = read_suite(write_suite(here / "pair.yaml", STAGED, off, seeds=[3, 4], sampling_seeds=[0, 7]))
    *tasks, compare = plan(suite, Path("runs"), [])
    assert [task.name for task in tasks if "seed_3" in task.name] == [
        *("staged-seed_3-fit", "staged-seed_3-test", "staged-seed_3-sampling_7-test"),
        *("off-seed_3-test", "off-seed_3-sampling_7-test"),
    ]
    by_name = {task.name: task for task in tasks}
    for name, task in by_name.items():
        command = " ".join(task.arguments)
        if task.kind == "fit" or task.weights_of:  # else its configuration is the fit's
            assert f"--model.sampler.seed {7 if 'sampling_7' in name else 0} " in command
            assert f"--seed_everything {3 if 'seed_3' in name else 4} " in command
            assert ("num_steps=2" in command) == name.startswith("off")
        if task.weights_of:
            assert task.weights_of == Path(f"runs/staged/pair-seed_{3 if 'seed_3' in name else 4}")
    assert len({task.run for task in tasks}) == 8
    assert compare.after == tuple(task.name for task in tasks if task.kind == "test")


def test_the_time_that_is_left_follows_the_suite_and_what_was_done_here(here: Path) -> None:
    staged = {**STAGED, "seconds": [600, 60]}
    suite = read_suite(write_suite(here / "pair.yaml", staged, {**COMBINED, "seconds": [0, 90]}, seeds=[0, 1]))
    tasks = plan(suite, Path("runs"), [])
    with Manifest(here / "runs/ablate/pair", {}) as state:
        assert Execution(tasks, state, [{}]).seconds_left() == 2 * (600 + 60 + 90)
        state.entry(tasks[0].name).update(state="done", started="before", seconds=300.0)  # twice as fast as there
        checkpoint = tasks[0].run / "checkpoints/last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        assert Execution(tasks, state, [{}]).seconds_left() == (600 + 2 * (60 + 90)) / 2
        silent = plan(read_suite(write_suite(here / "pair.yaml", STAGED)), Path("other"), [])
        assert Execution(silent, state, [{}]).seconds_left() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": [60]}, "seconds: expected those of a fit and of a test"),
        ({"seconds": [60, -1]}, "seconds: expected those of a fit and of a test"),
        ({"arguments": "--trainer.max_steps=2"}, "arguments: expected a list such as"),
    ],
)
def test_what_an_experiment_says_of_itself_is_checked(here: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_suite(write_suite(here / "pair.yaml", {**STAGED, **change}))


def test_seeds_of_the_sampler_are_checked(here: Path) -> None:
    with pytest.raises(ValueError, match="sampling_seeds: expected different whole numbers"):
        read_suite(write_suite(here / "pair.yaml", STAGED, sampling_seeds=[0, 0]))

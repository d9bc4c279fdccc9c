"""`ablate`: a suite from the command line."""

import hashlib
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ouroboros3d.ablation.execution import Execution
from ouroboros3d.ablation.manifest import Manifest
from ouroboros3d.ablation.suite import Suite, check_seeds, read_suite
from ouroboros3d.ablation.tasks import Task, plan
from ouroboros3d.ablation.workers import environments
from ouroboros3d.commands.arguments import OneLineParser, RunOptions, check_run_options, parse_run_options

_OWN = ("--seeds", "--jobs", "--runs", "--only", "--dry_run")
# What makes the runs of a suite comparable and findable is the suite's to say.
_TAKEN = (
    *("--seed_everything", "--data.seed", "--data.init_args.seed"),
    *("--model.sampler.seed", "--model.init_args.sampler.seed"),
    *("--experiment", "--version", "--ckpt_path", "--resume", "--print_config", *_OWN),
    *("--data.test_split", "--data.init_args.test_split"),  # the comparison is of the test objects
)


def run(arguments: Sequence[str]) -> None:
    """Train, test and compare the experiments of a suite, or go on with it.

    Args:
        arguments: the command line after `ablate`.

    Raises:
        ValueError: a wrong argument or suite, another `ablate` at work on it, or tasks that failed; in one line.
        FileNotFoundError: no such suite or configuration.
        SystemExit: 128 + the signal that stopped it.
    """
    own, extra = _split(arguments)
    parser = OneLineParser("ablate")
    parser.add_argument("suite", nargs="?", type=Path, default=Path("ablations/suite.yaml"))
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--dry_run", action="store_true")
    options = parser.parse_args(own)
    _parse(extra)
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"jobs: expected at least 1 task at a time, got {options.jobs}.")
    suite = read_suite(options.suite)
    if options.seeds:
        suite = replace(suite, seeds=check_seeds(options.seeds))
    if options.only:
        suite = suite.only(options.only)
    settings = _settings(suite, extra)
    tasks = plan(suite, options.runs, extra)
    if options.dry_run:
        for task in tasks:
            print(shlex.join(["python", "-m", "ouroboros3d", *task.arguments, *_later(task)]))
        return
    with Manifest(options.runs / "ablate" / suite.name, settings) as manifest, _signals() as stop:
        execution = Execution(tasks, manifest, environments(options.jobs))
        execution.run(stop)
        execution.summary()
        again = shlex.join(["python", "-m", "ouroboros3d", "ablate", *arguments])
        if stop:
            print(f"ablate: stopped; the same command goes on: {again}", file=sys.stderr)
            raise SystemExit(128 + stop[0])
        if execution.failed:
            name = next(iter(execution.failed))
            waiting = len(tasks) - len(execution.done) - len(execution.failed)
            raise ValueError(
                f"ablate: expected every task to end well, got {len(execution.failed)} that failed (first {name}: "
                f"{manifest.entry(name)['log']}) and {waiting} that need them; put it right and call the same command "
                f"again, or compare what is done: python -m ouroboros3d compare RUN RUN."
            )
        if tasks[-1].kind != "compare":
            print("ablate: nothing to compare, since there is one experiment", flush=True)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of `ablate` itself, and those for every fit and test: unknown options, and all after `--`."""
    own: list[str] = []
    extra: list[str] = []
    current = own
    for index, argument in enumerate(arguments):
        if argument == "--":
            extra += arguments[index + 1 :]
            break
        if argument == "-c" or argument.startswith("--"):
            current = own if argument.split("=")[0] in _OWN else extra
        current.append(argument)
    return own, extra


def _settings(suite: Suite, extra: Sequence[str]) -> dict[str, str]:
    """What the runs of a suite have to have in common, whenever they are made; files by their content.

    Raises:
        ValueError: an argument that the suite sets itself.
        FileNotFoundError: no such configuration.
    """
    arguments = ["--config" if argument == "-c" else argument for argument in [*suite.arguments, *extra]]
    options = _parse(arguments)
    check_run_options(options)
    settings = {"arguments": shlex.join(arguments)}
    settings |= {f"--config {path}": _hash(Path(path)) for path in options.configs}
    for experiment in suite.experiments:
        weights = f" with the weights of {experiment.weights_of}" if experiment.weights_of else ""
        more = "".join(f" {argument}" for argument in experiment.arguments)
        settings[experiment.name] = f"{experiment.config.name} ({_hash(experiment.config)}){more}{weights}"
    return settings


def _parse(arguments: Sequence[str]) -> RunOptions:
    """Options for every fit and test.

    Raises:
        ValueError: an unknown one, or one that the suite sets itself.
    """
    if arguments and not arguments[0].startswith("-"):
        raise ValueError(f"ablate: expected options for every fit and test after --, got {arguments[0]!r}.")
    options = parse_run_options("fit", arguments)
    names = [option for option, _ in options.settings] + [f"--{name}" for name in options.single]
    if taken := [name for name in names if name in _TAKEN]:
        raise ValueError(f"ablate: expected no {taken[0]} for the fits and tests, which ablate gives to each itself.")
    return options


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _later(task: Task) -> list[str]:
    """What a command line shows in place of a checkpoint that is not there yet."""
    return ["--ckpt_path", f"{task.weights_of}/checkpoints/best-STEP.ckpt"] if task.weights_of else []


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Signals that ask to stop, collected in place of what they do; those that are ignored, as under nohup, stay so."""
    received: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number in taken:
            signal.signal(number, before[number])

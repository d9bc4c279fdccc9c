"""The tasks of a suite: fits, tests and the comparison, with the command line of each and what it needs before it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ouroboros3d.ablation.suite import Experiment, Suite


@dataclass(frozen=True)
class Task:
    """One command of a suite.

    Args:
        name: of its log file and its entry in the manifest.
        kind: the command.
        run: the folder that the command writes to.
        arguments: the command line after `python -m ouroboros3d`, the first time.
        after: names of the tasks that have to be done before.
        weights_of: the tested run whose checkpoint is tested again, or None.
        seconds: that it took when the suite was made before, or None.
        extra: of the command line, what is said for every fit and test.
    """

    name: str
    kind: Literal["fit", "test", "compare"]
    run: Path
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()
    weights_of: Path | None = None
    seconds: float | None = None
    extra: tuple[str, ...] = ()

    @property
    def makes_run(self) -> bool:
        """Whether the run's folder is new with this task."""
        return self.kind == "fit" or self.weights_of is not None

    def command(self, started: bool) -> list[str]:
        """The command line now: a run that was started goes on, and a tested checkpoint is named.

        Args:
            started: whether this task was started before.
        """
        goes_on = started and (self.run / "config.yaml").is_file()
        if self.kind == "fit" and goes_on:
            return ["fit", "--resume", str(self.run)]
        if self.weights_of is None:
            return list(self.arguments)
        # The very checkpoint that the other variant was tested with.
        tested = json.loads((self.weights_of / "results.json").read_text())["checkpoint"]
        checkpoint = ["--ckpt_path", str(self.weights_of / "checkpoints" / Path(tested).name)]
        first = ["test", "--config", str(self.run / "config.yaml"), *self.extra] if goes_on else self.arguments
        return [*first, *checkpoint]

    def is_complete(self) -> bool:
        """Whether everything that the task leaves behind is there."""
        pattern = {"fit": "checkpoints/*.ckpt", "test": "results.json", "compare": "comparison.md"}[self.kind]
        return any(self.run.glob(pattern))


def plan(suite: Suite, runs: Path, arguments: Sequence[str]) -> list[Task]:
    """All tasks of a suite, each after those that it needs; the comparison last, if there is something to compare.

    Args:
        suite: what to do.
        runs: where runs are kept.
        arguments: added to the command line of every fit and test.
    """
    tasks: list[Task] = []
    extra = (*suite.arguments, *arguments)
    for seed in suite.seeds:
        first = f"{suite.name}-seed_{seed}"
        for experiment in suite.experiments:
            trained = experiment.weights_of or experiment.name
            for sampling in suite.sampling_seeds or (seed,):
                again = suite.sampling_seeds is not None and sampling != suite.sampling_seeds[0]
                suffix = f"-sampling_{sampling}" if again else ""
                name, version = f"{experiment.name}-seed_{seed}{suffix}", first + suffix
                run = runs / experiment.name / version
                of_fit, of_test = experiment.seconds or (None, None)
                common = _common(experiment, seed, sampling, runs, version, extra)
                if trained == experiment.name and not again:
                    tasks.append(Task(f"{name}-fit", "fit", run, ("fit", *common), seconds=of_fit))
                    # What says where and how a run is trained, as an accelerator, is not taken of its configuration.
                    tested = ("test", "--config", str(run / "config.yaml"), *extra)
                    tasks.append(Task(f"{name}-test", "test", run, tested, (f"{name}-fit",), seconds=of_test))
                else:
                    needed = (f"{trained}-seed_{seed}-test",)
                    weights = runs / trained / first
                    tasks.append(Task(f"{name}-test", "test", run, ("test", *common), needed, weights, of_test, extra))
    if len(suite.experiments) > 1:
        tests = [task for task in tasks if task.kind == "test"]
        out = runs / "comparison"
        command = ("compare", *(str(task.run) for task in tests), "--out", str(out))
        tasks.append(Task("compare", "compare", out, command, tuple(task.name for task in tests)))
    return tasks


def _common(
    experiment: Experiment, seed: int, sampling: int, runs: Path, version: str, arguments: Sequence[str]
) -> list[str]:
    """One seed for the order of the data and the training, and one for the noise of the sampler."""
    return [
        *("--config", str(experiment.config), *arguments, *experiment.arguments),
        *("--seed_everything", str(seed), "--data.seed", str(seed), "--model.sampler.seed", str(sampling)),
        *("--runs", str(runs), "--experiment", experiment.name, "--version", version),
    ]

"""A suite: which experiments with which seeds, read strictly from a short YAML file."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ouroboros3d.configurations import read_yaml


@dataclass(frozen=True)
class Experiment:
    """One row of a suite's table.

    Args:
        name: of its runs' first folder.
        config: the ablation's file.
        weights_of: the experiment whose checkpoints it is tested with; None where it is trained itself.
        arguments: added to the command line of its fit and tests.
        seconds: of its fit and of one test, as they were measured once; None = not known.
    """

    name: str
    config: Path
    weights_of: str | None = None
    arguments: tuple[str, ...] = ()
    seconds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Suite:
    """Experiments, each of which runs with every seed.

    Args:
        name: the file's, without its suffix.
        seeds: of data and training.
        experiments: in the order of the file.
        arguments: added to the command line of every fit and test.
        sampling_seeds: of the sampler's noise; every training is tested with each. None = its own seed alone.
    """

    name: str
    seeds: tuple[int, ...]
    experiments: tuple[Experiment, ...]
    arguments: tuple[str, ...] = ()
    sampling_seeds: tuple[int, ...] | None = None

    def only(self, names: Sequence[str]) -> "Suite":
        """The suite with fewer experiments: the named ones and those whose weights they need.

        Raises:
            ValueError: an unknown name.
        """
        known = {experiment.name: experiment for experiment in self.experiments}
        for name in names:
            if name not in known:
                raise ValueError(f"only: expected one of {', '.join(known)}, got {name!r}.")
        kept = {*names, *(known[name].weights_of for name in names)}
        return replace(self, experiments=tuple(e for e in self.experiments if e.name in kept))


def read_suite(path: Path) -> Suite:
    """Read a suite's file; paths in it are relative to its folder.

    Raises:
        FileNotFoundError: no such file, or an experiment's configuration is missing.
        ValueError: anything in it that is not as it has to be.
    """
    if not path.is_file():
        raise FileNotFoundError(f"suite: no file {path}; name one, such as ablations/suite.yaml.")
    content = read_yaml(path)
    _check_keys(path, "the suite", content, {"seeds", "experiments"}, {"arguments", "sampling_seeds"})
    entries = content["experiments"]
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: experiments: expected a list of at least one, got {entries!r}.")
    experiments = tuple(_experiment(path, entry) for entry in entries)
    for index, experiment in enumerate(experiments):
        above = experiments[:index]
        if experiment.name in [other.name for other in above]:
            raise ValueError(f"{path}: expected experiments of different names, got {experiment.name!r} twice.")
        trained = [other.name for other in above if other.weights_of is None]
        if experiment.weights_of is not None and experiment.weights_of not in trained:
            raise ValueError(
                f"{path}: {experiment.name}: weights_of: expected an experiment above it that is trained, "
                f"{' or '.join(trained) or 'of which there is none'}, got {experiment.weights_of!r}."
            )
    sampling = check_seeds(content["sampling_seeds"], "sampling_seeds") if "sampling_seeds" in content else None
    return Suite(path.stem, check_seeds(content["seeds"]), experiments, _arguments(path, content), sampling)


def check_seeds(seeds: Any, name: str = "seeds") -> tuple[int, ...]:  # noqa: ANN401 - what a YAML file holds
    """The seeds, if they are different whole numbers.

    Args:
        seeds: as they were read.
        name: of their key.

    Raises:
        ValueError: they are not, or there is none.
    """
    whole = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"{name}: expected different whole numbers from 0 to 2^32 - 1, such as [0, 1], got {seeds!r}.")
    return tuple(seeds)


def _experiment(path: Path, entry: Any) -> Experiment:  # noqa: ANN401 - what a YAML file holds
    _check_keys(path, "an experiment", entry, {"name"}, {"config", "weights_of", "arguments", "seconds"})
    for key in entry.keys() - {"arguments", "seconds"}:
        if not isinstance(entry[key], str):
            raise ValueError(f"{path}: {key}: expected a text, got {entry[key]!r}.")
    seconds = entry.get("seconds")
    numbers = isinstance(seconds, list) and all(type(one) in (int, float) and 0 <= one < math.inf for one in seconds)
    if "seconds" in entry and not (numbers and len(seconds) == 2):
        raise ValueError(f"{path}: seconds: expected those of a fit and of a test, such as [600, 90], got {seconds!r}.")
    name = entry["name"]
    if not re.fullmatch(r"(?!(ablate|overview)$|comparison(\.|$))[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"{path}: name: expected letters, digits, _ . and -, since it names a folder of runs, and none of "
            f"the taken ones, ablate, comparison and overview, got {name!r}."
        )
    config = path.parent / entry.get("config", f"{name}.yaml")
    if not config.is_file():
        raise FileNotFoundError(
            f"{path}: {name}: expected its configuration, got no file {config}; name it with config."
        )
    expected = None if seconds is None else (float(seconds[0]), float(seconds[1]))
    return Experiment(name, config, entry.get("weights_of"), _arguments(path, entry), expected)


def _arguments(path: Path, entry: dict[str, Any]) -> tuple[str, ...]:
    arguments = entry.get("arguments", [])
    if not isinstance(arguments, list) or not all(isinstance(argument, str) for argument in arguments):
        raise ValueError(f"{path}: arguments: expected a list such as [--trainer.max_steps=200], got {arguments!r}.")
    return tuple(arguments)


def _check_keys(path: Path, what: str, entry: Any, needed: set[str], more: set[str]) -> None:  # noqa: ANN401
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: {what}: expected the keys {', '.join(sorted(needed))}, got {entry!r}.")
    if missing := sorted(needed - entry.keys()):
        raise ValueError(
            f"{path}: {what}: expected the key {missing[0]!r}, got {', '.join(map(str, entry)) or 'none'}."
        )
    if unknown := sorted(map(str, entry.keys() - needed - more)):
        raise ValueError(
            f"{path}: {what}: expected the keys {', '.join(sorted(needed | more))}, got {unknown[0]!r}; put values of "
            "the model or the data into the experiment's configuration."
        )

"""Which runs are compared: their choice, their grouping into variants, and whether they may be compared at all."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ouroboros3d.comparison.runs import Run, how_to_test, read_run, results_path, short, unfinished
from ouroboros3d.configurations import read_configuration
from ouroboros3d.training_record import FIELDS as TRAINING

# What may differ between two runs of a comparison: who ran what, when and where, and what the ablation itself is.
_IDENTITY = {"run_id", "experiment", "config_hash", "timestamp", "dataset"}
_WEIGHTS = {"checkpoint", "checkpoint_sha256", "training_steps", *TRAINING}
_PLACE = {"git_commit", "package_versions", "device", "world_size"}
_ABLATED = {"method", "projection_steps", "feedback_steps", "blend", "feedback_maps", "published_switches"}
_SEEDS = {"seed", "training_seed"}
FIGURES = "figures"
_RESERVED = {"overview", FIGURES, "comparison.html", "comparison.md", "comparison.csv"}  # in a comparison's folder
_OF_OBJECTS = {"split_sha256", "data_sha256"}  # hashes of all objects, which differ where one object does
_FREE = _IDENTITY | _WEIGHTS | _PLACE | _ABLATED | _SEEDS
# Keys of a run's config.yaml that say where and with which seed, and nothing of what was run.
_PLACES_AND_SEEDS = {"seed", "seed_everything", "ckpt_path", "runs", "experiment", "version", "default_root_dir"}


@dataclass(frozen=True)
class Variant:
    """Runs that differ in nothing but their seeds.

    Args:
        name: the experiment's, with the version where an experiment has several variants.
        runs: by the label of their seed.
    """

    name: str
    runs: Mapping[str, Run]

    @property
    def first(self) -> Run:
        """The run with the first seed, whose pictures stand for the variant."""
        return next(iter(self.runs.values()))


def choose(named: Sequence[Path], folder: Path, split: str) -> tuple[list[Run], list[str]]:
    """The runs to compare, and what was left out.

    Args:
        named: folders of runs, and of experiments, which stand for their newest tested run and its other seeds;
            empty = all experiments.
        folder: where runs are kept.
        split: whose objects were tested.

    Raises:
        ValueError: a named folder is no run and no experiment, nothing is tested, results that cannot be read.
        FileNotFoundError: there is no such folder.
    """
    for path in named or [folder]:
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: expected a run's folder, such as runs/staged/version_0, got none.")
    experiments = [] if named else sorted(path for path in folder.iterdir() if _runs_in(path))
    chosen: dict[Path, Run] = {}
    notes = []
    for path in named or experiments:
        if _is_run(path):
            found = [read_run(path, split)]
        else:
            found = _newest_and_its_seeds(path, split)
            left = [run for run in _runs_in(path) if unfinished(run, split)]
            notes += [
                f"{run} is left out: its test is unfinished; finish it: {how_to_test(run, split)}" for run in left
            ]
        if named and not found:
            raise ValueError(
                f"{path}: expected a run or an experiment with tested runs, got none tested on {split}; "
                + (notes[-1] if notes else "python -m ouroboros3d test --config RUN/config.yaml tests a run.")
            )
        chosen |= {run.folder.resolve(): run for run in found}
    if not chosen:
        raise ValueError(
            f"{folder}: expected runs with results of the {split} objects, got none; "
            + (" ".join(notes) or "python -m ouroboros3d test tests the newest run.")
        )
    return list(chosen.values()), notes


def group(runs: Iterable[Run], notes: Sequence[str] = ()) -> list[Variant]:
    """Variants of runs: those of one experiment that differ in nothing but their seeds are one.

    A seed's label is the sampler's, followed by the training's where the former alone does not tell runs apart.

    Args:
        runs: tested ones.
        notes: why others are left out, which a refusal says too.

    Raises:
        ValueError: fewer than two variants, two of one name or one that a comparison's own files have, the same seed
            twice in one.
    """
    alike: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        alike[run.experiment, _but_for_seeds(run)].append(run)
    groups = list(alike.values())
    repeated = any(len({run.protocol["seed"] for run in members}) < len(members) for members in groups)
    experiments = [members[0].experiment for members in groups]
    variants: dict[str, Variant] = {}
    for members in groups:
        by_seed: dict[str, Run] = {}
        for run in sorted(members, key=lambda run: (run.protocol["seed"], run.protocol["training_seed"] or 0)):
            seed = str(run.protocol["seed"]) + (f"-{run.protocol['training_seed']}" if repeated else "")
            if seed in by_seed:
                raise ValueError(
                    f"{run.folder}: expected another seed or configuration than {by_seed[seed].folder}, got the same; "
                    "name one of them."
                )
            by_seed[seed] = run
        name = members[0].experiment
        if experiments.count(name) > 1:
            name += f"/{members[0].folder.resolve().name}"
        if name in _RESERVED:
            raise ValueError(f"{members[0].folder}: expected another experiment name, got one of a comparison's files.")
        if name in variants:
            raise ValueError(f"{members[0].folder}: expected variants of different names, got two called {name}.")
        variants[name] = Variant(name, by_seed)
    if len(variants) < 2:
        (only,) = variants.values()
        places = ", ".join(str(run.folder) for run in only.runs.values())
        raise ValueError(
            f"compare: expected at least two variants, got {only.name} alone ({places}); "
            + (" ".join(notes) or "test another one: python -m ouroboros3d test --config ablations/NAME.yaml")
        )
    return list(variants.values())


def check_comparable(variants: Sequence[Variant], allowed: Sequence[str]) -> list[str]:
    """Refuse runs that were not tested alike; what differs with permission or without harm, as notes.

    Args:
        variants: the first run of the first one is what all are held against.
        allowed: protocol fields that may differ, and `uids`.

    Raises:
        ValueError: a field differs, naming runs, field and both values; an unknown field is allowed.
    """
    runs = [run for variant in variants for run in variant.runs.values()]
    known = {"uids", *(name for run in runs for name in run.protocol)}
    unknown = [name for name in allowed if name not in known]
    if unknown:
        raise ValueError(f"allow: expected one of {', '.join(sorted(known - _FREE))}, got {unknown[0]}.")
    first, *others = runs
    notes = {}
    for run in others:
        if set(run.uids) != set(first.uids) and not {"uids", "split_sha256"} & set(allowed):
            alone = sorted(set(run.uids) ^ set(first.uids))
            raise ValueError(
                f"{run.folder}: expected the {len(first.uids)} objects of {first.folder}, got {len(run.uids)}; "
                f"{alone[0]} is in one of them only; test both on the same data, or --allow uids compares the rest."
            )
        for name in sorted(known - _FREE - {"uids"}):
            ours, theirs = first.protocol.get(name), run.protocol.get(name)
            if ours == theirs or (name in _OF_OBJECTS and "uids" in allowed):
                continue
            two_nets = name == "lpips_net" and None not in (ours, theirs)  # values of two nets belong in two columns
            if name not in allowed or two_nets:
                raise ValueError(
                    f"{run.folder}: expected {name} {short(ours)} as in {first.folder}, got {short(theirs)}; test both "
                    f"alike, name the runs to compare, or --allow {name}."
                )
            notes[name] = f"{name} differs between runs, which --allow {name} permitted."
    for name in ("git_commit", "device", "package_versions"):
        values = dict.fromkeys(short(run.protocol.get(name)) for run in runs)
        if len(values) > 1:
            notes[name] = f"{name} differs between runs: {', '.join(values)}."
    seeds = {variant.name: ", ".join(variant.runs) for variant in variants}
    if len(set(seeds.values())) > 1:
        listed = "; ".join(f"{name}: {labels}" for name, labels in seeds.items())
        notes["seeds"] = (
            f"The seeds differ ({listed}): means are over each variant's own, differences over those that it shares "
            "with the baseline."
        )
    return list(notes.values())


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() or any(folder.glob("results*.json"))


def _runs_in(folder: Path) -> list[Path]:
    """The runs of an experiment; none where the folder is something else."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and _is_run(path)) if folder.is_dir() else []


def _newest_and_its_seeds(experiment: Path, split: str) -> list[Run]:
    """Of an experiment's tested runs the newest, and those that differ from it in nothing but the seeds."""
    folders = [path for path in _runs_in(experiment) if results_path(path, split).is_file()]
    runs = [read_run(path, split) for path in folders if not unfinished(path, split)]
    runs.sort(key=lambda run: str(run.protocol["timestamp"]), reverse=True)
    alike = [run for run in runs if _but_for_seeds(run) == _but_for_seeds(runs[0])]
    newest: dict[tuple[Any, Any], Run] = {}
    for run in alike:
        newest.setdefault((run.protocol["seed"], run.protocol["training_seed"]), run)
    return list(newest.values())


def _but_for_seeds(run: Run) -> str:
    """All that a run was and was tested under, without its seeds, places and times."""
    path = run.folder / "config.yaml"
    try:
        config = read_configuration(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: expected the run's configuration, got none that can be read; run the experiment again."
        ) from error
    if isinstance(config.get("trainer"), dict):
        config["trainer"].pop("logger", None)  # names the run's folder
    protocol = {
        name: value for name, value in run.protocol.items() if name not in _IDENTITY | _WEIGHTS | _PLACE | _SEEDS
    }
    return json.dumps([_without(config), protocol], sort_keys=True, default=str)


def _without(node: object) -> object:
    if isinstance(node, dict):
        return {str(key): _without(value) for key, value in node.items() if key not in _PLACES_AND_SEEDS}
    return [_without(item) for item in node] if isinstance(node, list) else node

"""What `test` left in a run's folder, read strictly: a comparison of half-read files would be worse than none."""

import csv
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.comparison.statistics import mean_known

# Fields of results.json that this package reads by name.
_SUMMARY = ("objects", "failed", "mean")
_NEEDED = (
    "run_id",
    "method",
    "git_commit",
    "checkpoint_sha256",
    "data_sha256",
    "split",
    "split_sha256",
    "timestamp",
    "seed",
    "training_seed",
    "device",
)


@dataclass(frozen=True)
class Run:
    """The results of one run on one split.

    Args:
        folder: of the run.
        protocol: what the values were measured under, by field.
        uids: of the n objects.
        values: metrics and costs by name, each [n], NaN where missing.
        failures: the error text of each object that failed, by uid.
        titles: what objects are called, by uid, of those that have a name.
    """

    folder: Path
    protocol: Mapping[str, Any]
    uids: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]
    failures: Mapping[str, str]
    titles: Mapping[str, str] = field(default_factory=dict)

    @property
    def experiment(self) -> str:
        """The name of the folder that holds the run."""
        return self.folder.resolve().parent.name

    @property
    def training(self) -> int | None:
        """Which training the tested weights are of: its seed, None where it is not known."""
        seed: int | None = self.protocol["training_seed"]
        return seed

    def pictures(self, uid: str) -> Path:
        """The folder of an object's pictures and Gaussians."""
        return self.folder / _named("objects", self.protocol["split"]) / uid

    def steps(self) -> dict[str, NDArray[np.float64]]:
        """Columns of steps.csv, each [n objects, steps] with NaN where missing; none where there is no such file.

        Raises:
            ValueError: the file is not what `test` writes.
        """
        path = self.folder / f"{_named('steps', self.protocol['split'])}.csv"
        if not path.is_file():
            return {}
        rows = _rows(path, ("uid", "step", "sigma"))
        places = {uid: index for index, uid in enumerate(self.uids)}
        unknown = [row["uid"] for row in rows if row["uid"] not in places]
        if unknown:
            raise ValueError(f"{path}: expected objects of results.csv, got {unknown[0]}; test the run again.")
        objects = [places[row["uid"]] for row in rows]
        numbers = np.array([_number(path, row, "step") for row in rows])
        steps = np.searchsorted(np.unique(numbers), numbers)
        table = {}
        for name in rows[0]:
            if name not in ("uid", "step"):
                table[name] = np.full((len(self.uids), steps.max() + 1), math.nan)
                table[name][objects, steps] = [_number(path, row, name) for row in rows]
        return table

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """The same averaged over objects, each [steps]."""
        return {name: mean_known(values, 0) for name, values in self.steps().items()}


def results_path(folder: Path, split: str) -> Path:
    """Where a run keeps the summary of a split."""
    return folder / f"{_named('results', split)}.json"


def unfinished(folder: Path, split: str) -> bool:
    """Whether a test of the split was started and has not ended."""
    return any(folder.glob(f"{_named('results', split)}.*jsonl.part"))


def how_to_test(folder: Path, split: str) -> str:
    """The command that tests a run, or goes on with a test that stopped."""
    config = folder / "config.yaml"
    more = "" if split == "test" else f" --data.test_split {split}"
    if config.is_file() and not (folder / "checkpoints").is_dir():  # a run that only tests another one's checkpoint
        known = re.search(
            r"^ckpt_path: (?!null)(.+)$", config.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
        )
        more += f" --ckpt_path {shlex.quote(known[1])}" if known else ""
    return f"python -m ouroboros3d test --config {shlex.quote(str(config))}{more}"


def read_run(folder: Path, split: str) -> Run:
    """Read the results of a run.

    Args:
        folder: of the run.
        split: whose objects were tested.

    Raises:
        ValueError: not tested, a test that has not ended, files that are truncated or do not belong together.
    """
    path = results_path(folder, split)
    if not path.is_file() or unfinished(folder, split):
        state = "an unfinished test" if unfinished(folder, split) else "no test"
        raise ValueError(
            f"{folder}: expected results of the {split} objects, got {state}; finish it: {how_to_test(folder, split)}"
        )
    summary = _summary(path)
    objects, failed, means = (summary[name] for name in _SUMMARY)
    again = f"test the run again: {how_to_test(folder, split)}"
    table = path.with_suffix(".csv")
    if not table.is_file():
        raise ValueError(f"{table}: expected a file beside {path.name}, got none; {again}")
    rows = _rows(table, ("uid", "status", *_NEEDED, *means))
    # What every row repeats is the protocol.
    protocol = {name: value for name, value in summary.items() if name in rows[0]}
    if len(rows) != objects or {row["timestamp"] for row in rows} != {str(protocol["timestamp"])}:
        raise ValueError(f"{table}: expected the {objects} objects of {path.name}'s test, got {len(rows)}; {again}")
    uids = tuple(row["uid"] for row in rows)
    failures = {row["uid"]: row["status"] for row in rows if row["status"] != "ok"}
    if len(set(uids)) != len(uids) or len(failures) != failed or protocol["split"] != split:
        raise ValueError(
            f"{table}: expected {objects} different {split} objects of which {failed} failed, got {len(set(uids))} of "
            f"{protocol['split']} of which {len(failures)}; {again}"
        )
    values = {name: np.array([_number(table, row, name) for row in rows]) for name in rows[0] if name in means}
    titles = {row["uid"]: row["name"] for row in rows if row.get("name")}
    return Run(folder, protocol, uids, values, failures, titles)


def short(value: object) -> str:
    """A protocol field's value as a reader needs it: ranges as ranges, the first digits of a hash."""
    if isinstance(value, list):
        whole = [item for item in value if isinstance(item, int)]
        if len(value) > 2 and value == whole == list(range(whole[0], whole[0] + len(whole))):
            return f"{value[0]} to {value[-1]}"
        return " ".join(map(short, value)) or "none"
    if isinstance(value, str):
        return value[:12] if re.fullmatch(r"[0-9a-f]{40,}", value) else value  # as much of a hash as anyone reads
    return "none" if value is None else json.dumps(value)


def _named(stem: str, split: str) -> str:
    """Files of another split than the test objects carry its name."""
    return stem if split == "test" else f"{stem}_{split}"


def _summary(path: Path) -> dict[str, Any]:
    try:
        summary: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # JSON's and Unicode's errors are both of the first kind
        raise ValueError(f"{path}: expected JSON, got a damaged file ({error}); test the run again.") from error
    fields: dict[str, Any] = summary if isinstance(summary, dict) else {}
    missing = [name for name in (*_NEEDED, *_SUMMARY) if name not in fields]
    if missing:
        raise ValueError(
            f"{path}: expected the fields of a test's summary, got none called {', '.join(missing)}; the file is "
            "damaged or older than this version; test the run again, or name the runs to compare."
        )
    kinds = {"objects": int, "failed": int, "mean": dict, "split": str, "seed": int, "training_seed": int | None}
    wrong = [name for name, kind in kinds.items() if not isinstance(fields[name], kind)]
    if wrong:
        raise ValueError(f"{path}: expected {wrong[0]} of another kind, got {fields[wrong[0]]!r}; test the run again.")
    return fields


def _rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a table that has the needed columns, as many cells in every row as columns, and at least one row."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file, strict=True)) or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a table, got a damaged file ({error}); test the run again.") from error
    missing = [name for name in needed if name not in header]
    if missing or not lines:
        got = f"none called {', '.join(missing)}" if missing else "no row"
        raise ValueError(f"{path}: expected the columns of a test and its rows, got {got}; test the run again.")
    short = [number for number, line in enumerate(lines, 2) if len(line) != len(header)]
    if short:
        raise ValueError(
            f"{path}: expected {len(header)} cells in line {short[0]}, got {len(lines[short[0] - 2])}; the file is "
            "truncated, test the run again."
        )
    return [dict(zip(header, line, strict=True)) for line in lines]


def _number(path: Path, row: Mapping[str, str], name: str) -> float:
    """The number in a cell; an empty one is missing, which is never 0."""
    if row[name] == "":
        return math.nan
    try:
        return float(row[name])
    except ValueError as error:
        raise ValueError(
            f"{path}: expected a number as {name} of object {row['uid']}, got {row[name]!r}; test the run again."
        ) from error

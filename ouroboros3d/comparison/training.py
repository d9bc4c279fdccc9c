"""Which runs were trained unalike, so that a difference between them may be the training's and not the idea's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ouroboros3d.comparison.runs import Run
from ouroboros3d.training_record import FIELDS, read_training_record

_CALLED = {
    "training_length": "steps",
    "training_batch": "batch",
    "training_base_weights": "base weights",
    "training_data": "data",
    "training_rates": "learning rates",
}


def trained_unlike(pairs: Sequence[tuple[Run, Run]]) -> str:
    """In what the second of two runs was trained unlike the first, over all pairs; empty where in nothing known.

    Args:
        pairs: runs of the baseline and of another variant.
    """
    found: dict[str, None] = {}
    for base, other in pairs:
        ours, theirs = _record(base), _record(other)
        for field in FIELDS:
            if None in (ours[field], theirs[field]) or ours[field] == theirs[field]:
                continue
            here, there = _only(ours[field], theirs[field]), _only(theirs[field], ours[field])
            found[f"{_CALLED[field]} {there} against {here}"] = None
    return "; ".join(found)


def unrecorded(runs: Sequence[Run]) -> list[str]:
    """What is not known of how some of the runs were trained, so that nothing can be said of it."""
    missing = [field for field in FIELDS if any(_record(run)[field] is None for run in runs)]
    return [_CALLED[field] for field in missing]


def _record(run: Run) -> dict[str, Any]:
    """A run's fields; of results of an earlier version those that the configuration of its training tells."""
    protocol: Mapping[str, Any] = run.protocol
    if FIELDS[1] in protocol:
        record = {field: protocol.get(field) for field in FIELDS}
    else:
        own = run.folder / "checkpoints"
        trained = run.folder if own.is_dir() else Path(str(protocol.get("checkpoint"))).parent.parent
        config = trained / "config.yaml"
        known = read_training_record(config) if config.is_file() and (trained / "checkpoints").is_dir() else {}
        record = {**dict.fromkeys(FIELDS), **known}
    if record["training_length"] is None:
        record["training_length"] = protocol.get("training_steps")
    return record


def _only(ours: object, theirs: object) -> str:
    """Of two lists what is in the first alone, as text; of other values the first."""
    if isinstance(ours, list) and isinstance(theirs, list):
        return " ".join(str(item) for item in ours if item not in theirs) or "none"
    return str(ours)

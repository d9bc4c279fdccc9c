"""What `check-data` found in a whole tree of posed renders, kept so that training can refuse one that failed."""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ouroboros3d.datamodules.readers.objaverse_rendering import ObjaverseRenderingReader
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.files import atomic_write_text, default_cache_dir


@dataclass(frozen=True)
class Verdict:
    """The end of a check.

    Args:
        root: the tree, resolved.
        reader: the format it was read as.
        checked_at: ISO date and time.
        errors: titles of the errors that remain whatever is left out; the tree failed if there are any.
        report: the page that shows them.
    """

    root: str
    reader: str
    checked_at: str
    errors: tuple[str, ...]
    report: str


def check_command(tree: PosedReader, cache_dir: Path) -> str:
    """The command whose verdict counts for a tree as it is opened, for a shell."""
    command = ["python", "-m", "ouroboros3d", "check-data", str(tree.root), "--reader", tree.name]
    if tree.at_least != tree.promised_views:
        command += ["--views_per_object", str(tree.at_least)]
    if isinstance(tree, ObjaverseRenderingReader):  # it opens with this option only
        command += ["--assume_rig"]
    if cache_dir.resolve() != default_cache_dir().resolve():
        command += ["--cache_dir", str(cache_dir)]
    return shlex.join(command)


def verdict_path(tree: PosedReader, cache_dir: Path) -> Path:
    """Where the verdict on a tree as it is opened is kept."""
    return cache_dir / "checks" / f"{tree.key}.json"


def write_verdict(verdict: Verdict, tree: PosedReader, cache_dir: Path) -> None:
    """Keep a verdict in place of an older one on the same tree."""
    path = verdict_path(tree, cache_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(asdict(verdict), indent=1))


def read_verdict(tree: PosedReader, cache_dir: Path) -> Verdict | None:
    """The last verdict on a tree as it is opened; None if it was never checked like this.

    Raises:
        ValueError: the file is damaged.
    """
    path = verdict_path(tree, cache_dir)
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return Verdict(**{**content, "errors": tuple(content["errors"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: expected what check-data found in {tree.root}, got {error}; remove the file, or check again: "
            f"{check_command(tree, cache_dir)}"
        ) from error


def refusal(verdict: Verdict, tree: PosedReader, cache_dir: Path) -> str:
    """Why a tree must not be trained on, in one line with the way out; empty if it may be.

    Args:
        verdict: on the tree.
        tree: as it is opened.
        cache_dir: where the verdict is kept.
    """
    if not verdict.errors:
        return ""
    more = len(verdict.errors) - 1
    others = f" and {more} more error{'s' * (more > 1)}" if more else ""
    return (
        f"root: expected a tree that passes check-data, got {tree.root}, which failed on {verdict.checked_at[:10]}: "
        f"{verdict.errors[0]}{others}. See {verdict.report}; mend it and check again "
        f"({check_command(tree, cache_dir)}), or train on it as it is with --data.ignore_check true."
    )

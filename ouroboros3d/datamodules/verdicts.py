"""What `check-data` found in a tree, kept so that training can refuse one that failed."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ouroboros3d.files import replace_text


@dataclass(frozen=True)
class Verdict:
    """The end of a check.

    Args:
        root: the tree, resolved.
        reader: the format it was read as.
        checked_at: ISO date and time.
        errors: titles of the errors that remain whatever is left out; the tree failed if there are any.
        cured: titles of the errors that are gone without the objects of `skip`.
        skip: objects that cannot be used, with the reason.
        skip_list: the file that names them.
        report: the page that shows them.
    """

    root: str
    reader: str
    checked_at: str
    errors: tuple[str, ...]
    cured: tuple[str, ...]
    skip: dict[str, str]
    skip_list: str
    report: str


def verdict_path(root: Path, cache_dir: Path) -> Path:
    """Where the verdict on a tree is kept."""
    return cache_dir / "checks" / f"{sha256(str(root.resolve()).encode()).hexdigest()[:16]}.json"


def write_verdict(verdict: Verdict, cache_dir: Path) -> None:
    """Keep a verdict in place of an older one on the same tree."""
    path = verdict_path(Path(verdict.root), cache_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(asdict(verdict), indent=1))


def read_verdict(root: Path, cache_dir: Path) -> Verdict | None:
    """The last verdict on a tree; None if it was never checked.

    Raises:
        ValueError: the file is damaged.
    """
    path = verdict_path(root, cache_dir)
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return Verdict(**{**content, "errors": tuple(content["errors"]), "cured": tuple(content["cured"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: expected what check-data found in {root}, got {error}; remove the file, or check again: "
            f"python -m ouroboros3d check-data {root}"
        ) from error


def refusal(verdict: Verdict, skipped: Collection[str]) -> str:
    """Why a tree must not be trained on, in one line with the way out; empty if it may be.

    Args:
        verdict: on the tree.
        skipped: the objects that are left out.
    """
    again = f"check again (python -m ouroboros3d check-data {verdict.root})"
    anyway = "or train on it as it is with --data.ignore_check true"
    if verdict.errors:
        more = len(verdict.errors) - 1
        others = f" and {more} more error{'s' * (more > 1)}" if more else ""
        return (
            f"root: expected a tree that passes check-data, got {verdict.root}, which failed on "
            f"{verdict.checked_at[:10]}: {verdict.errors[0]}{others}. See {verdict.report}; mend it and {again}, "
            f"{anyway}."
        )
    left = [uid for uid in verdict.skip if uid not in skipped]
    if verdict.cured and left:
        return (
            f"root: expected only objects that pass check-data, got {len(left)} of {verdict.root} that do not, such as "
            f"{left[0]}: {verdict.skip[left[0]]}. Leave them out with --data.skip_uids {verdict.skip_list}, or mend "
            f"them and {again}, {anyway}. See {verdict.report}."
        )
    return ""

"""What a check found, in plain words: how bad, how many, which, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import bdtrc  # type: ignore[import-untyped] # it ships no types

Severity = Literal["error", "warning", "note"]
EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Args:
        severity: `error` = images or cameras are wrong, `warning` = worth a look, `note` = to know.
        title: what, in a few words.
        count: how many, such as `3 of 40 objects`.
        detail: what it means.
        advice: what to do; empty for nothing.
        examples: a few of them.
        cured: whether it is gone without the objects of skip_uids.txt.
    """

    severity: Severity
    title: str
    count: str
    detail: str
    advice: str = ""
    examples: tuple[str, ...] = ()
    cured: bool = False

    @property
    def scope(self) -> str:
        """How many, and whether leaving them out is enough."""
        return f"{self.count}, all in skip_uids.txt" if self.cured else self.count


def conclusion(findings: Sequence[Finding]) -> str:
    """The finding in one sentence."""
    errors = [finding for finding in findings if finding.severity == "error"]
    lasting = [finding for finding in errors if not finding.cured]
    warnings = sum(finding.severity == "warning" for finding in findings)
    more = f" {warnings} warning{'s' * (warnings != 1)}." if warnings else ""
    if not errors:
        return f"No error found.{more}"
    first = (lasting or errors)[0].title
    others = f" and {len(errors) - 1} more error{'s' * (len(errors) > 2)}" if len(errors) > 1 else ""
    order = "Do not train on this yet" if lasting else "Train only without the objects of skip_uids.txt"
    return f"{order}: {first[:1].lower()}{first[1:]}{others}.{more}"


def count_text(count: int, total: int) -> str:
    """A count in words, such as `3 of 40 objects`."""
    return f"{count} of {total} object{'s' * (total != 1)}"


def is_minority(count: int, total: int) -> bool:
    """Whether leaving so many out is a cure; what most objects have is a mistake of the whole tree."""
    return count <= total / 2


def binomial_tail(count: int, total: int, rate: float) -> float:
    """Probability of at least so many of `total` objects that each have it at that rate."""
    return float(bdtrc(count - 1, total, rate)) if count else 1.0


def view_names(views: Sequence[int]) -> str:
    """Views in words, such as `view 3` or `views 1, 4`."""
    listed = ", ".join(map(str, views[:6])) + (", ..." if len(views) > 6 else "")
    return f"view{'s' * (len(views) > 1)} {listed}"

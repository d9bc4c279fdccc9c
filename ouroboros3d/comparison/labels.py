"""How groups of metrics, intervals and p-values are written in tables and figures."""

import math
from collections.abc import Iterable

from ouroboros3d.metrics.columns import GROUPS, column


def grouped(metrics: Iterable[str]) -> dict[str, list[str]]:
    """Metrics by the group of their column, groups in the order of `GROUPS`."""
    found: dict[str, list[str]] = {name: [] for name in GROUPS}
    for metric in metrics:
        found[column(metric).group].append(metric)
    return {name: members for name, members in found.items() if members}


def interval(metric: str, low: float, high: float) -> str:
    """An interval's two ends in brackets, `-` where missing."""
    text = column(metric).text
    return "-" if math.isnan(low) else f"[{text(low, True)}, {text(high, True)}]"


def probability(p: float) -> str:
    """A p-value with three decimals, empty where there is none."""
    return "" if math.isnan(p) else "<0.001" if p < 0.0005 else f"{p:.3f}"

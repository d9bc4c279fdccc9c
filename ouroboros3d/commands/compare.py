"""`python -m ouroboros3d compare`: from tested runs to tables, a page and a dashboard."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from rich.console import Console

from ouroboros3d.commands.compare_options import parse
from ouroboros3d.comparison.dashboard import write_dashboard
from ouroboros3d.comparison.figures import differences, scatter
from ouroboros3d.comparison.folder import refuse_foreign, replaced
from ouroboros3d.comparison.kinds import kinds
from ouroboros3d.comparison.labels import grouped
from ouroboros3d.comparison.outcome import Comparison, compare
from ouroboros3d.comparison.page import page
from ouroboros3d.comparison.steps import read_steps
from ouroboros3d.comparison.strips import strip
from ouroboros3d.comparison.tables import csv_text, markdown, print_tables
from ouroboros3d.comparison.variants import FIGURES, check_comparable, choose, group
from ouroboros3d.comparison.viewers import write_viewers
from ouroboros3d.comparison.where_and_why import STEP_CURVES, by_kinds, cost_of_gain, gains, step_curves
from ouroboros3d.metrics.columns import COST, column, headline
from ouroboros3d.reports.plots import to_svg

_TOLD = ("novel_psnr_foreground", "mv_psnr_foreground")  # renders at novel cameras show views and 3D at once
_PICTURED = 24  # objects; more would make a page that no browser opens gladly


def run(arguments: Sequence[str]) -> None:
    """Compare tested runs.

    Args:
        arguments: the command line after `compare`.

    Raises:
        ValueError: a wrong argument, runs that may not be compared, damaged results; one line.
        FileNotFoundError: no such folder.
    """
    options = parse(arguments)
    out = options.out or options.runs / "comparison"
    refuse_foreign(out)
    found, notes = choose(options.named, options.runs, options.split)
    variants = group(found, notes)
    notes += check_comparable(variants, options.allow)
    comparison = compare(
        variants,
        options.baseline,
        notes=notes,
        command=_command(options, [run.folder for variant in variants for run in variant.runs.values()]),
        split=options.split,
        mark_unlike=options.mark_unlike,
    )
    with replaced(out) as folder:
        _write(comparison, folder)
    console = Console(highlight=False, markup=False)
    print_tables(comparison, console)
    for name, path in {"page": "comparison.html", "tables": "comparison.md", "numbers": "comparison.csv"}.items():
        console.print(f"{name + ':':<13}{out / path}", soft_wrap=True)
    console.print(f"tensorboard: tensorboard --logdir {out}", soft_wrap=True)


def _write(comparison: Comparison, folder: Path) -> None:
    """Everything that a comparison leaves behind."""
    strips = {}
    for uid in comparison.uids[:_PICTURED]:
        pictures = {kind: picture for kind in ("views", "renders") if (picture := strip(comparison, uid, kind))}
        if pictures:
            strips[uid] = pictures
    left = max(0, len(comparison.uids) - _PICTURED)
    viewers = write_viewers(comparison, comparison.uids[:_PICTURED], folder)
    drawn = _figures(comparison)
    vectors = {each.name: to_svg(each.figure) for each in drawn}
    texts = {
        "comparison.html": page(
            comparison, {each.caption: vectors[each.name] for each in drawn}, strips, left, viewers
        ),
        "comparison.md": markdown(comparison, {f"{FIGURES}/{each.name}.svg": each.caption for each in drawn}),
        "comparison.csv": csv_text(comparison),
        **{f"{FIGURES}/{name}.svg": svg for name, svg in vectors.items()},
    }
    (folder / FIGURES).mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_dashboard(comparison, folder, strips)


class _Drawn(NamedTuple):
    """A figure, its name as a file, and what it shows."""

    name: str
    caption: str
    figure: Figure


def _figures(comparison: Comparison) -> list[_Drawn]:
    """All that the page shows, in its order."""
    metrics = headline(comparison.metrics)
    # Of every group that is no cost the first, and of these what is told by kinds and costs.
    chosen = [members[0] for name, members in grouped(metrics).items() if name != COST] or metrics[:1]
    told = next((metric for metric in _TOLD if metric in chosen), chosen[0])
    title = column(told).title
    drawn = [
        _Drawn(
            "differences",
            "Mean paired difference from the baseline with its interval; at the right each variant's mean. Green is "
            "better, orange is worse, grey is undecided.",
            differences(comparison, metrics),
        ),
    ]
    if any(name in (steps := read_steps(comparison)) for name in STEP_CURVES):
        caption = "Which denoising steps change: quality at every step, and the difference from the baseline with its "
        drawn.append(_Drawn("steps", f"{caption}interval.", step_curves(comparison, steps)))
    caption = "Which objects gain: every object's difference, mean over seeds, sorted; the shaded side is better."
    drawn.append(_Drawn("gains", caption, gains(comparison, chosen)))
    caption = "One point an object, mean over seeds; the shaded half is better."
    drawn.append(_Drawn("objects", caption, scatter(comparison, chosen)))
    if found := kinds(comparison, told):
        caption = (
            f"Which kinds of objects gain: the difference in {title} for the third of the objects with the least of a "
            "property, the middle one and the one with the most, with intervals. What is hard for the baseline gains "
            "more by chance alone (regression to the mean)."
        )
        drawn.append(_Drawn("kinds", caption, by_kinds(comparison, told, found)))
    if (costs := cost_of_gain(comparison, told)) is not None:
        caption = f"What a gain costs: the difference in {title} over the cost of a generation."
        drawn.append(_Drawn("costs", caption, costs))
    return drawn


def _command(options: argparse.Namespace, folders: Sequence[Path]) -> str:
    """The command line that makes the same comparison again, with every run named."""
    words = ["python", "-m", "ouroboros3d", "compare", *map(str, folders)]
    for name in ("runs", "out", "baseline", "split"):
        value = getattr(options, name)
        defaults = {"runs": Path("runs"), "split": "test"}
        if value is not None and value != defaults.get(name):
            words += [f"--{name}", str(value)]
    words += ["--mark_unlike"] if options.mark_unlike else []
    words += [word for field in options.allow for word in ("--allow", field)]
    return shlex.join(words)

"""`python -m ouroboros3d compare`: from tested runs to tables, a page and a dashboard."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ouroboros3d.commands.compare_options import parse
from ouroboros3d.comparison import figures
from ouroboros3d.comparison.dashboard import write_dashboard
from ouroboros3d.comparison.folder import refuse_foreign, replaced
from ouroboros3d.comparison.labels import grouped
from ouroboros3d.comparison.outcome import Comparison, compare
from ouroboros3d.comparison.page import page
from ouroboros3d.comparison.strips import strip
from ouroboros3d.comparison.tables import csv_text, markdown, print_tables
from ouroboros3d.comparison.variants import check_comparable, choose, group
from ouroboros3d.metrics.columns import COST, headline

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
    metrics = headline(comparison.metrics)
    curves = {v.name: columns for v in comparison.variants if (columns := v.first.curves())}
    scattered = [members[0] for name, members in grouped(metrics).items() if name != COST] or metrics[:1]
    drawn = {
        "Mean paired difference from the baseline with its interval; at the right each variant's mean. Green is "
        "better, orange is worse, grey is undecided.": figures.differences(comparison, metrics),
        "One point an object, mean over seeds; the shaded half is better.": figures.scatter(comparison, scattered),
    }
    if curves:
        steps = figures.step_curves(comparison, curves)
        drawn["Quality at every denoising step, mean over objects, first seed."] = steps
    left = max(0, len(comparison.uids) - _PICTURED)
    texts = {
        "comparison.html": page(comparison, drawn, strips, left),
        "comparison.md": markdown(comparison),
        "comparison.csv": csv_text(comparison),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_dashboard(comparison, folder, strips)


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

"""A comparison as text: the table in the terminal, comparison.md and comparison.csv."""

import csv
import html
import io
import math
import re
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ouroboros3d.comparison.labels import grouped, interval, probability
from ouroboros3d.comparison.outcome import Comparison, Difference
from ouroboros3d.comparison.runs import how_to_test, short
from ouroboros3d.comparison.statistics import LEVEL
from ouroboros3d.metrics.columns import column, headline

MARKS = {"better": "▲", "worse": "▼", "undecided": "", "": ""}
_COLOURS = {"better": "green", "worse": "red", "undecided": "dim", "": ""}


def caption(comparison: Comparison) -> str:
    """What the numbers are, in one sentence."""
    variants = comparison.variants
    trainings = _count({len({run.training for run in v.runs.values()}) for v in variants}, "training")
    runs = _count({len(v.runs) for v in variants}, "run")
    return (
        f"{len(comparison.uids)} {comparison.split} objects, {trainings} and {runs} of each variant; differences from "
        f"{comparison.baseline.name} in pairs of the same object and seeds"
    )


def _count(numbers: set[int], what: str) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least}{'' if least == most else f' to {most}'} {what}{'' if numbers == {1} else 's'}"


def warnings(comparison: Comparison) -> list[str]:
    """What stands at the top of every table: which variants were trained unlike the baseline, and in what."""
    ends = "" if comparison.marked else "; so nothing is called better or worse"
    return [
        f"{name} was trained unlike {comparison.baseline.name}: {text}{ends}."
        for name, text in comparison.unlike.items()
    ]


def explanation(comparison: Comparison) -> str:
    """How intervals, marks and p-values came about."""
    trainings = max(d.trainings for cell in comparison.cells.values() if (d := cell.difference))
    over = (
        "objects, of these weights; another training may differ"
        if trainings == 1
        else "objects and trainings: the root of the summed squares of the t-intervals over either"
    )
    count = sum(not math.isnan(d.corrected) for cell in comparison.cells.values() if (d := cell.difference))
    return (
        f"Brackets are {LEVEL:.0%} intervals of the mean paired difference over {over}; sampling seeds are averaged "
        "first. ▲ better and ▼ worse: the interval leaves out 0, which by chance alone one in 20 does. p, two-sided, "
        f"says how far; Holm p is corrected for the {count} differences of the headline, p alone is uncorrected. "
        "Seconds and memory are those of a batch, shared by its objects, and have no interval over objects."
    )


def print_tables(comparison: Comparison, console: Console) -> None:
    """Print the headline metrics, as many side by side as the console is wide, and what a reader has to know."""
    metrics = headline(comparison.metrics)
    names = max(len(variant.name) for variant in comparison.variants)
    columns = max(1, (min(console.width, 100) - names) // 20)
    size = math.ceil(len(metrics) / math.ceil(len(metrics) / columns))  # as even as possible
    console.print(Text(caption(comparison), style="bold"))
    for start in range(0, len(metrics), size):
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
        table.add_column("")
        for metric in metrics[start : start + size]:
            table.add_column(
                column(metric).title.replace(" (", "\n("), justify="right", vertical="bottom", no_wrap=True
            )
        for variant in comparison.variants:
            cells = [_terminal_cell(comparison, variant.name, metric) for metric in metrics[start : start + size]]
            table.add_row(Text(variant.name, style="bold"), *cells)
        for warning in warnings(comparison):
            console.print(Text(f"! {warning}", style="yellow"))
        console.print(table)
    console.print(Text(f"* best mean. {explanation(comparison)}", style="dim"))
    for note in comparison.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)  # a command in it can be copied


def _terminal_cell(comparison: Comparison, variant: str, metric: str) -> Text:
    cell = comparison.cells[variant, metric]
    best = variant in comparison.best(metric)
    text = Text(f"{'*' if best else ''}{column(metric).text(cell.mean)}", style="bold" if best else "")
    if cell.difference is None:
        return text
    difference = cell.difference
    colour = _COLOURS[difference.verdict]
    text.append(f" {column(metric).text(difference.mean, True)}{MARKS[difference.verdict]}", style=colour)
    return text.append(f"\n{interval(metric, difference.low, difference.high)}", style="dim")


def markdown_tables(comparison: Comparison, metrics: Sequence[str]) -> str:
    """One table: a row a metric, a column a variant; above it what a reader has to know first."""
    lines = [
        *(f"**{markdown_text(warning)}**\n" for warning in warnings(comparison)),
        "| | " + " | ".join(markdown_text(variant.name) for variant in comparison.variants) + " |",
        "|---|" + "---|" * len(comparison.variants),
    ]
    for metric in metrics:
        cells = [markdown_cell(comparison, variant.name, metric) for variant in comparison.variants]
        lines.append(f"| {markdown_text(column(metric).title)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def markdown_text(text: str) -> str:
    """Text as it reads in Markdown, also in a table: no tag, link, emphasis, formula, column or line of its own."""
    escaped = html.escape(re.sub(r"\s+", " ", text), quote=False)
    # An underscore inside a word emphasises nothing.
    escaped = re.sub(r"[\\`*\[\]|]|(?<![^\W_])_|_(?![^\W_])|^[#+-]", r"\\\g<0>", escaped)
    return escaped.replace("~", "&#126;").replace("$", "&#36;")  # not every Markdown takes a backslash before these


def markdown_code(text: str) -> str:
    """A block of commands, behind a fence that no run of backticks in it ends."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}bash\n{text}\n{fence}"


def markdown_cell(comparison: Comparison, variant: str, metric: str) -> str:
    """Mean, difference, interval and p-value of one variant and metric."""
    cell = comparison.cells[variant, metric]
    mean = column(metric).text(cell.mean)
    text = f"**{mean}**" if variant in comparison.best(metric) else mean
    if cell.difference is None or math.isnan(cell.difference.mean):
        return text
    difference = cell.difference
    p = probabilities(difference)
    parts = [
        column(metric).text(difference.mean, True) + relative(comparison, variant, metric) + MARKS[difference.verdict],
        interval(metric, difference.low, difference.high),
        *([p] if p else []),
    ]
    return "<br>".join([text, *parts])


def probabilities(difference: Difference) -> str:
    """The p-value that a reader may rely on: the corrected one where there is one; empty where there is none."""
    if not math.isnan(difference.corrected):
        return f"Holm p {probability(difference.corrected)}"
    return "" if math.isnan(difference.p) else f"p {probability(difference.p)}"


def relative(comparison: Comparison, variant: str, metric: str) -> str:
    """The difference in percent of the baseline, where a ratio means something."""
    difference = comparison.cells[variant, metric].difference
    if difference is None or not column(metric).ratio or not difference.baseline:
        return ""
    return f" ({difference.mean / difference.baseline:+.1%})"


def markdown(comparison: Comparison, figures: Mapping[str, str]) -> str:
    """The whole of comparison.md.

    Args:
        comparison: what is shown.
        figures: captions by the path of the picture.
    """
    shared, differing = protocols(comparison)
    names = [markdown_text(variant.name) for variant in comparison.variants]
    parts = [f"# Comparison of {', '.join(names)}", f"{markdown_text(caption(comparison))}. Bold: best mean."]
    parts += [markdown_tables(comparison, headline(comparison.metrics)), explanation(comparison)]
    parts += ["\n".join(f"- {markdown_text(note)}" for note in comparison.notes)] if comparison.notes else []
    parts += ["## Commands", markdown_code(comparison.command), "The runs, tested by:"]
    tests = [how_to_test(run.folder, comparison.split) for v in comparison.variants for run in v.runs.values()]
    parts += [markdown_code("\n".join(tests))]
    if figures:
        parts += ["## Figures", *(f"{markdown_text(text)}\n\n![]({path})" for path, text in figures.items())]
    for name, metrics in grouped(comparison.metrics).items():
        parts += [f"## {markdown_text(name)}", markdown_tables(comparison, metrics)]
    parts += ["## Protocol", "What the variants differ in:"]
    rows = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    rows += ["| " + " | ".join(map(markdown_text, [field, *values])) + " |" for field, values in differing.items()]
    parts += ["\n".join(rows), "What they share:", "| field | value |\n|---|---|"]
    parts[-1] += "".join(f"\n| {markdown_text(field)} | {markdown_text(value)} |" for field, value in shared.items())
    return "\n\n".join(parts) + "\n"


def protocols(comparison: Comparison) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Protocol fields that all runs share, and those that differ with each variant's values."""
    runs = [list(variant.runs.values()) for variant in comparison.variants]
    fields = dict.fromkeys(field for members in runs for run in members for field in run.protocol)
    shared, differing = {}, {}
    for field in fields:
        values = [list(dict.fromkeys(short(run.protocol.get(field)) for run in members)) for members in runs]
        if all(value == values[0] and len(value) == 1 for value in values):
            shared[field] = values[0][0]
        else:
            differing[field] = [", ".join(value) for value in values]
    return shared, differing


def csv_text(comparison: Comparison) -> str:
    """The whole of comparison.csv: a row a variant and metric, full precision, a missing value empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["variant", "metric", "label", "n_objects", "n_seeds", "mean", "baseline", "n_trainings", "n_pairs"]
    columns += ["n_missing", "baseline_mean", "difference", "low", "high", "p", "p_holm", "verdict"]
    writer.writerow(columns)
    for variant in comparison.variants:
        for metric in comparison.metrics:
            cell = comparison.cells[variant.name, metric]
            row = [
                variant.name,
                metric,
                column(metric).label,
                cell.objects,
                cell.seeds,
                cell.mean,
                comparison.baseline.name,
            ]
            d = cell.difference
            row += [d.trainings, d.pairs, d.missing, d.baseline] if d else [""] * 4
            row += [d.mean, d.low, d.high, d.p, d.corrected, d.verdict] if d else [""] * 6
            writer.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in row])
    return text.getvalue()

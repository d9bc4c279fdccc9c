"""The rows of a study: every object of every tested run, with the tree that it comes from, in one table.

    python benchmarks/study_rows.py OUT.csv runs/*/study-* --trees TREE [TREE ...]

Columns: `variant`, `training_seed`, `sampling_seed`, `tree`, `uid`, then every metric and cost of `results.csv` under
its own name; a missing value is empty. An object that several trees hold counts for the first one named.
"""

import argparse
import csv
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from ouroboros3d.comparison.runs import Run, read_run
from ouroboros3d.datamodules.readers.detection import open_tree
from ouroboros3d.files import atomic_write_text

KEYS = ("variant", "training_seed", "sampling_seed", "tree", "uid")


def table(runs: Sequence[Run], trees: Sequence[Path]) -> list[list[object]]:
    """A header, and a row an object of each run, sorted by the keys.

    Args:
        runs: tested on objects of the trees.
        trees: folders of meshes or of posed renders.

    Raises:
        ValueError: an object that none of the trees has.
    """
    tree_of: dict[str, str] = {}
    for tree in reversed(trees):
        tree_of |= dict.fromkeys(open_tree(tree).select_uids(), tree.resolve().name)
    names = list(dict.fromkeys(name for run in runs for name in run.values))
    rows: list[list[object]] = []
    for run in runs:
        for index, uid in enumerate(run.uids):
            if uid not in tree_of:
                raise ValueError(
                    f"trees: expected one that has every object of {run.folder}, got none with {uid!r}; name all trees "
                    "that the runs were tested on."
                )
            keys = (run.experiment, run.protocol["training_seed"], run.protocol["seed"], tree_of[uid], uid)
            values = [run.values[name][index] if name in run.values else math.nan for name in names]
            rows.append([*keys, *("" if math.isnan(value) else f"{value:.6g}" for value in values)])
    return [[*KEYS, *names], *sorted(rows, key=lambda row: [str(key) for key in row[: len(KEYS)]])]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table of the runs that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--trees", type=Path, nargs="+", required=True)
    options = parser.parse_args(arguments)
    try:
        rows = table([read_run(run, "test") for run in options.runs], options.trees)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"study_rows: {error}")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    atomic_write_text(options.out, text.getvalue())
    print(f"{options.out}: {len(rows) - 1} rows of {len(options.runs)} runs")


if __name__ == "__main__":
    main()

"""The command line of `compare`."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ouroboros3d.commands.arguments import OneLineParser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse what follows `compare`.

    Raises:
        ValueError: a wrong argument, in one line.
    """
    parser = OneLineParser("compare")
    parser.add_argument("named", nargs="*", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--baseline")
    parser.add_argument("--split", default="test")
    parser.add_argument("--allow", action="append", default=[])
    parser.add_argument("--mark_unlike", action="store_true")
    options = parser.parse_intermixed_args(arguments)
    if not re.fullmatch(r"\w+", options.split):
        raise ValueError(f"split: expected test, val or train, got {options.split!r}.")
    return options

"""The command line of `check-data`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ouroboros3d.commands.arguments import OneLineParser
from ouroboros3d.datamodules.readers.names import ReaderName
from ouroboros3d.files import default_cache_dir


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse what follows `check-data`.

    Raises:
        ValueError: a wrong argument, in one line.
    """
    parser = OneLineParser("check-data")
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cache_dir", type=Path, default=default_cache_dir())
    parser.add_argument("--objects", type=int, default=32)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--reader", choices=get_args(ReaderName))
    parser.add_argument("--views_per_object", type=int)
    parser.add_argument("--assume_rig", action="store_true")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    if options.objects < 1 or options.workers < 1:
        raise ValueError(f"objects, workers: expected at least 1, got {options.objects} and {options.workers}.")
    if not options.root.is_dir():
        state = "is a file" if options.root.exists() else "does not exist"
        raise ValueError(f"root: expected a folder with meshes or posed renders, got {options.root}, which {state}.")
    return options

"""The command line of `render`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ouroboros3d.commands.arguments import OneLineParser
from ouroboros3d.datamodules.orbits.names import MapName
from ouroboros3d.datamodules.readers.names import MESH_READERS
from ouroboros3d.datamodules.rendering.process import DEFAULT_MEMORY_MIB

_MIN_MEMORY_MIB = 1024  # the idle rendering process has 730 of them


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse what follows `render`; what is left to the rig's own defaults is None.

    Raises:
        ValueError: a wrong argument, no such root, or an output inside it; in one line.
    """
    parser = OneLineParser("render")
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reader", choices=MESH_READERS)
    parser.add_argument("--up", choices=("y", "z"))
    parser.add_argument("--categories", nargs="+")
    parser.add_argument("--uids", nargs="+")
    parser.add_argument("--max_objects", type=int)
    for name in ("size", "views", "orbits", "supersampling", "seed"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("radius", "fov_deg", "light"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--elevation_deg", type=float, nargs=2)
    parser.add_argument("--maps", nargs="+", choices=get_args(MapName))
    parser.add_argument("--surface_points", type=int, default=0)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--ray_address")
    parser.add_argument("--cpus_per_worker", type=float, default=1.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--gpus_per_worker", type=float)
    parser.add_argument("--timeout_s", type=float, default=120.0)
    parser.add_argument("--memory_mib", type=int, default=DEFAULT_MEMORY_MIB)
    parser.add_argument("--retry_failed", action="store_true")
    options = parser.parse_args(arguments)
    options.elevation_deg = options.elevation_deg and tuple(options.elevation_deg)
    for name, least in {
        "size": 1,
        "workers": 1,
        "memory_mib": _MIN_MEMORY_MIB,
        "surface_points": 0,
        "max_objects": 1,
        "shards": 1,
    }.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}.")
    if not options.cpus_per_worker > 0:
        raise ValueError(f"cpus_per_worker: expected a positive number of CPUs, got {options.cpus_per_worker:g}.")
    if options.gpus_per_worker is not None and options.device != "cuda":
        raise ValueError(f"gpus_per_worker: expected --device cuda beside it, got {options.device}.")
    if options.gpus_per_worker is not None and not 0 < options.gpus_per_worker <= 1:
        raise ValueError(
            f"gpus_per_worker: expected a share of a GPU, more than 0 and at most 1, got {options.gpus_per_worker:g}."
        )
    if not options.timeout_s > 0:
        raise ValueError(f"timeout_s: expected a positive number of seconds, got {options.timeout_s:g}.")
    if not options.root.is_dir():
        state = "is a file" if options.root.exists() else "does not exist"
        raise ValueError(f"root: expected a folder with meshes, got {options.root}, which {state}.")
    if options.out.resolve().is_relative_to(options.root.resolve()):
        raise ValueError(
            f"out: expected a folder outside of the tree {options.root}, got {options.out}; readers of the tree would "
            "find the renders in it."
        )
    return options

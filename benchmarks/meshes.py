"""How long the ground truth of one object takes, for the objects of a tree nearest to a wanted number of faces.

    python benchmarks/meshes.py [--root TREE] [--faces 10000] [--objects 3] [--json FILE]

A row is one object: seconds to load it, seconds to render all views with all cores (the best of a few rounds), and the
peak memory of the process so far.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ouroboros3d.cameras import Cameras
from ouroboros3d.datamodules.meshes.glb import load_glb
from ouroboros3d.datamodules.readers.objaverse import ObjaverseReader
from ouroboros3d.datamodules.selection import BUNDLED
from ouroboros3d.lightning_modules.cost import peak_memory_mib
from ouroboros3d.renderers.meshes import MeshRenderer


@dataclass(frozen=True)
class Row:
    """One object; `size` in pixels before supersampling."""

    name: str
    faces: int
    views: int
    size: int
    supersampling: int
    load_s: float
    render_s: float
    peak_mb: float


def measure(path: Path, views: int, size: int, supersampling: int, rounds: int) -> Row:
    started = time.perf_counter()
    mesh, _, _ = load_glb(path).normalised()
    load_s = time.perf_counter() - started
    cameras = Cameras.orbit(torch.arange(views) * 360.0 / views, 15.0, 1.7417, 39.598)
    renderer = MeshRenderer(supersampling=supersampling)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        renderer.straight(mesh, cameras, size, size)
        seconds.append(time.perf_counter() - started)
    faces = mesh.faces.shape[0]
    peak = peak_memory_mib(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return Row(path.stem, faces, views, size, supersampling, load_s, min(seconds), peak)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, default=BUNDLED, help="a tree in the Objaverse layout; the bundled one")
    parser.add_argument("--faces", type=int, default=10_000, help="wanted number of faces")
    parser.add_argument("--objects", type=int, default=3, help="how many objects")
    parser.add_argument("--views", type=int, default=24)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--supersampling", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="timed rounds; the best one counts")
    parser.add_argument("--json", type=Path, help="file for the rows as a JSON list")
    options = parser.parse_args(args)
    paths = [asset.path for asset in ObjaverseReader(options.root).select() if asset.path.is_file()]
    paths.sort(key=lambda path: abs(load_glb(path).faces.shape[0] - options.faces))
    rows = []
    for path in paths[: options.objects]:
        rows.append(measure(path, options.views, options.size, options.supersampling, options.rounds))
        row = rows[-1]
        print(
            f"{row.name}  {row.faces:6,} faces  {row.views} x {row.size} px: load {row.load_s:.2f} s, "
            f"render {row.render_s:.2f} s, {row.peak_mb:.0f} MiB, {torch.get_num_threads()} threads"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Rendered views of a tree of meshes in one small archive, for a GPU machine that has neither the meshes nor a network.

    python benchmarks/gpu_views.py --root TREE [--out .gpu/views.tar] [--limit_mib 36]

The views are those that `ablations/scales/lab.yaml` asks for. Objects are taken in a random order that never changes,
whole ones only, until the limit is reached; `benchmarks/gpu.sh` unpacks the archive and trains on it.
"""

import argparse
import random
import sys
import tarfile
from pathlib import Path

import yaml

from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.rendering.cache import RenderCache

LAB = Path(__file__).parents[1] / "ablations" / "scales" / "lab.yaml"


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, help="a tree in the Objaverse layout; the bundled one", default=None)
    parser.add_argument("--out", type=Path, default=Path(".gpu/views.tar"))
    parser.add_argument("--limit_mib", type=float, default=36.0, help="what the archive may weigh")
    parser.add_argument("--config", type=Path, default=LAB, help="whose data settings are used")
    parser.add_argument("--max_objects", type=int, help="at most this many of each split")
    options = parser.parse_args(args)

    settings = yaml.safe_load(options.config.read_text(encoding="utf-8"))["data"]["init_args"]
    data = ObjaverseDataModule(**{**settings, "root": options.root, "max_objects": options.max_objects})
    data.prepare_data()
    cache = RenderCache(data.cache_dir, data.rig)
    assets = [asset for members in data.assets().values() for asset in members]
    complete = [asset.uid for asset in cache.complete(assets)]
    random.Random(0).shuffle(complete)

    options.out.parent.mkdir(parents=True, exist_ok=True)
    part = options.out.with_name(f"{options.out.name}.part")
    packed, size = 0, 0.0
    with tarfile.open(part, "w") as archive:
        archive.add(cache.folder / "render_config.json", "render_config.json")
        for uid in complete:
            files = [file for folder in cache.orbit_folders(uid) for file in sorted(folder.iterdir())]
            weight = sum(-(-file.stat().st_size // 512) * 512 + 512 for file in files) / 2**20
            if size + weight > options.limit_mib:
                break
            for file in files:
                archive.add(file, f"{file.parent.name}/{file.name}")
            packed, size = packed + 1, size + weight
    part.replace(options.out)
    print(f"{options.out}: {packed} of {len(assets)} objects, {options.out.stat().st_size / 2**20:.1f} MiB")
    return 0 if packed else 1


if __name__ == "__main__":
    sys.exit(main())

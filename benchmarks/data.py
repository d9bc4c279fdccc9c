"""Whether training waits for data: how fast batches come, what they cost in memory, and how fast a large tree opens.

    python benchmarks/data.py [--repeats N] [--json FILE] [--full [--tree ROOT]]

`loader_over_step`: views that the training loader of `ablations/recursive.yaml` gives in a second with 2 workers, over
those that a training step takes in a second. Loader and step take turns in one run; the ratio is the median over the
turns. It is taken with views that are kept in memory and with views that are read from disk every time; the lower one
counts.

`rss_growth_mb`: what the process and its 2 workers grow by over 10 epochs after a first one; the larger of the two.

`open_100k_s`: from a root to the uids of each split, as `setup` of a fit does it, the best of three. Three trees of
100,000 objects with an orbit each are made for it in a temporary folder, with all that is looked at and no pixels:
`folders` as `render` leaves them, `meshes` in the Objaverse layout whose views are in the cache, and `shards`. The
slowest one counts. `prepare_100k_s` is what a fit takes before that to find that none of the meshes must be rendered.

`render_511_s` (`--full`): `render` of the meshes of ROOT, 24 views of 128 px each, on all cores; by default of the 511
objects of `shared/data/furniture` beside the repository.
"""

import argparse
import gzip
import hashlib
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from fake_run import built, configuration
from step_cost import HEADS, TAILS, arguments, training_step

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.orbits.writing import FORMAT, FORMAT_VERSION, orbit_name
from ouroboros3d.datamodules.readers.shards import index_line, shard_name
from ouroboros3d.datamodules.rendering.cache import RenderCache
from ouroboros3d.datamodules.rendering.entries import Entry
from ouroboros3d.datamodules.rendering.folder import RenderFolder

WORKERS = 2
EPOCHS = 10
OBJECTS = 100_000
RIG = OrbitRig(orbits=1)
KEPT = {"memory": [], "disk": ["--data.memory_limit_mb=0"]}
_OPENINGS = 3
_BATCHES = 12  # of the loader in a turn, beside those that were fetched while the step had its turn
_NAMES = 10_000  # of one file: file systems allow some 65,000
_OBJECTS_A_SHARD = 1000
_FURNITURE = Path(__file__).parents[2] / "shared" / "data" / "furniture"


def data_module(scale: list[Path], kept: str) -> ObjaverseDataModule:
    """The data of a fit, ready."""
    _, data = built(configuration(*arguments("recursive", scale, f"--data.num_workers={WORKERS}", *KEPT[kept])))
    assert isinstance(data, ObjaverseDataModule)
    data.prepare_data()
    data.setup("fit")
    return data


def loader_and_step(scale: list[Path], repeats: int) -> dict[str, list[float]]:
    """Views a second of each turn by name: `step`, and the loader's with views from `memory` and `disk`."""
    model, _ = built(configuration(*arguments("recursive", scale)))
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = model.optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
    streams = {kept: endless(data_module(scale, kept)) for kept in KEPT}
    batch = next(streams["memory"]).to(model.device)
    views = batch.images_01.shape[1] + batch.target_images_01.shape[1]

    def step(coin: float) -> float:
        started = time.perf_counter()
        training_step(model, batch, coin)
        optimizer.step()
        optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return len(batch.uids) * views / (time.perf_counter() - started)

    def load(stream: Iterator[MultiviewBatch]) -> float:
        for _ in range(2 * WORKERS):  # what lay ready, and keeps both workers busy from here on
            next(stream)
        started = time.perf_counter()
        objects = sum(len(next(stream).uids) for _ in range(_BATCHES))
        return objects * views / (time.perf_counter() - started)

    chance = model.feedback_probability
    turns: dict[str, list[float]] = {"step": [], **{kept: [] for kept in KEPT}}
    for turn in range(repeats + 1):  # the first one warms up
        heads, tails = step(HEADS), step(TAILS)
        found = {"step": 1 / (chance / heads + (1 - chance) / tails)}
        found |= {kept: load(stream) for kept, stream in streams.items()}
        said = ", ".join(f"{name} {value:,.0f}" for name, value in found.items())
        print(f"turn {turn}{'' if turn else ' (warm-up)'}: views a second: {said}", file=sys.stderr)
        if turn:
            for name, value in found.items():
                turns[name].append(value)
    return turns


def endless(data: ObjaverseDataModule) -> Iterator[MultiviewBatch]:
    """Batches of one epoch after another."""
    return itertools.chain.from_iterable(itertools.repeat(data.train_dataloader()))


def growth(scale: list[Path], kept: str) -> float:
    """MiB that this process and its workers gain in all epochs after the first one."""
    loader = data_module(scale, kept).train_dataloader()
    resident = []
    for _ in range(1 + EPOCHS):
        for _ in loader:
            pass
        resident.append(sum(map(resident_mib, [os.getpid(), *(p.pid for p in multiprocessing.active_children())])))
    return resident[-1] - resident[0]


def resident_mib(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def uids() -> list[str]:
    """Made-up names, as long as Objaverse's."""
    return [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(OBJECTS)]


def linked(path: Path, number: int, source: Path, content: bytes) -> Path:
    """One of many equal files, and the one that the next of them is a second name of: a fraction of a copy's cost."""
    if number % _NAMES:
        os.link(source, path)
        return source
    path.write_bytes(content)
    return path


def description() -> bytes:
    """The `meta.json` of an orbit."""
    pose = [[1.0, 0.0, 0.0, 0.1234567]] * 4
    views = [{"transform_matrix": pose, "frames": [{"name": f"render_{view:04d}.webp"}]} for view in range(RIG.views)]
    size = {"width": RIG.image_size, "height": RIG.image_size}
    meta = {"format": FORMAT, "format_version": FORMAT_VERSION, "camera_angle_x": 0.69, **size, "locations": views}
    return json.dumps(meta).encode()


def fill(renders: RenderFolder, stat: os.stat_result) -> None:
    """All orbits and the lists of a folder whose meshes have this size and time."""
    content, source = description(), renders.folder
    with (renders.folder / "index.jsonl").open("w", encoding="utf-8") as index:
        for number, uid in enumerate(uids()):
            folder = renders.folder / orbit_name(uid, 0)
            folder.mkdir()
            source = linked(folder / "meta.json", number, source, content)
            index.write(Entry(uid, hashlib.sha256().hexdigest(), stat.st_size, stat.st_mtime_ns).to_json() + "\n")
    renders.write_lists()


def rendered_folders(place: Path) -> Path:
    renders = RenderFolder(place / "folders", RIG)
    fill(renders, place.stat())
    return renders.folder


def meshes_in_the_cache(place: Path) -> Path:
    root = place / "meshes"
    paths, source = {}, root
    for number, uid in enumerate(uids()):
        shard = f"000-{number * 160 // OBJECTS:03d}"
        paths[uid] = f"glbs/{shard}/{uid}.glb"
        (root / "glbs" / shard).mkdir(parents=True, exist_ok=True)
        source = linked(root / paths[uid], number, source, b"glTF")
        os.utime(source, (1, 1))
    (root / "object-paths.json.gz").write_bytes(gzip.compress(json.dumps(paths).encode()))
    (root / "metadata").mkdir()
    for shard in (root / "glbs").iterdir():
        about = {path.stem: {"uid": path.stem, "name": "A chair", "license": "by"} for path in shard.iterdir()}
        (root / "metadata" / f"{shard.name}.json.gz").write_bytes(gzip.compress(json.dumps(about).encode()))
    fill(RenderCache(place / "cache", RIG), source.stat())
    return root


def packed_shards(place: Path) -> Path:
    root = place / "shards"
    renders = RenderFolder(root, RIG)
    names = ["meta.json", *(f"render_{view:04d}.webp" for view in range(RIG.views))]
    lines = [
        index_line(uid, {f"{orbit_name(uid, 0)}.{name}": (8192 * place, 8000) for place, name in enumerate(names)})
        for uid in uids()
    ]
    for number, first in enumerate(range(0, OBJECTS, _OBJECTS_A_SHARD)):
        (root / shard_name(number)).touch()
        text = "".join(lines[first : first + _OBJECTS_A_SHARD])
        (root / shard_name(number)).with_suffix(".jsonl").write_text(text, encoding="utf-8")
    renders.write_lists()
    return root


TREES: dict[str, Callable[[Path], Path]] = {
    "folders": rendered_folders,
    "meshes": meshes_in_the_cache,
    "shards": packed_shards,
}


def openings() -> dict[str, float]:
    """Seconds to open each of the trees, and to look through the meshes."""
    seconds = {}
    for name, make in TREES.items():
        with tempfile.TemporaryDirectory(prefix="ouroboros3d.") as place:
            root = make(Path(place))
            taken = []
            for _ in range(_OPENINGS):
                started = time.perf_counter()
                data = ObjaverseDataModule(root, cache_dir=Path(place) / "cache", rig=RIG)
                data.setup("fit")
                taken.append(time.perf_counter() - started)
                assert sum(map(len, data.objects().values())) == OBJECTS
            seconds[f"open_{name}_s"] = min(taken)
            if name == "meshes":
                started = time.perf_counter()
                data.prepare_data()
                seconds["prepare_100k_s"] = time.perf_counter() - started
            print(f"{name}: opened in {', '.join(f'{value:.2f}' for value in taken)} s", file=sys.stderr)
    return seconds


def rendering(tree: Path) -> float:
    """Seconds that the command takes to render a whole tree.

    Raises:
        SystemExit: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="ouroboros3d.") as place:
        command = [sys.executable, "-m", "ouroboros3d", "render", str(tree), "--out", place]
        started = time.perf_counter()
        done = subprocess.run([*command, "--views", "24", "--size", "128"], check=False)
        seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"data.py: {' '.join(command[1:])} ended with code {done.returncode}.")
    return seconds


def table(found: dict[str, float]) -> str:
    rows = [
        ("loader over step, views from memory", "x", ">= 3", "loader_over_step_memory"),
        ("loader over step, views from disk", "x", ">= 3", "loader_over_step_disk"),
        ("a step takes", "views/s", "", "step_views_per_s"),
        (f"growth over {EPOCHS} epochs, views from memory", "MiB", "none", "rss_growth_mb_memory"),
        (f"growth over {EPOCHS} epochs, views from disk", "MiB", "none", "rss_growth_mb_disk"),
        *((f"{OBJECTS:,} objects open, {name}", "s", "< 1", f"open_{name}_s") for name in TREES),
        (f"of {OBJECTS:,} meshes none must be rendered", "s", "", "prepare_100k_s"),
        ("render of the tree", "s", "< 600", "render_511_s"),
    ]
    lines = ["| what | measured | target |", "|---|--:|--:|"]
    lines += [f"| {what} | {found[key]:,.2f} {unit} | {aim} |" for what, unit, aim, key in rows if key in found]
    return "\n".join(lines)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns of loader and step that are measured")
    parser.add_argument("--scale", type=Path, nargs="*", default=[], help="configurations on top of the desk scale")
    parser.add_argument("--full", action="store_true", help="also render a whole tree")
    parser.add_argument("--tree", type=Path, default=_FURNITURE, help="the meshes that --full renders")
    parser.add_argument("--json", type=Path, help="file for the values")
    options = parser.parse_args(args)
    if options.repeats < 1:
        parser.error(f"--repeats: expected at least 1, got {options.repeats}.")
    if options.full and not options.tree.is_dir():
        parser.error(f"--full: expected a folder of meshes to render, got --tree {options.tree}.")

    opened = openings()
    grown = {kept: growth(options.scale, kept) for kept in KEPT}
    turns = loader_and_step(options.scale, options.repeats)
    ratios = {
        kept: statistics.median(load / step for load, step in zip(turns[kept], turns["step"], strict=True))
        for kept in KEPT
    }
    found = {
        "loader_over_step": min(ratios.values()),
        "rss_growth_mb": max(grown.values()),
        "open_100k_s": max(seconds for key, seconds in opened.items() if key.startswith("open_")),
        **{f"loader_over_step_{kept}": ratio for kept, ratio in ratios.items()},
        **{f"{name}_views_per_s": statistics.median(values) for name, values in turns.items()},
        **{f"rss_growth_mb_{kept}": value for kept, value in grown.items()},
        **opened,
    }
    if options.full:
        found["render_511_s"] = rendering(options.tree)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

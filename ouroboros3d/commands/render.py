"""`render`: a tree of meshes to posed renders from the command line."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, get_args

import torch

from ouroboros3d.commands.render_options import parse
from ouroboros3d.datamodules.orbits.names import MapName
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.detection import open_tree
from ouroboros3d.datamodules.readers.meshes import Asset, MeshReader
from ouroboros3d.datamodules.readers.shards import ShardReader
from ouroboros3d.datamodules.readers.tree import read_uids
from ouroboros3d.datamodules.rendering.folder import RenderFolder
from ouroboros3d.datamodules.rendering.jobs import RenderWorker
from ouroboros3d.datamodules.rendering.process import RenderProcess
from ouroboros3d.datamodules.rendering.ray_workers import RayWorker, connect, disconnect, workers_per_gpu
from ouroboros3d.datamodules.rendering.shards import ShardFolder

_EXAMPLES = 10  # of objects that may be wrong
_RIG: dict[str, Any] = {"image_size": 512, "orbits": 1, "views": 16}


def run(arguments: Sequence[str]) -> None:
    """Render a tree of meshes, or go on with it.

    Args:
        arguments: the command line after `render`.

    Raises:
        ValueError: a wrong argument, tree or folder; in one line.
        OSError: the renders cannot be written.
        SystemExit: code 1 if no object could be rendered, 130 if it was interrupted.
    """
    options = parse(arguments)
    _check(options)
    given = {**vars(options), "image_size": options.size}
    rig = OrbitRig(**_RIG | {one.name: given[one.name] for one in fields(OrbitRig) if given[one.name] is not None})
    assets = _assets(options)
    maps = [name for name in get_args(MapName) if name in (options.maps or ())]
    renders = (ShardFolder if options.shards else RenderFolder)(options.out, rig, maps, up=options.up)
    started = time.monotonic()
    workers, start = _workers(options)
    try:
        renders.render(
            assets,
            workers=workers,
            timeout_s=options.timeout_s,
            retry_failed=options.retry_failed,
            surface_points=options.surface_points,
            start=start,
        )
    except KeyboardInterrupt:
        print("render: stopped; the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        if options.ray_address is not None:
            disconnect()
    if isinstance(renders, ShardFolder):
        print(f"render: {renders.pack(options.shards * 2**20)} shards in {renders.folder}")
    _report(renders, assets, options.surface_points, time.monotonic() - started)


def _workers(options: argparse.Namespace) -> tuple[int, Callable[[], RenderWorker]]:
    """How many workers there are, and what makes one: a process here, or an actor on a Ray cluster.

    Raises:
        ValueError: no such cluster.
    """
    memory_mib, device = options.memory_mib, options.device
    share = (options.gpus_per_worker or 1.0) if device == "cuda" else 0.0
    if options.ray_address is not None:
        count = connect(options.ray_address, options.workers, options.cpus_per_worker, share)
        return count, partial(RayWorker, memory_mib, options.cpus_per_worker, share, device)
    if device == "cpu":
        return options.workers or len(os.sched_getaffinity(0)), partial(RenderProcess, memory_mib)
    found = torch.cuda.device_count()
    room = found * workers_per_gpu(share)
    gpus = cycle(f"cuda:{index}" for index in range(found))
    return min(options.workers or room, room), lambda: RenderProcess(memory_mib, next(gpus))


def _check(options: argparse.Namespace) -> None:
    """Refuse what takes torch or a look into folders to know, before anything is written.

    Raises:
        ValueError: no such device, or an output that holds shards.
    """
    if options.device == "cuda" and options.ray_address is None and not torch.cuda.is_available():
        raise ValueError(
            "device: expected a CUDA device for cuda, got none that torch sees; leave it out to render on the CPU."
        )
    if not options.shards and ShardReader.matches(options.out):
        raise ValueError(f"out: expected no shards in {options.out} without --shards, got some; name another folder.")


def _assets(options: argparse.Namespace) -> list[Asset]:
    """The objects that were asked for, sorted by uid.

    Raises:
        ValueError: no tree of meshes, or nothing is left of it.
    """
    tree = open_tree(options.root, options.reader)
    if not isinstance(tree, MeshReader):
        raise ValueError(
            f"root: expected a tree of meshes, got {options.root} with posed renders ({tree.name}), which need no "
            "rendering: --data.root reads them."
        )
    given = options.uids
    named = Path(given[0]) if given and len(given) == 1 and Path(given[0]).is_file() else given
    assets = tree.select(options.categories, read_uids("uids", named))[: options.max_objects]
    if options.up:
        assets = [replace(asset, z_up=options.up == "z") for asset in assets]
    dotted = next((asset.uid for asset in assets if "." in asset.uid), None)
    if options.shards and dotted:
        raise ValueError(
            f"shards: expected uids without a dot, at which WebDataset's keys end, got {dotted!r}; rename it."
        )
    return assets


def _report(renders: RenderFolder, assets: Sequence[Asset], surface_points: int, seconds: float) -> None:
    """Say what there is now, and why the rest is not.

    Raises:
        SystemExit: code 1 if nothing is there.
    """
    done = renders.complete(assets, surface_points)
    failures = renders.failures(assets, surface_points)
    rig = renders.rig
    print(
        f"render: {len(done)} of {len(assets)} objects in {renders.folder}, {rig.orbits * rig.views} views of "
        f"{rig.image_size} px each; {seconds:.0f} s"
    )
    if failures:
        print(f"render: {len(failures)} failed, listed in {renders.folder / 'failures.jsonl'} (--retry_failed):")
        counts = Counter(entry.stage for entry in failures.values())
        for stage, count in counts.most_common():
            uid, entry = next((uid, entry) for uid, entry in failures.items() if entry.stage == stage)
            print(f"  {count:6} {stage:8} for example {uid}: {entry.error}")
    told = renders.remarkable(done)
    if doubtful := [entry for entry in told if entry.doubt]:
        print(f"render: {len(doubtful)} may be wrong, listed in {renders.folder / 'index.jsonl'}:")
        for entry in doubtful[:_EXAMPLES]:
            print(f"  {entry.uid}: {entry.doubt}")
    if notes := Counter(note for entry in told for note in entry.notes):
        print("render: what files say beside what is shown, by objects:")
        for note, count in notes.most_common():
            print(f"  {count:6} {note}")
    if not done:
        raise SystemExit(1)

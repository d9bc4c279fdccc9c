"""What damaged and hostile GLB files do to rendering: thousands of them, one by one through the real worker processes.

    python benchmarks/fuzz.py [ROOT] [--count 2000] [--seed 0] [--workers 2] [--keep FOLDER]

Each file is a copy of an object of the tree with one kind of damage, and beside the files lie a pipe, a device and
links that lead away or in a circle, which some of them name as their textures. `RenderFolder.render` renders them as
`python -m ouroboros3d render` does: 2 views of 16 pixels, with limits on time and memory. A second run must try none of
them again.

Exit status 1 if the main process meets anything but one result for each file: an exception, a file without a result,
views that cannot be read back, or a wait that does not end.
"""

import argparse
import base64
import copy
import faulthandler
import io
import json
import os
import re
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.detection import open_tree
from ouroboros3d.datamodules.readers.meshes import Asset, MeshReader
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader
from ouroboros3d.datamodules.rendering.folder import RenderFolder
from ouroboros3d.datamodules.rendering.jobs import RenderJob, RenderResult
from ouroboros3d.datamodules.rendering.process import RenderProcess
from ouroboros3d.datamodules.selection import BUNDLED

MAX_SOURCE_BYTES = 2**20  # larger objects are left out: what is tested does not depend on their size
PATIENCE_S = 120.0  # that a worker may take to start again, on a busy machine
_FLOAT = 5126
_LINKS = {"away.png": "/etc/hostname", "zero.png": "/dev/zero", "circle.png": "circle.png", "kernel.png": "/proc/kcore"}
_STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 255, 2**16, 2**31, 2**32 - 1, 2**53, 2**63, 10**20, 10**400),
    *(0.5, -0.0, float("nan"), float("inf"), -float("inf"), 1e-320, 1e38, 1e308),
    *("", "x" * 1000, "\ud800", "a\nb\0c", "../../etc/passwd", "/dev/zero", "%2e%2e/x.png", "pipe.png", *_LINKS),
    *("file:///etc/hostname", "http://localhost/x.png", "data:image/png;base64,%%%", "data:image/png;base64,AAAA"),
    *([], [[]], [0] * 1000, [float("nan")] * 16, {}, {"a": 1}, json.loads("[" * 400 + "]" * 400)),
)


def damaged(content: bytes, random: Random) -> tuple[str, bytes]:
    """A damaged copy of a GLB file, and what kind of damage it is."""
    kind = random.choices(list(DAMAGES), [_BOMBS if kind == "bomb" else 1.0 for kind in DAMAGES])[0]
    return kind, DAMAGES[kind](content, random)


def _flipped(content: bytes, random: Random) -> bytes:
    """Some bytes changed, half of the time among the header and the JSON."""
    changed = bytearray(content)
    end = random.choice([min(len(content), 20 + _json_length(content)), len(content)])
    for _ in range(random.randint(1, 8)):
        changed[random.randrange(end)] = random.randrange(256)
    return bytes(changed)


def _cut(content: bytes, random: Random) -> bytes:
    """An end or a part missing, twice, or replaced by others."""
    first, last = sorted((random.randrange(len(content)), random.randrange(len(content))))
    middle = random.choice([b"", content[first:last] * 2, bytes(last - first), random.randbytes(20)])
    changed = bytearray(content[:first] + random.choice([b"", middle + content[last:]]))
    if len(changed) >= 12 and random.random() < 0.5:
        struct.pack_into("<I", changed, 8, len(changed))  # a header that says so
    return bytes(changed)


def _header(content: bytes, random: Random) -> bytes:
    """A field of the header or of a chunk's header replaced."""
    changed = bytearray(content)
    binary = 20 + _json_length(content)
    place = random.choice([0, 4, 8, 12, 16, *([binary, binary + 4] if binary + 8 <= len(content) else [])])
    (value,) = struct.unpack_from("<I", content, place)
    others = [0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, value + 1, value - 1, value + 4, value * 2, value // 2]
    struct.pack_into("<I", changed, place, random.choice(others) % 2**32)
    return bytes(changed)


def _values(content: bytes, random: Random) -> bytes:
    """Numbers and names of the JSON replaced."""
    tree = _tree(content)
    change_values(tree, random)
    return _with_tree(content, tree)


def change_values(tree: dict[str, Any], random: Random) -> None:
    """Replace some numbers and texts of a JSON object by strange values, or scale them."""
    places = [(parent, key) for parent, key in _places(tree) if not isinstance(parent[key], dict | list)]
    for parent, key in random.sample(places, min(len(places), random.randint(1, 4))):
        if isinstance(parent[key], int | float) and random.random() < 0.5:
            parent[key] *= random.choice([-1, 2, 1000, 10**9, 2**32, 1e-30, 1e30])
        else:
            parent[key] = random.choice(_STRANGE)


def _structure(content: bytes, random: Random) -> bytes:
    """Parts of the JSON removed, repeated, exchanged or replaced, or nodes that lead in a circle."""
    tree = _tree(content)
    if random.random() < 0.1:
        random.choice(tree["nodes"])["children"] = list(range(len(tree["nodes"])))
    else:
        change_structure(tree, random)
    return _with_tree(content, tree)


def change_structure(tree: dict[str, Any], random: Random) -> None:
    """Remove, repeat, exchange or replace some parts of a JSON object."""
    for _ in range(random.randint(1, 3)):
        places = _places(tree)
        if not places:
            return
        (parent, key), (other, place) = random.choice(places), random.choice(places)
        action = random.choice(["remove", "repeat", "exchange", "replace"])
        if action == "repeat" and isinstance(parent, list):
            parent += [parent[key]] * random.choice([1, 10, 300])
            return  # repeated repetitions are too long to write
        if action == "remove":
            del parent[key]
        elif action == "replace":
            parent[key] = copy.deepcopy(random.choice(_STRANGE))
        else:
            parent[key] = copy.deepcopy(other[place])


def _numbers(content: bytes, random: Random) -> bytes:
    """Numbers of one accessor replaced by those that arithmetic breaks on; all else stays valid."""
    changed, tree = bytearray(content), _tree(content)
    accessor = random.choice([one for one in tree["accessors"] if "bufferView" in one])
    view = tree["bufferViews"][accessor["bufferView"]]
    start = 28 + _json_length(content) + view.get("byteOffset", 0)
    if accessor["componentType"] == _FLOAT:
        value = random.choice([float("nan"), float("inf"), 3e38, 1e29, -1e29, 1e20, -1e9, 1e4, 1e-30, 1e-45, -0.0])
        strange = struct.pack("<f", value)
    else:
        strange = struct.pack("<I", random.choice([0, 1, 2**16 - 1, 2**31, 2**32 - 1]))
    numbers = view["byteLength"] // 4
    for place in random.sample(range(numbers), min(numbers, random.choice([1, 3, numbers]))):
        changed[start + 4 * place : start + 4 * place + 4] = strange
    return bytes(changed)


def _bomb(content: bytes, random: Random) -> bytes:
    """Much work or memory from few bytes."""
    tree = _tree(content)
    primitive = tree["meshes"][0]["primitives"][0]
    match random.choice(["zeros", "nodes", "primitives", "image", "textures", "depth"]):
        case "zeros":  # that are not stored
            accessor = tree["accessors"][primitive["attributes"]["POSITION"]]
            accessor["count"] = random.choice([3 * 10**5, 6 * 10**6, 10**9])
            del accessor["bufferView"]
            tree["meshes"][0]["primitives"] = [{"attributes": {"POSITION": primitive["attributes"]["POSITION"]}}] * 20
        case "nodes":
            tree["nodes"] = [{"mesh": 0}] * random.choice([10_000, 200_000])
            tree["scenes"] = [{"nodes": list(range(len(tree["nodes"])))}]
            tree["scene"] = 0
        case "primitives":
            tree["meshes"][0]["primitives"] *= random.choice([1000, 10_000, 200_000])
        case "image":
            _show(tree, [random.choice([4096, 8192, 8193, 13_500])])
        case "textures":
            _show(tree, [2048] * random.choice([10, 70]))
        case "depth":
            tree["extras"] = 0
            text = json.dumps(tree).replace('"extras": 0', f'"extras": {"[" * 100_000}{"]" * 100_000}')
            return _with_text(content, text)
    return _with_tree(content, tree)


def _show(tree: dict[str, Any], sides: list[int]) -> None:
    """A mesh with one primitive for each of these square textures of one colour."""
    primitive = tree["meshes"][0]["primitives"][0]
    tree["images"], tree["textures"], tree["materials"] = [], [], []
    for index, side in enumerate(sides):
        stream = io.BytesIO()
        Image.new("1", (side, side)).save(stream, "PNG")
        tree["images"].append({"uri": "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()})
        tree["textures"].append({"source": index})
        tree["materials"].append({"pbrMetallicRoughness": {"baseColorTexture": {"index": index}}})
    tree["meshes"] = [{"primitives": [{**primitive, "material": index} for index in range(len(sides))]}]
    tree["nodes"], tree["scenes"], tree["scene"] = [{"mesh": 0}], [{"nodes": [0]}], 0


DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    "bytes": _flipped,
    "cut": _cut,
    "header": _header,
    "JSON values": _values,
    "JSON structure": _structure,
    "binary numbers": _numbers,
    "bomb": _bomb,
}
_BOMBS = 0.25  # of other kinds: one may take its whole time


def _json_length(content: bytes) -> int:
    (length,) = struct.unpack_from("<I", content, 12)
    return int(length)


def _tree(content: bytes) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(content[20 : 20 + _json_length(content)])
    return tree


def _with_tree(content: bytes, tree: dict[str, Any]) -> bytes:
    """The file with another JSON, its lengths right."""
    return _with_text(content, json.dumps(tree))


def _with_text(content: bytes, tree: str) -> bytes:
    text = tree.encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + _json_length(content) :]
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest


def _places(tree: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Every place of a JSON value: what holds it, and its key or index there."""
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [tree]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        found += [(one, key) for key in keys]
        waiting += [one[key] for key in keys]
    return found


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Args:
        damage: what kind it has.
        stage: `done`, or where it failed; empty for none.
        reason: why, without the names and numbers of this file.
    """

    damage: str
    stage: str
    reason: str = ""


class _Watched(RenderProcess):
    """A rendering process that ends this one if an answer does not come."""

    def run(self, job: RenderJob) -> RenderResult:
        faulthandler.dump_traceback_later(job.timeout_s + PATIENCE_S, exit=True, file=sys.__stderr__)
        return super().run(job)


def write_files(folder: Path, sources: list[Path], count: int, seed: int) -> dict[str, str]:
    """Write damaged copies `<uid>.glb` and what lies beside them; the damage of each by uid."""
    os.mkfifo(folder / "pipe.png")
    for name, target in _LINKS.items():
        (folder / name).symlink_to(target)
    kinds = {}
    for number in range(count):
        random = Random(f"{seed} {number}")
        kind, content = damaged(random.choice(sources).read_bytes(), random)
        uid = f"{number:06d}"
        (folder / f"{uid}.glb").write_bytes(content)
        kinds[uid] = kind
    return kinds


def outcomes(renders: RenderFolder, kinds: dict[str, str]) -> dict[str, Outcome]:
    """What the folder says of each file."""
    done, failed = renders.read_list("index.jsonl"), renders.read_list("failures.jsonl")
    found = {}
    for uid, kind in kinds.items():
        entry = done.get(uid) or failed.get(uid)
        reason = "" if entry is None else re.sub(r"^\S*\.glb: ", "", entry.error).rstrip(".")
        reason = re.sub(r"0x[0-9a-f]+|-?\d[\d.e+-]*", "N", re.sub(r"'[^']*'|\"[^\"]*\"|\[.*?\]|\{.*?\}", "...", reason))
        found[uid] = Outcome(kind, "" if entry is None else entry.stage, reason[:100])
    return found


def wrong(renders: RenderFolder, assets: list[Asset], found: dict[str, Outcome]) -> list[str]:
    """What the main process should not have met, beside exceptions."""
    problems = [f"{uid}: no result" for uid, outcome in found.items() if not outcome.stage]
    reader = Ouroboros3DReader(renders.folder)
    for uid in (uid for uid, outcome in found.items() if outcome.stage == "done"):
        try:
            views = reader.read(uid)
            for view in range(len(views)):
                views.rgba(view)
        except ValueError as error:
            problems.append(str(error))
    tried: list[str] = []
    renders.render(assets, workers=1, timeout_s=1.0, start=lambda: _Refusing(tried))
    return problems + [f"{uid}: tried again by a second run" for uid in tried]


class _Refusing:
    """A worker that renders nothing, and says what it was asked for."""

    closed = False

    def __init__(self, tried: list[str]) -> None:
        self._tried = tried

    def run(self, job: RenderJob) -> RenderResult:
        self._tried.append(job.uid)
        return RenderResult("crash", "tried again")

    def kill(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing is held."""


def tables(found: dict[str, Outcome]) -> str:
    """Files by damage and outcome, and the most frequent reasons."""
    outcome = {
        "done": "rendered",
        "load": "refused",
        "render": "not renderable",
        "memory": "memory limit",
        "timeout": "time limit",
        "crash": "worker died, replaced",
        "missing": "not read",
        "": "no result",
    }
    counts = Counter((one.damage, one.stage) for one in found.values())
    stages = [stage for stage in outcome if any(stage == one for _, one in counts)]
    kinds = [kind for kind in DAMAGES if any(kind == one for one, _ in counts)]
    lines = [
        f"| damage | {' | '.join(outcome[stage] for stage in stages)} | all |",
        "|---" + "|--:" * (len(stages) + 1) + "|",
    ]
    for kind in kinds:
        row = [counts[kind, stage] for stage in stages]
        lines.append(f"| {kind} | {' | '.join(map(str, row))} | {sum(row)} |")
    totals = [sum(counts[kind, stage] for kind in kinds) for stage in stages]
    lines += [f"| **all** | {' | '.join(map(str, totals))} | {sum(totals)} |", ""]
    reasons = Counter((one.stage, one.reason) for one in found.values() if one.stage not in ("", "done"))
    lines += ["| files | outcome | reason |", "|--:|---|---|"]
    shown = reasons.most_common(25)
    lines += [f"| {count} | {outcome[stage]} | {reason.replace('|', '/')} |" for (stage, reason), count in shown]
    others = sum(reasons.values()) - sum(count for _, count in shown)
    lines.append(f"| {others} | | {len(reasons) - len(shown)} other reasons |")
    return "\n".join(lines)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("root", type=Path, nargs="?", default=BUNDLED, help="a tree of meshes; the bundled one")
    parser.add_argument("--count", type=int, default=2000, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--timeout_s", type=float, default=10.0, help="limit for one file in seconds")
    parser.add_argument("--memory_mib", type=int, default=2048, help="limit for one file in MiB")
    parser.add_argument("--keep", type=Path, help="a new folder for the files and what became of them")
    options = parser.parse_args(args)
    if options.count < 1:
        parser.error(f"--count: expected at least 1, got {options.count}.")
    tree = open_tree(options.root)
    if not isinstance(tree, MeshReader):
        parser.error(f"root: expected a tree of meshes, got {options.root} ({tree.name}).")
    paths = [asset.path for asset in tree.select() if asset.path.suffix == ".glb" and asset.path.is_file()]
    sources = [path for path in paths if path.stat().st_size <= MAX_SOURCE_BYTES]
    if not sources:
        parser.error(f"root: expected GLB files of at most {MAX_SOURCE_BYTES} bytes in {options.root}, got none.")

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        (folder / "files").mkdir(parents=True)
        kinds = write_files(folder / "files", sources, options.count, options.seed)
        assets = [Asset(uid, folder / "files" / f"{uid}.glb") for uid in kinds]
        rig = OrbitRig(image_size=16, orbits=1, views=2, supersampling=1)
        renders = RenderFolder(folder / "renders", rig)
        started = time.monotonic()
        start = partial(_Watched, options.memory_mib)
        try:
            renders.render(assets, workers=options.workers, timeout_s=options.timeout_s, start=start)
        finally:
            faulthandler.cancel_dump_traceback_later()
        seconds = time.monotonic() - started
        found = outcomes(renders, kinds)
        problems = wrong(renders, assets, found)

    print(tables(found))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{options.count} files in {seconds:.0f} s with {options.workers} workers; main process {memory:.0f} MiB")
    for problem in problems:
        print(f"WRONG: {problem}")
    print(f"{len(problems)} problems of the main process")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import RIG, Tree, glb, write_tree

from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.objaverse import ObjaverseReader
from ouroboros3d.datamodules.readers.ouroboros3d import Ouroboros3DReader
from ouroboros3d.datamodules.readers.stored import ObjectFiles
from ouroboros3d.datamodules.rendering.cache import RenderCache
from ouroboros3d.datamodules.rendering.jobs import RenderJob, RenderResult
from ouroboros3d.datamodules.rendering.process import RenderProcess
from ouroboros3d.datamodules.splits import read_splits

# Without Lightning, which takes longer to import than all objects of the tree to render.
FILL = """
import json, sys
from pathlib import Path
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.objaverse import ObjaverseReader
from ouroboros3d.datamodules.rendering.cache import RenderCache
cache = RenderCache(Path(sys.argv[2]), OrbitRig.from_dict(json.loads(sys.argv[3])))
cache.render(ObjaverseReader(Path(sys.argv[1])).select(), workers=1, timeout_s=60)
"""


def fill_in_another_process(tree: Tree, cache_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", FILL, str(tree.root), str(cache_dir), json.dumps(RIG.as_dict())]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def orbits(cache_dir: Path) -> dict[str, torch.Tensor]:
    """Every orbit that a reader of the cache could see; reading any of them must not fail."""
    folders = [path for path in cache_dir.glob("*/*") if path.is_dir() and not path.name.startswith(".")]
    return {folder.name: read_orbit(folder) for folder in folders}


def read_orbit(folder: Path) -> torch.Tensor:
    found = Ouroboros3DReader(folder.parent).read_orbit(ObjectFiles(folder.name, folder))
    return torch.stack([found.rgba(view) for view in range(len(found))])


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def module(tree: Tree, cache_dir: Path, **changes: object) -> ObjaverseDataModule:
    return ObjaverseDataModule(root=tree.root, cache_dir=cache_dir, render_workers=1, num_views=2, rig=RIG, **changes)


def test_second_run_renders_nothing(tree: Tree, cache_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache_dir.rglob("*") if path.is_file()}
    RenderCache(cache_dir, RIG).render(ObjaverseReader(tree.root).select(), workers=1, timeout_s=60)
    after = {path: path.stat().st_mtime_ns for path in cache_dir.rglob("*") if path.is_file()}
    assert before == after


def test_everything_that_shapes_pixels_is_in_the_key(tmp_path: Path) -> None:
    changes = [
        {},
        {"image_size": 32},
        {"orbits": 3},
        {"views": 4},
        {"elevation_deg": (0.0, 10.0)},
        {"radius": 2.0},
        {"fov_deg": 40.0},
        {"supersampling": 1},
        {"light": 0.5},
        {"seed": 1},
    ]
    assert len({RenderCache(tmp_path, OrbitRig(**change)).folder for change in changes}) == len(changes)
    config = json.loads((RenderCache(tmp_path, OrbitRig()).folder / "render_config.json").read_text())
    assert config["rig"] == OrbitRig().as_dict()


def test_two_processes_share_a_cache_and_one_is_killed(tree: Tree, cache_dir: Path, tmp_path: Path) -> None:
    killed, survivor = (fill_in_another_process(tree, tmp_path) for _ in range(2))
    while not orbits(tmp_path):  # reading orbits while they are written must never fail
        assert killed.poll() is None
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    reference = orbits(cache_dir)
    assert all(torch.equal(rgba, reference[name]) for name, rgba in orbits(tmp_path).items())
    assert survivor.wait(timeout=200) == 0
    assert equal(orbits(tmp_path), reference)


def test_what_a_killed_process_leaves_is_completed(tree: Tree, cache_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache_dir, copy)
    folder = next(copy.iterdir())
    lost, unlisted = tree.all_uids[:2]
    shutil.rmtree(folder / f"{lost}-01")  # between two orbits
    index = (folder / "index.jsonl").read_text().splitlines()
    kept = [line for line in index if unlisted not in line]  # between the last orbit and the list
    (folder / "index.jsonl").write_text("\n".join([*kept, '{"uid": "made0']))  # inside a line
    abandoned, living = folder / ".made000-00.old.part", folder / ".made000-00.new.part"
    for part in (abandoned, living):  # inside an orbit
        part.mkdir()
    os.utime(abandoned, (0, 0))
    RenderCache(copy, RIG).render(ObjaverseReader(tree.root).select(), workers=1, timeout_s=60)
    assert equal(orbits(copy), orbits(cache_dir))
    assert sorted(name for names in read_splits(folder).values() for name in names) == sorted(orbits(copy))
    assert not abandoned.exists()
    assert living.exists()  # it may belong to a process that is at work


def test_broken_objects_are_listed_and_left_out(tmp_path: Path, tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    good, truncated, no_glb, missing, pipe = (*tree.uids["train"][:4], tree.uids["val"][0])
    files = {good: glb(0), truncated: glb(1)[:300], no_glb: b"hello, I am text", missing: b"", pipe: b""}
    broken = Tree(write_tree(tmp_path / "tree", files), {})
    (broken.root / f"glbs/000-007/{missing}.glb").unlink()
    (broken.root / f"glbs/000-007/{pipe}.glb").unlink()
    os.mkfifo(broken.root / f"glbs/000-007/{pipe}.glb")
    data = module(broken, tmp_path / "cache", batch_size=1)
    data.prepare_data()
    data.setup("fit")
    assert {uid for batch in data.train_dataloader() for uid in batch.uids} == {good}
    failures = tmp_path.glob("cache/*/failures.jsonl")
    lines = [json.loads(line) for line in next(failures).read_text().splitlines()]
    assert {line["uid"]: line["stage"] for line in lines} == {
        truncated: "load",
        no_glb: "load",
        missing: "missing",
        pipe: "missing",
    }
    assert all(line["error"] for line in lines)
    assert (
        "3 of 4 train objects are left out (found by render: 3; --data.retry_failed true tries again), listed in"
        in caplog.text
    )
    assert truncated in caplog.text
    # Later runs respect the list, a repaired file gets another chance, and a changed one is rendered again.
    first = orbits(tmp_path / "cache")
    (broken.root / f"glbs/000-007/{truncated}.glb").write_bytes(glb(1))
    (broken.root / f"glbs/000-007/{good}.glb").write_bytes(glb(5))
    data.prepare_data()
    assert len(next(tmp_path.glob("cache/*/failures.jsonl")).read_text().splitlines()) == 4
    data.setup("fit")
    assert {uid for batch in data.train_dataloader() for uid in batch.uids} == {good, truncated}
    second = orbits(tmp_path / "cache")
    assert set(first) == {f"{good}-00", f"{good}-01"}
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_too_slow_and_crashing_objects_are_named(tmp_path: Path, tree: Tree) -> None:
    asset = ObjaverseReader(tree.root).select(uids=tree.uids["train"][:1])[0]

    def job(timeout_s: float) -> RenderJob:
        folder = tmp_path / "out"
        folder.mkdir(exist_ok=True)
        return RenderJob(asset.uid, str(asset.path), "0", "cc0", "", str(folder), RIG.as_dict(), timeout_s)

    worker = RenderProcess()
    try:
        assert worker.run(job(0.0005)) == RenderResult("timeout", "took longer than 0.0005 s")
        assert worker.run(job(60)) == RenderResult("done")  # in a fresh process
        assert worker._process is not None
        os.kill(worker._process.pid, signal.SIGSEGV)
        crashed = worker.run(job(60))
        assert crashed.stage == "crash"
        assert "SIGSEGV" in crashed.error
    finally:
        worker.close()
    assert len(orbits(tmp_path)) == 2


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cache_dir: expected a folder that can be written"):
        RenderCache(tmp_path / "file", OrbitRig())

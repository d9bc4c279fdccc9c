"""`render`: what it writes, that it goes on after a kill, and what broken objects do to it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mesh_trees import Here, memory_hog, slab, write_meshes
from torch.testing import assert_close

from ouroboros3d.cli import main
from ouroboros3d.commands.render import _workers
from ouroboros3d.commands.render_options import parse
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.detection import open_tree
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.datamodules.rendering.jobs import RenderJob
from ouroboros3d.datamodules.rendering.worker import render_object
from ouroboros3d.datamodules.splits import read_splits, split_of
from ouroboros3d.files import sha256_of

UIDS = ["a", "b", "c"]
RIG = ["--size", "32", "--views", "4", "--supersampling", "1", "--elevation_deg", "10", "40"]
ALL = [*RIG, "--orbits", "2", "--maps", "normal", "depth", "coordinate", "--surface_points", "50"]


def files(folder: Path) -> dict[str, bytes]:
    """Every file of the orbits."""
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(folder.glob("*-??/*"))}


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_meshes(tmp_path_factory.mktemp("tree") / "meshes", {uid: slab(i) for i, uid in enumerate(UIDS)})


@pytest.fixture(scope="module")
def rendered(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All objects with everything that can be asked for; tests must not write into it."""
    out = tmp_path_factory.mktemp("renders") / "out"
    main(["render", str(meshes), "--out", str(out), "--workers", "1", *ALL])
    return out


def test_what_came_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A white object, one whose file says more, and a good one: in this run and in the next, which renders nothing."""
    white = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 3 4\n"
    coloured = white.replace(b"\n", b" 0.2 0.4 0.6\n", 4)
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes/a.glb").write_bytes(slab(0))
    (tmp_path / "meshes/b.obj").write_bytes(white)
    (tmp_path / "meshes/c.obj").write_bytes(coloured + b"l 1 2\nodd 1\n")
    for _ in range(2):
        main(["render", str(tmp_path / "meshes"), "--out", str(tmp_path / "out"), "--workers", "1", *RIG])
        said = capsys.readouterr().out
        assert f"render: 1 may be wrong, listed in {tmp_path}/out/index.jsonl:\n  b: all of one extreme colour" in said
        assert "by objects:\n       1 lines and points are left out\n       1 odd: not understood\n" in said
    entries = {
        entry["uid"]: entry for entry in map(json.loads, (tmp_path / "out/index.jsonl").read_text().splitlines())
    }
    assert entries["a"].keys() & {"doubt", "notes"} == set()
    assert entries["b"]["doubt"] == "all of one extreme colour, rgb(255, 255, 255)"
    assert entries["c"]["notes"] == ["lines and points are left out", "odd: not understood"]


def test_a_reader_finds_views_maps_and_true_geometry_that_agree(rendered: Path) -> None:
    reader = open_tree(rendered)
    assert isinstance(reader, PosedReader)
    assert (reader.name, reader.uids) == ("ouroboros3d", UIDS)
    found = reader.read("b")
    assert (len(found), found.size, found.rings) == (8, (32, 32), ((0, 1, 2, 3), (4, 5, 6, 7)))
    assert found.depth is not None
    assert found.normals is not None
    geometry = reader.true_geometry("b", 50)
    assert geometry.surface.shape == (1, 50)
    centres = (torch.arange(32) + 0.5) / 32
    uv = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).view(1, -1, 2)
    for view in range(4):  # the first orbit, whose coordinate maps the true geometry brings
        seen = found.rgba(view)[..., 3] > 127
        depth, normals, points = found.depth(view), found.normals(view), geometry.coordinates[view]
        assert torch.equal(depth > 0, seen)
        lifted = found.cameras[view : view + 1].unproject(uv, depth.view(1, -1)).view(32, 32, 3)
        # Half floats are off by up to 0.00024 scene units, a step of depth by half of 1/16384.
        assert_close(lifted[seen], points[seen], atol=4e-4, rtol=0)
        assert_close(normals.norm(dim=-1), seen.float(), atol=1e-3, rtol=0)
        rays = points - found.cameras.centres[view]
        assert bool(((normals * rays).sum(dim=-1)[seen] < 0).all()), "normals face the camera"


def test_metadata_and_lists_are_the_official_ones(rendered: Path) -> None:
    meta = json.loads((rendered / "a-00" / "meta.json").read_text())
    assert {"camera_angle_x", "locations", "format", "object", "normalization", "orbit"} <= set(meta)
    assert (meta["maps_frame"], meta["depth_unit"]) == ("opencv_yup", 1 / 16384)
    assert [location["frames"][0]["name"] for location in meta["locations"]] == [
        f"render_000{i}.webp" for i in range(4)
    ]
    lists = read_splits(rendered)
    assert sorted(name for names in lists.values() for name in names) == sorted(
        f"{uid}-0{orbit}" for uid in UIDS for orbit in range(2)
    )


def test_maps_change_no_pixel_of_what_the_cache_renders(meshes: Path, rendered: Path, tmp_path: Path) -> None:
    rig = OrbitRig(32, 2, 4, (10.0, 40.0), supersampling=1)
    path = meshes / "c.glb"
    render_object(RenderJob("c", str(path), sha256_of(path), "unknown", "", str(tmp_path), rig.as_dict(), 60))
    for name, content in files(tmp_path).items():
        if name.endswith(".webp"):
            assert content == (rendered / name).read_bytes(), name
        else:
            with_maps = json.loads((rendered / name).read_text())
            del with_maps["maps_frame"], with_maps["depth_unit"]
            assert json.loads(content) == with_maps


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seconds that a process takes to start; it calls the same function."""
    monkeypatch.setattr("ouroboros3d.commands.render.RenderProcess", lambda memory_mib: Here())


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("target", ["/proc/self/pagemap", "/proc/kmsg", "/dev/zero"])
def test_links_to_files_without_an_end_are_listed(target: str, tmp_path: Path) -> None:
    """Whoever opens the first reads 256 GiB of zeros; the second waits for the kernel to say something."""
    if not os.access(target, os.R_OK):
        pytest.skip(f"{target} cannot be read by this user")
    root, out = write_meshes(tmp_path / "tree", {"a": slab(0)}), tmp_path / "out"
    (root / "endless.ply").symlink_to(target)
    main(["render", str(root), "--out", str(out), "--workers", "1", *RIG, "--views", "2", "--orbits", "1"])
    (entry,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert entry["uid"] == "endless"
    assert (out / "a-00/meta.json").is_file()
    names = tmp_path / "names.txt"
    names.symlink_to(target)
    with pytest.raises(SystemExit):
        main(["render", str(root), "--out", str(tmp_path / "other"), *RIG, "--uids", str(names)])


@pytest.mark.usefixtures("in_this_process")
def test_names_with_spaces_are_whole_in_every_list(tmp_path: Path) -> None:
    uids = ["red chair", "red sofa", "red table"]
    assert [split_of(uid) for uid in uids] == ["test", "train", "train"]
    root, out = write_meshes(tmp_path / "tree", {uid: slab(0) for uid in uids}), tmp_path / "out"
    arguments = ["render", str(root), "--out", str(out), "--workers", "1", *RIG, "--views", "2", "--orbits", "1"]
    main([*arguments, "--max_objects", "2"])
    assert read_splits(out) == {"train": ["red sofa-00"], "val": [], "test": ["red chair-00"]}
    main(arguments)
    assert read_splits(out) == {"train": ["red sofa-00", "red table-00"], "val": [], "test": ["red chair-00"]}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    for again in (arguments, [*arguments, "--max_objects", "2"]):
        main(again)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    skipped = tmp_path / "skip_uids.txt"
    skipped.write_text("red table\tits camera is wrong\n")
    data = ObjaverseDataModule(root=out, skip_uids=skipped)
    assert data.objects() == {"train": ["red sofa"], "val": [], "test": ["red chair"]}
    skipped.write_text("red chair\nred table\n")
    main([*arguments, "--uids", str(skipped)])
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


@pytest.mark.usefixtures("in_this_process")
def test_radius_and_light_reach_the_cameras_and_the_pixels(meshes: Path, rendered: Path, tmp_path: Path) -> None:
    def read(out: Path) -> tuple[np.ndarray, torch.Tensor]:
        meta = json.loads((out / "a-00/meta.json").read_text())
        poses = np.array([location["transform_matrix"] for location in meta["locations"]])
        tree = open_tree(out)
        assert isinstance(tree, PosedReader)
        return np.linalg.norm(poses[:, :3, 3], axis=1), tree.read("a").rgba(0)

    def render(name: str, *options: str) -> tuple[np.ndarray, torch.Tensor]:
        main(["render", str(meshes), "--out", str(tmp_path / name), "--uids", "a", "--workers", "1", *RIG, *options])
        return read(tmp_path / name)

    radius, pixels = read(rendered)
    np.testing.assert_allclose(radius, 1.7417, rtol=1e-5)
    far, smaller = render("far", "--orbits", "2", "--radius", "2.5")
    np.testing.assert_allclose(far, 2.5, rtol=1e-5)
    assert (smaller[..., 3] > 127).sum() < (pixels[..., 3] > 127).sum()
    _, lit = render("lit", "--orbits", "2", "--light", "1")
    assert torch.equal(lit[..., 3], pixels[..., 3])
    seen = pixels[..., 3] > 127
    assert (lit[seen][:, :3] <= pixels[seen][:, :3]).all()
    assert lit[seen][:, :3].float().mean() < pixels[seen][:, :3].float().mean() - 1


def test_depth_reaches_the_far_side_of_the_object_from_any_radius(meshes: Path, tmp_path: Path) -> None:
    rig = OrbitRig(32, 1, 2, (10.0, 40.0), radius=9.0, fov_deg=8.0, supersampling=1)
    path = meshes / "c.glb"
    render_object(RenderJob("c", str(path), "", "", "", str(tmp_path), rig.as_dict(), 60, maps=("depth",)))
    reader = open_tree(tmp_path, "ouroboros3d")
    assert isinstance(reader, PosedReader)
    depth = reader.read("c").depth
    assert depth is not None
    assert json.loads((tmp_path / "c-00/meta.json").read_text())["depth_unit"] == 1 / 4096
    assert 8.4 < depth(0)[depth(0) > 0].min() < depth(0).max() < 9.6


def test_killed_at_any_time_the_same_command_goes_on(meshes: Path, rendered: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["render", str(meshes), "--out", str(out), "--workers", "1", *ALL]
    command = subprocess.Popen([sys.executable, "-m", "ouroboros3d", *arguments], stdout=subprocess.DEVNULL)
    while not list(out.glob("?-00/meta.json")):
        assert command.poll() is None
        time.sleep(0.01)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    known = files(rendered)
    assert all(known[name] == content for name, content in files(out).items())
    finished = {path: path.stat().st_mtime_ns for path in out.glob("?-00/meta.json")}
    main(arguments)
    assert files(out) == known
    assert finished == {path: path.stat().st_mtime_ns for path in finished}


def test_broken_objects_are_listed_respected_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"cut": slab(1)[:300], "hungry": memory_hog(), "text": b"hello"}
    root = write_meshes(tmp_path / "tree", {"good": slab(0), **broken, "huge": b""})
    (huge,) = root.rglob("huge.glb")
    os.truncate(huge, 2**41)  # without blocks: hashing it would take hours
    out = tmp_path / "out"
    arguments = ["render", str(root), "--out", str(out), "--workers", "1", "--memory_mib", "1024", *RIG]
    main(arguments)
    listed = out / "failures.jsonl"
    entries = {line["uid"]: line for line in map(json.loads, listed.read_text().splitlines())}
    assert {uid: entry["stage"] for uid, entry in entries.items()} == {
        "cut": "load",
        "huge": "missing",
        "hungry": "memory",
        "text": "load",
    }
    assert all(entry["error"] for entry in entries.values())
    printed = capsys.readouterr().out
    assert "1 of 5 objects" in printed
    assert f"4 failed, listed in {listed}" in printed
    assert "2 load" in printed
    before = listed.read_bytes()
    names = read_splits(out)
    (out / "val.txt").unlink()  # as if killed right before the lists were written
    main(arguments)
    assert listed.read_bytes() == before, "later runs respect the list"
    assert read_splits(out) == names
    with pytest.raises(SystemExit) as nothing:
        main([*arguments, "--uids", "cut", "text", "--retry_failed"])
    assert nothing.value.code == 1
    assert len(listed.read_text().splitlines()) == 6, "tried again"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["--views", "5"], "views 4 instead of 5; name another folder"),
        (["--maps", "depth"], "maps depth normal coordinate instead of depth"),
        (["--size", "0"], "size: expected at least 1, got 0"),
        (["--timeout_s", "0"], "timeout_s: expected a positive number of seconds"),
        (["--memory_mib", "100"], "memory_mib: expected at least 1024"),
        (["--fov_deg", "0.6"], "radians need"),
        (["--uids", "nobody"], "got 'nobody'"),
        (["--categories", "chair"], "has the format meshes, which has none"),
        (["--reader", "lgm"], "argument --reader: invalid choice"),
        (["--sise", "3"], "unrecognized arguments: --sise"),
        (["--up", "z"], "up as the files say instead of z; name another folder"),
        (["--up", "x"], "argument --up: invalid choice"),
        (["--device", "tpu"], "argument --device: invalid choice"),
        (["--gpus_per_worker", "0.5"], "gpus_per_worker: expected --device cuda beside it, got cpu"),
        (["--cpus_per_worker", "0"], "cpus_per_worker: expected a positive number"),
    ],
)
def test_a_wrong_option_is_one_line(
    meshes: Path, rendered: Path, changes: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(["render", str(meshes), "--out", str(rendered), *ALL, *changes])
    assert error.value.code == 2
    line = capsys.readouterr().err
    assert expected in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("found", "options", "expected"),
    [
        (False, [], "device: expected a CUDA device for cuda, got none that torch sees; leave it out"),
        (True, ["--gpus_per_worker", "1.5"], "gpus_per_worker: expected a share of a GPU, .* got 1.5"),
        (True, ["--gpus_per_worker", "0"], "gpus_per_worker: expected a share of a GPU, .* got 0"),
    ],
)
def test_a_gpu_that_is_not_there_is_said_before_anything_is_written(
    found: bool, options: list[str], expected: str, meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUROBOROS3D_DEBUG", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    with pytest.raises(ValueError, match=expected):
        main(["render", str(meshes), "--out", str(tmp_path / "out"), *RIG, "--device", "cuda", *options])
    assert not (tmp_path / "out").exists()


def test_workers_of_this_machine_share_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    arguments = [str(tmp_path), "--out", "renders", "--device", "cuda", "--gpus_per_worker", "0.5"]
    count, start = _workers(parse(arguments))
    assert (count, [start()._device for _ in range(count)]) == (4, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"])
    assert _workers(parse([*arguments, "--workers", "3"]))[0] == 3
    assert _workers(parse([*arguments, "--workers", "9"]))[0] == 4


def test_a_wrong_folder_is_one_line(meshes: Path, rendered: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").touch()
    for root, out, expected in [
        (tmp_path / "nowhere", tmp_path / "out", "root: expected a folder with meshes, got .*nowhere, which does not"),
        (tmp_path / "file", tmp_path / "out", "which is a file"),
        (rendered, tmp_path / "out", r"posed renders \(ouroboros3d\), which need no rendering"),
        (meshes, meshes / "renders", "out: expected a folder outside of the tree"),
        (meshes, full, "out: expected a new or empty folder.* with thesis.tex"),
        (meshes, tmp_path / "file/out", "out: expected a folder that can be written"),
    ]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OUROBOROS3D_DEBUG", "1")
            with pytest.raises(ValueError, match=expected):
                main(["render", str(root), "--out", str(out), *RIG])

"""Rendering on a Ray cluster of this machine: the same files as without it, whatever is killed, where there is room."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh_trees import Here, slab, write_meshes

from ouroboros3d.cli import main
from ouroboros3d.datamodules.orbits.maps import MapName
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.readers.meshes import MeshFolderReader
from ouroboros3d.datamodules.rendering.folder import RenderFolder
from ouroboros3d.datamodules.rendering.jobs import RenderJob
from ouroboros3d.datamodules.rendering.ray_workers import RayWorker, _room, connect, disconnect

UIDS = [f"thing{number}" for number in range(8)]
MAPS: tuple[MapName, ...] = ("depth", "normal", "coordinate")
OPTIONS = ["--size", "128", "--views", "8", "--orbits", "3", "--elevation_deg", "10", "40", "--maps", *MAPS]
RIG = OrbitRig(128, 3, 8, (10.0, 40.0))


def rendering_processes() -> dict[int, int]:
    """Rendering processes of the actors below this process, each with its actor."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name may hold spaces and brackets; what follows the last bracket does not.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = {}
    for process, name in names.items():
        above = actor = parents[process]
        while above > 1 and above != os.getpid():
            above = parents.get(above, 0)
        if above == os.getpid() and b"rendering.worker" in name and b"_Actor" in names.get(actor, b""):
            found[process] = actor
    return found


def half_rendered(folder: Path) -> set[str]:
    """Objects of which some files are there and not all; their orbits appear in falling order."""
    begun = {path.name.strip(".").rpartition("-")[0] for path in folder.glob("*-0?*")}
    return {uid for uid in begun if not (folder / f"{uid}-00/meta.json").is_file()}


def is_stopped(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def kill_one_in_the_middle(folder: Path, killed: list[int]) -> None:
    """End an actor and its rendering process, as a lost machine does, while each of two is half through an object."""
    while not killed:
        processes = rendering_processes()
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        while not all(map(is_stopped, processes)):
            time.sleep(0.001)
        if len(processes) == len(half_rendered(folder)) == 2:
            process, actor = processes.popitem()
            for one in (actor, process):
                os.kill(one, signal.SIGKILL)
            killed += [actor, process]
        for process in processes:
            os.kill(process, signal.SIGCONT)
        time.sleep(0.03)


def content(folder: Path) -> dict[str, object]:
    """Every file of a folder of renders; the index by its lines, which come in the order in which objects are done."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.relative_to(folder).parts[0][0] == "."]
    lines = sorted((folder / "index.jsonl").read_text().splitlines())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files} | {"index.jsonl": lines}


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_an_object_changes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_meshes(tmp_path / "tree", {uid: slab(index) for index, uid in enumerate(UIDS)})
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    RenderFolder(undisturbed, RIG, MAPS).render(MeshFolderReader(root).select(), workers=1, timeout_s=60, start=Here)
    killed: list[int] = []
    killer = threading.Thread(target=kill_one_in_the_middle, args=(out, killed), daemon=True)
    killer.start()
    main(["render", str(root), "--out", str(out), *OPTIONS, "--ray_address", "local", "--workers", "2"])
    killer.join(timeout=10)
    assert killed
    assert "8 of 8 objects" in capsys.readouterr().out
    assert content(out) == content(undisturbed)


def test_room_is_what_whole_actors_find_on_one_machine() -> None:
    assert _room({"CPU": 7.0}, 2.0, 0.0) == 3
    assert _room({"CPU": 1.0, "GPU": 4.0}, 2.0, 0.0) == 0
    assert _room({"CPU": 64.0, "GPU": 2.0}, 1.0, 0.2) == 10
    assert _room({"CPU": 64.0, "GPU": 2.0}, 1.0, 0.4) == 4  # two on each, whose fifths are left over
    assert _room({"CPU": 3.0, "GPU": 2.0}, 1.0, 0.5) == 3
    assert _room({"CPU": 64.0}, 1.0, 1.0) == 0


@pytest.fixture
def address(here: Path) -> Iterator[str]:
    """A cluster of one machine with two CPUs and two GPUs, which are there in name only."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
def test_actors_reserve_what_they_are_told_to(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    root = write_meshes(tmp_path / "tree", {"thing": slab(0)})
    command = ["render", str(root), "--out", str(tmp_path / "out"), "--ray_address", address]
    for options, expected in [
        (["--device", "cuda"], "starts on cuda with 6144 MiB, got exit status 1: expected a CUDA device, got none"),
        (["--cpus_per_worker", "3"], "expected a machine of the cluster that has them, got 3 and 0 on 2 CPUs, 2 GPUs"),
    ]:
        with pytest.raises(SystemExit):
            main([*command, *options])
        assert expected in capsys.readouterr().err.splitlines()[-1]
    assert connect(address, None, 0.25, 0.5) == 4
    try:
        worker = RayWorker(2048, 0.25, 0.5)
        folder = tmp_path / "views"
        folder.mkdir()
        rig = OrbitRig(16, 1, 2, supersampling=1).as_dict()
        job = RenderJob("thing", str(root / "thing.glb"), "", "", "", str(folder), rig, 60)
        assert worker.run(job).stage == "done"
        assert (folder / "thing-00/meta.json").is_file()
        left = ray.available_resources()
        assert (left["CPU"], left["GPU"]) == (1.75, 1.5)
        worker.close()
    finally:
        disconnect()


@pytest.mark.slow
def test_a_machine_without_this_package_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray.cluster_utils import Cluster

    root = write_meshes(here / "tree", {"thing": slab(0)})
    (here / "other/ouroboros3d").mkdir(parents=True)
    (here / "other/ouroboros3d/__init__.py").write_text("raise ImportError('nothing is installed here')")
    with monkeypatch.context() as machine:
        machine.setenv("PYTHONPATH", str(here / "other"))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        with pytest.raises(SystemExit):
            main(["render", str(root), "--out", str(here / "out"), "--ray_address", cluster.address])
    finally:
        cluster.shutdown()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(
        "expected ouroboros3d on every machine of the cluster, got ImportError: nothing is installed here"
    )
    assert not (here / "out/failures.jsonl").exists()


_OWN_CLUSTER = """
import os, subprocess, sys
from ouroboros3d.datamodules.rendering.ray_workers import connect, disconnect
connect("local", 1, 1.0)
import ray
address = ray.get_runtime_context().gcs_address
join = '''
import ray, sys
ray.init(sys.argv[1], log_to_driver=False)
print(ray.get(ray.remote(lambda: 'let in').remote()))
'''
for more in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}, {}):
    command = [sys.executable, "-c", join, address]
    ended = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True)
    print(ended.returncode, "let in" in ended.stdout)
disconnect()
"""


@pytest.mark.slow  # Ray takes its time to give up
def test_a_cluster_of_this_machine_lets_nobody_in_without_its_token(here: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", _OWN_CLUSTER]
    ended = subprocess.run(command, env={**variables, "HOME": str(here)}, capture_output=True, text=True)
    assert ended.stdout.splitlines() == ["1 False", "1 False", "0 True"], ended.stderr
    assert not (here / ".ray/auth_token").exists(), "no token is kept"


@pytest.mark.slow  # Ray takes its time to find nobody
def test_a_cluster_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_meshes(tmp_path / "tree", {"thing": slab(0)})
    arguments = ["render", str(root), "--out", str(tmp_path / "out"), "--ray_address"]
    for address, expected in [("auto", "expected a Ray cluster at auto"), ("127.0.0.1:1", "cluster at 127.0.0.1:1")]:
        with pytest.raises(SystemExit) as error:
            main([*arguments, address])
        assert error.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("ouroboros3d: error: ray_address: ")
        assert expected in line

    def too_busy(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # Ray's own words on a machine under load

    monkeypatch.setattr("ray.init", too_busy)
    with pytest.raises(SystemExit):
        main([*arguments, "local"])
    assert "expected a Ray cluster at local, got The current node timed out" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit):
        main([*arguments, "local"])
    assert "pip install 'ouroboros3d[ray]'" in capsys.readouterr().err

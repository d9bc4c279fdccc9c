"""Rendering on a Ray cluster of this machine: the same bytes as without it, whatever is killed."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh_trees import Here, slab, write_meshes

from ouroboros3d.cli import main
from ouroboros3d.datamodules.orbits import OrbitRig
from ouroboros3d.datamodules.readers.meshes import MeshFolderReader
from ouroboros3d.datamodules.render_folder import RenderFolder

UIDS = [f"thing{number}" for number in range(8)]
OPTIONS = "--size 128 --views 8 --elevation_deg 10 40 --maps depth".split()
RIG = OrbitRig(128, 1, 8, (10.0, 40.0))


def actors() -> Iterator[int]:
    """Process ids of the cluster's actors below this process."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name may hold spaces and brackets; what follows the last bracket does not.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
    for process, name in names.items():
        above = process
        while above > 1 and above != os.getpid():
            above = parents.get(above, 0)
        if above == os.getpid() and b"_Actor.run" in name:
            yield process


@pytest.mark.slow
def test_a_worker_killed_mid_run_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_meshes(tmp_path / "tree", {uid: slab(index) for index, uid in enumerate(UIDS)})
    local, out = tmp_path / "local", tmp_path / "out"
    RenderFolder(local, RIG, ("depth",)).render(MeshFolderReader(root).select(), workers=1, timeout_s=60, start=Here)
    killed = []

    def kill() -> None:
        while not list(out.glob("*/meta.json")):
            time.sleep(0.005)
        while not killed:
            for process in actors():
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                break

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    main(["render", str(root), "--out", str(out), *OPTIONS, "--ray-address", "local", "--workers", "2"])
    killer.join(timeout=10)
    assert killed
    assert "8 of 8 objects" in capsys.readouterr().out
    assert not (out / "failures.jsonl").exists()

    def content(folder: Path) -> dict[str, bytes]:
        names = [*folder.glob("*-00/*"), *folder.glob("*.txt"), folder / "render_config.json"]
        return {str(path.relative_to(folder)): path.read_bytes() for path in names}

    assert content(out) == content(local)


@pytest.mark.slow  # Ray takes its time to find nobody
def test_a_cluster_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_meshes(tmp_path / "tree", {"thing": slab(0)})
    arguments = ["render", str(root), "--out", str(tmp_path / "out"), "--ray-address"]
    for address, expected in [("auto", "expected a Ray cluster at auto"), ("127.0.0.1:1", "cluster at 127.0.0.1:1")]:
        with pytest.raises(SystemExit) as error:
            main([*arguments, address])
        assert error.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("ouroboros3d: error: ray-address: ")
        assert expected in line
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit):
        main([*arguments, "local"])
    assert "pip install 'ouroboros3d[ray]'" in capsys.readouterr().err

"""Rendering on a GPU: the CPU's views to rounding, the same bytes every time, within the limits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mesh_trees import memory_hog, slab, write_meshes
from PIL import Image

from ouroboros3d.cli import main
from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.rendering.jobs import RenderJob
from ouroboros3d.datamodules.rendering.process import RenderProcess
from ouroboros3d.datamodules.rendering.worker import render_object

pytestmark = pytest.mark.gpu

RIG = ["--size", "64", "--views", "4", "--elevation_deg", "10", "40", "--surface_points", "50"]


def files(folder: Path) -> dict[str, bytes]:
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(folder.glob("*-??/*"))}


def test_views_are_those_of_the_cpu_and_the_same_every_time(tmp_path: Path) -> None:
    root = write_meshes(tmp_path / "tree", {f"thing{index}": slab(index) for index in range(3)})
    found = {}
    for name, options in {"cpu": [], "gpu": ["--device", "cuda"], "again": ["--device", "cuda"]}.items():
        shared = ["--gpus_per_worker", "0.5"] if name == "again" else []
        main(["render", str(root), "--out", str(tmp_path / name), *RIG, *options, *shared])
        found[name] = files(tmp_path / name)
    assert found["gpu"] == found["again"]
    assert found["gpu"].keys() == found["cpu"].keys()
    for name in found["cpu"]:
        if name.endswith(".webp"):
            on_cpu, on_gpu = (np.asarray(Image.open(tmp_path / device / name), dtype=int) for device in ("cpu", "gpu"))
            # Rounding moves a sample across an edge now and then; a wrong device or camera moves everything.
            assert (abs(on_cpu - on_gpu).max(axis=-1) > 2).mean() < 0.01, name


def test_an_object_that_wants_too_much_memory_is_listed_and_the_next_one_rendered(tmp_path: Path) -> None:
    root = write_meshes(tmp_path / "tree", {"hog": memory_hog(), "thing": slab(0)})
    small, large = OrbitRig(32, 1, 2, supersampling=1), OrbitRig(2048, 1, 8, supersampling=1)
    job = RenderJob("thing", str(root / "thing.glb"), "", "", "", str(tmp_path), small.as_dict(), 60)
    worker = RenderProcess(1024, "cuda")
    try:
        assert worker.run(replace(job, path=str(root / "hog.glb"))).stage == "memory"  # of the host's
        assert worker.run(replace(job, rig=large.as_dict())).stage == "memory"  # of the GPU's: 1.5 GB of sums
        assert worker.run(job).stage == "done"
    finally:
        worker.close()


def test_a_mesh_with_textures_is_rendered_on_the_gpu_in_this_process(tmp_path: Path) -> None:
    from ouroboros3d.datamodules.readers.objaverse import ObjaverseReader
    from ouroboros3d.datamodules.selection import BUNDLED

    asset = ObjaverseReader(BUNDLED).select()[0]
    rig = OrbitRig(32, 1, 2).as_dict()
    job = RenderJob(asset.uid, str(asset.path), "", "", "", str(tmp_path), rig, 60, 50, ("depth", "normal"))
    assert render_object(job, "cuda").stage == "done"


@pytest.mark.slow
def test_an_actor_renders_on_the_gpu_that_ray_reserves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_meshes(tmp_path / "tree", {f"thing{index}": slab(index) for index in range(3)})
    command = ["render", str(root), "--out", str(tmp_path / "out"), *RIG, "--ray_address", "local"]
    main([*command, "--device", "cuda", "--gpus_per_worker", "0.5", "--workers", "2"])
    assert "3 of 3 objects" in capsys.readouterr().out

"""What a rendering process draws, makes of failures that only a GPU has, and counts as its memory."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import glb
from PIL import Image
from rendered_pixels import PICTURE, rendered_pixels

from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.rendering.jobs import RenderJob
from ouroboros3d.datamodules.rendering.worker import render_object
from ouroboros3d.datamodules.untrusted import allocated_bytes
from ouroboros3d.renderers.meshes import MeshRenderer


@pytest.fixture
def job(tmp_path: Path) -> RenderJob:
    (tmp_path / "thing.glb").write_bytes(glb(0))
    rig = OrbitRig(16, 1, 2, supersampling=1)
    return RenderJob("thing", str(tmp_path / "thing.glb"), "", "", "", str(tmp_path), rig.as_dict(), 60)


def test_a_full_gpu_is_the_objects_fault_and_a_broken_one_is_not(
    job: RenderJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(MeshRenderer, "straight", fail)
    error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
    assert render_object(job).stage == "memory"
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(torch.AcceleratorError):  # the process ends, and the next object gets another one
        render_object(job)
    error = RuntimeError("a matrix is singular")
    assert render_object(job).stage == "render"


def test_the_version_of_the_renderer_stands_for_its_pixels() -> None:
    """A cache serves what an older commit rendered for as long as the version is the same."""
    drawn, kept = rendered_pixels().astype(int), np.asarray(Image.open(PICTURE)).astype(int)
    assert (kept[..., 3] > 0).mean() > 0.1
    # Another processor may round one of 255 levels the other way; a changed renderer moves edges or colours.
    other = (np.abs(drawn - kept) > 1).any(axis=-1).mean()
    assert other < 0.001, f"{other:.1%} of the pixels differ: raise RENDERER_VERSION, and run tests/rendered_pixels.py"


def test_allocated_memory_is_what_the_limit_counts() -> None:
    gc.collect()  # what other tests left behind would be given back in between
    before = allocated_bytes()
    block = np.ones(2**26, dtype=np.uint8)
    grown = allocated_bytes() - before
    del block
    assert 2**26 <= grown < 2**26 + 2**22
    assert abs(allocated_bytes() - before) < 2**22

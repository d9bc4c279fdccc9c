"""Plain folders of meshes: which files are objects, and that those which are left out are named."""

import logging
from pathlib import Path

import pytest

from ouroboros3d.datamodules.readers.meshes import MeshFolderReader


def tree(root: Path, *names: str) -> MeshFolderReader:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return MeshFolderReader(root)


def test_meshes_that_are_left_out_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    reader = tree(tmp_path, "chair.glb", "lamp.gltf", "lamp.bin", "vase/vase.STL", "vase/model.obj", "sets/a/cup.glb")
    with caplog.at_level(logging.WARNING):
        assert reader.uids == ["chair", "vase"]
        assert reader.assets(["chair"])[0].path == tmp_path / "chair.glb"
    others, deeper = [record.getMessage() for record in caplog.records]  # each once
    assert others.startswith("root: left out lamp.gltf, vase/vase.STL: in a format that is not read (.glb, .obj, .ply")
    assert deeper.startswith(f"root: left out sets/a/cup.glb: in folders more than one level below {tmp_path};")


def test_many_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    reader = tree(tmp_path, "chair.glb", *(f"{number}.stl" for number in range(8)))
    assert reader.uids == ["chair"]
    assert "left out 0.stl, 1.stl, 2.stl, 3.stl, 4.stl and 3 more: " in caplog.text


def test_nothing_is_said_of_what_belongs_to_a_mesh(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    reader = tree(tmp_path, "chair/model.obj", "chair/model.mtl", "chair/textures/wood.png", "chair/.model.stl")
    assert reader.uids == ["chair"]
    assert caplog.records == []

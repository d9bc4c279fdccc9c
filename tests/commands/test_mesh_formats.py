"""`render` on folders of every format of meshes: one object gives the same views whichever it is stored in."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from mesh_trees import Here
from PIL import Image

from ouroboros3d.cli import main
from ouroboros3d.commands import render as command

RIG = ["--size", "48", "--views", "3", "--elevation_deg", "20", "40"]
RED, BLUE = (255, 0, 0), (0, 0, 255)  # alike in linear light and in sRGB


def parts() -> list[tuple[trimesh.Trimesh, tuple[int, int, int]]]:
    """A blue mast on a red foot, away from its middle: no turn of it looks the same."""
    foot, mast = trimesh.creation.box([1.0, 0.1, 0.6]), trimesh.creation.box([0.1, 1.2, 0.2])
    mast.apply_translation([0.3, 0.65, 0.1])
    return [(foot, RED), (mast, BLUE)]


def z_up(points: np.ndarray) -> np.ndarray:
    return points[:, [0, 2, 1]] * [1, -1, 1]


def as_is(points: np.ndarray) -> np.ndarray:
    return points


def glb(folder: Path) -> None:
    meshes = []
    for mesh, colour in parts():
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=[*colour, 255], alphaMode="OPAQUE")
        mesh.visual = trimesh.visual.TextureVisuals(material=material)
        meshes.append(mesh)
    content = trimesh.Scene(meshes).export(file_type="glb")
    assert isinstance(content, bytes)
    folder.mkdir()
    (folder / "lamp.glb").write_bytes(content)


def ply(folder: Path, turned: Callable[[np.ndarray], np.ndarray]) -> None:
    meshes = [
        trimesh.Trimesh(turned(mesh.vertices), mesh.faces, vertex_colors=np.tile([*colour, 255], (8, 1)))
        for mesh, colour in parts()
    ]
    folder.mkdir()
    trimesh.util.concatenate(meshes).export(folder / "lamp.ply")


def obj_text(turned: Callable[[np.ndarray], np.ndarray], materials: list[str]) -> str:
    """With a texture whose left half is red and whose right half is blue, or with a material for each part."""
    lines, first = ["mtllib model.mtl", "vt 0.25 0.5", "vt 0.75 0.5"], 1
    for number, (mesh, _) in enumerate(parts()):
        lines += [f"usemtl {materials[number]}", *("v {} {} {}".format(*point) for point in turned(mesh.vertices))]
        lines += ["f " + " ".join(f"{first + corner}/{number + 1}" for corner in face) for face in mesh.faces]
        first += len(mesh.vertices)
    return "\n".join(lines) + "\n"


def obj(folder: Path, turned: Callable[[np.ndarray], np.ndarray]) -> None:
    (folder / "lamp").mkdir(parents=True)
    (folder / "lamp/model.obj").write_text(obj_text(turned, ["red", "blue"]))
    (folder / "lamp/model.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n")


def google_scanned_objects(folder: Path) -> None:
    scan = folder / "lamp"
    for inside in ("meshes", "materials/textures"):
        (scan / inside).mkdir(parents=True)
    (scan / "metadata.pbtxt").write_text('name: "lamp"\n')
    (scan / "meshes/model.obj").write_text(obj_text(z_up, ["material_0"] * 2))
    (scan / "meshes/model.mtl").write_text("newmtl material_0\nmap_Kd texture.png\n")
    texture = Image.new("RGB", (8, 4), RED)
    texture.paste(BLUE, (4, 0, 8, 4))
    texture.save(scan / "materials/textures/texture.png")


def views(root: Path, *options: str) -> np.ndarray:
    """The views of the one object of a tree, rendered by the command in this process, [V, H, W, 4]."""
    out = root.with_name(f"{root.name}{''.join(options)}_views")
    main(["render", str(root), "--out", str(out), *RIG, *options])
    pictures = [io.BytesIO(path.read_bytes()) for path in sorted((out / "lamp-00").glob("render_*.webp"))]
    assert len(pictures) == 3
    return np.stack([np.asarray(Image.open(picture), dtype=int) for picture in pictures])


def differing(left: np.ndarray, right: np.ndarray) -> float:
    """The share of pixels that differ by more than rounding."""
    return float((abs(left - right).max(axis=-1) > 2).mean())


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The views of the GLB file; everything is rendered in this process, as all objects are known to be harmless."""
    monkeypatch.setattr(command, "_workers", lambda options: (1, Here))
    glb(tmp_path / "glb")
    return views(tmp_path / "glb")


def test_a_lamp_is_the_same_in_every_format(expected: np.ndarray, tmp_path: Path) -> None:
    solid = expected[expected[..., 3] == 255][:, :3]
    assert (solid == RED).all(axis=-1).sum() > 100
    assert (solid == BLUE).all(axis=-1).sum() > 100
    obj(tmp_path / "obj", as_is)
    ply(tmp_path / "ply", as_is)
    google_scanned_objects(tmp_path / "scans")
    for name in ("obj", "ply", "scans"):
        assert differing(views(tmp_path / name), expected) < 0.002, name


def test_up_turns_files_whose_up_axis_no_format_says(expected: np.ndarray, tmp_path: Path) -> None:
    for name, write in {"obj": obj, "ply": ply}.items():
        write(tmp_path / name, z_up)
        assert differing(views(tmp_path / name), expected) > 0.05, "it lies on its side"
        assert differing(views(tmp_path / name, "--up", "z"), expected) < 0.002, name
    google_scanned_objects(tmp_path / "scans")
    assert differing(views(tmp_path / "scans", "--up", "y"), expected) > 0.05

"""An object is framed by what is seen of it, and keeps its shape wherever it lies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glb_writer import TRIANGLE, Glb
from torch.testing import assert_close

from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.meshes.loading import load_mesh
from ouroboros3d.renderers.meshes import TexturedMesh
from ouroboros3d.renderers.textured_mesh import faces_with_area

FAR = np.add(TRIANGLE, [40, 0, 0])


def load(glb: Glb, folder: Path) -> TexturedMesh:
    (folder / "asset.glb").write_bytes(glb.content())
    return load_mesh(folder / "asset.glb")


def add(glb: Glb, vertices: Any, material: int | None = None, node: Any = None, **mesh: Any) -> None:
    material_of = {} if material is None else {"material": material}
    glb.node(mesh=glb.mesh(vertices, [0, 1, 2], **mesh, **material_of), **(node or {}))


UNSEEN: dict[str, Callable[[Glb], Any]] = {
    "scale 0": lambda g: add(g, TRIANGLE, node={"scale": [0, 0, 0], "translation": [40, 0, 0]}),
    "scale of next to 0": lambda g: add(g, TRIANGLE, node={"scale": [1e-7] * 3, "translation": [40, 0, 0]}),
    "no width": lambda g: add(g, TRIANGLE, node={"scale": [0, 1, 0], "translation": [40, 0, 0]}),
    "a line": lambda g: add(g, [[0, 0, 0], [10, 20, 30], [30, 60, 90]]),
    "a corner twice": lambda g: add(g, [FAR[0], FAR[1], FAR[1]]),
    "alpha 0": lambda g: add(g, FAR, g.material(factor=(1, 1, 1, 0), alphaMode="BLEND")),
    "alpha of next to 0": lambda g: add(g, FAR, g.material(factor=(1, 1, 1, 0.001), alphaMode="BLEND")),
    "below the cutoff": lambda g: add(g, FAR, g.material(factor=(1, 1, 1, 0.4), alphaMode="MASK")),
    "a texture without": lambda g: add(g, FAR, g.material([[[9, 9, 9, 0]]], alphaMode="BLEND")),
    "corners without": lambda g: add(g, FAR, g.material(alphaMode="BLEND"), COLOR_0=g.accessor([[1, 1, 1, 0]] * 3)),
    "all of them together": lambda g: add(
        g,
        FAR,
        g.material([[[9, 9, 9, 100]]], factor=(1, 1, 1, 0.05), alphaMode="BLEND"),
        COLOR_0=g.accessor([[1, 1, 1, 0.05]] * 3),
    ),
}
SEEN: dict[str, Callable[[Glb], Any]] = {
    "an alpha that does not count": lambda g: add(g, FAR, g.material(factor=(1, 1, 1, 0), alphaMode="OPAQUE")),
    "at the cutoff": lambda g: add(g, FAR, g.material(factor=(1, 1, 1, 0.5), alphaMode="MASK")),
    "a faint one": lambda g: add(g, FAR, g.material(factor=(1, 1, 1, 0.01), alphaMode="BLEND")),
    "one corner": lambda g: add(
        g, FAR, g.material(alphaMode="BLEND"), COLOR_0=g.accessor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    ),
    "a thin one": lambda g: add(g, [FAR[0], FAR[1], FAR[1] + [0, 1e-4, 0]]),
}


@pytest.mark.parametrize("case", [*UNSEEN, *SEEN])
def test_only_what_is_seen_decides_on_the_frame(case: str, tmp_path: Path) -> None:
    alone, both = Glb(), Glb()
    add(alone, TRIANGLE)
    (UNSEEN | SEEN)[case](both)
    add(both, TRIANGLE)
    _, scale, offset = load(alone, tmp_path).normalised()
    _, found_scale, found_offset = load(both, tmp_path).normalised()
    if case in UNSEEN:
        assert found_scale == scale
        assert found_offset.equal(offset)
    else:
        assert found_scale < scale / 10


@pytest.mark.parametrize("case", [case for case in UNSEEN if case != "scale of next to 0"])  # alone of that size
def test_nothing_to_see_is_refused(case: str, tmp_path: Path) -> None:
    glb = Glb()
    UNSEEN[case](glb)
    with pytest.raises(AssetError, match=r"an object with a size|faces with an area, got 1 without|something to see"):
        load(glb, tmp_path)


def test_frames_of_obj_files(tmp_path: Path) -> None:
    corners = "".join(f"v {x} {y} {z}\n" for x, y, z in [*TRIANGLE, *FAR])
    (tmp_path / "a.mtl").write_text("newmtl glass\nd 0\nnewmtl wood\n")
    (tmp_path / "a.obj").write_text(f"mtllib a.mtl\n{corners}usemtl glass\nf 4 5 6\nusemtl wood\nf 1 4 4\nf 1 2 3\n")
    mesh, scale, _ = load_mesh(tmp_path / "a.obj").normalised()
    assert scale == pytest.approx(1 / 2)
    assert mesh.material_index.tolist() == [1, 1]


def box(centre: float, small: float = 1.0) -> np.ndarray:
    return centre + small * np.array([(x, y, z) for x in (0, 1) for y in (0, 0.4) for z in (0, 0.7)])


FACES = torch.cartesian_prod(*[torch.arange(8)] * 3)[1::7]


@pytest.mark.parametrize("centre", [50.0, 80_000.0, 3e8])
@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_objects_far_from_the_origin_keep_their_shape(centre: float, kind: str, tmp_path: Path) -> None:
    path, points = tmp_path / f"a.{kind}", box(centre)
    if kind == "glb":
        glb = Glb()
        glb.node(mesh=glb.mesh(box(0), FACES.flatten().numpy()), translation=[centre] * 3)
        path.write_bytes(glb.content())
    elif kind == "obj":
        rows = "".join("f {} {} {}\n".format(*(face + 1)) for face in FACES.numpy())
        path.write_text("".join(f"v {x!r} {y!r} {z!r}\n" for x, y, z in points.tolist()) + rows)
    else:
        header = "ply\nformat binary_little_endian 1.0\nelement vertex 8\n"
        header += "".join(f"property double {axis}\n" for axis in "xyz")
        header += f"element face {len(FACES)}\nproperty list uchar int vertex_indices\nend_header\n"
        rows = np.zeros(len(FACES), [("count", "u1"), ("corners", "<i4", 3)])
        rows["count"], rows["corners"] = 3, FACES.numpy()
        path.write_bytes(header.encode() + points.astype("<f8").tobytes() + rows.tobytes())
    for z_up in (False, True):
        mesh, scale, offset = load_mesh(path, z_up).normalised()
        seen = torch.tensor(points[FACES.numpy()])
        expected = torch.stack([seen[..., 0], seen[..., 2], -seen[..., 1]], dim=-1) if z_up else seen
        assert mesh.origin == (0, 0, 0)
        assert scale == pytest.approx(0.58 / (np.linalg.norm([1, 0.4, 0.7]) / 2), rel=1e-6)
        tolerance = 4e-6 + 2e-16 * centre * 100  # float32 up to 64 sizes from the origin, and float64 beyond
        assert_close(mesh.corners.double(), scale * expected + offset, atol=tolerance, rtol=0)
        assert mesh.vertices.abs().amax(dim=0).tolist() == pytest.approx(
            [scale * side / 2 for side in ((1, 0.7, 0.4) if z_up else (1, 0.4, 0.7))], abs=tolerance
        )


def test_a_shape_that_single_precision_has_lost_is_refused(tmp_path: Path) -> None:
    """Numbers of the file itself are rounded to half a unit there, which moving it back does not mend."""
    glb = Glb()
    glb.node(mesh=glb.mesh(box(5e6), FACES.flatten().numpy()), translation=[-5e6] * 3)
    with pytest.raises(AssetError, match="expected an object with a size, got an extent of 1"):
        load(glb, tmp_path)


def test_faces_with_area() -> None:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [1e-7, 0, 0], [0, 1e-7, 0], [1, 1e-4, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 0, 2], [0, 4, 5], [0, 1, 6]])
    assert faces_with_area(points, faces).tolist() == [True, False, False, False, True]

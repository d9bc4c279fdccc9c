"""Objects that come out as nobody would train on are told, by what is in their views."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glb_writer import TRIANGLE, Glb

from ouroboros3d.datamodules.orbits.rig import OrbitRig
from ouroboros3d.datamodules.rendering.jobs import RenderJob, RenderResult
from ouroboros3d.datamodules.rendering.worker import render_object


def rendered(glb: Glb, folder: Path, size: int = 48) -> RenderResult:
    (folder / "thing.glb").write_bytes(glb.content())
    rig = OrbitRig(size, 1, 4, (20.0, 20.0), supersampling=1)
    return render_object(RenderJob("thing", str(folder / "thing.glb"), "", "", "", str(folder), rig.as_dict(), 60))


def two(first: Any, second: Any, **material: Any) -> Glb:
    """Two triangles in one frame, of these base colours, linear."""
    glb = Glb()
    for place, factor in enumerate((first, second)):
        points = np.add(TRIANGLE, [1.5 * place, 0, 0])
        glb.node(mesh=glb.mesh(points, [0, 1, 2], material=glb.material(factor=(*factor, 1), **material)))
    return glb


WHITE, BLACK, GREY, MAGENTA = (1, 1, 1), (0, 0, 0), (0.5, 0.5, 0.5), (1, 0, 1)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (WHITE, WHITE, "all of one extreme colour, rgb(255, 255, 255)"),
        (BLACK, BLACK, "all of one extreme colour, rgb(0, 0, 0)"),
        (MAGENTA, MAGENTA, "all of one extreme colour, rgb(255, 0, 255)"),
        (GREY, GREY, ""),  # of one colour, but of no extreme one
        (WHITE, BLACK, ""),
        (WHITE, GREY, ""),
        (WHITE, (1, 1, 0.9), ""),
    ],
)
def test_one_extreme_colour_is_told(first: Any, second: Any, told: str, tmp_path: Path) -> None:
    assert rendered(two(first, second), tmp_path) == RenderResult("done", doubt=told)


def test_a_speck_is_told(tmp_path: Path) -> None:
    """A large sheet that hardly anything is seen of decides on the frame; alone the object is as large as it is."""
    glb = two(GREY, WHITE)
    assert rendered(glb, tmp_path).doubt == ""
    sheet = glb.material(factor=(0.2, 0.3, 0.4, 0.02), alphaMode="BLEND")
    glb.node(mesh=glb.mesh(np.multiply(TRIANGLE, 50), [0, 1, 2], material=sheet))
    faint = rendered(glb, tmp_path, 24)
    assert faint.stage == "render"  # nothing reaches half of a pixel's light
    glb.tree["materials"][sheet]["pbrMetallicRoughness"]["baseColorFactor"][3] = 0.004
    (tmp_path / "large").mkdir()
    large = rendered(glb, tmp_path / "large", 96)
    assert large.stage == "done"
    assert large.doubt.startswith("a few pixels large: at most ")


def test_what_a_file_says_beside_arrives(tmp_path: Path) -> None:
    glb = two(GREY, WHITE)
    glb.node(mesh=glb.mesh([[0.0, 0, 0], [1, 0, 0]], [0, 1], mode=1))
    found = rendered(glb, tmp_path)
    assert found == RenderResult("done", notes=("lines and points are left out",))
    assert RenderResult.from_json(found.to_json()) == found

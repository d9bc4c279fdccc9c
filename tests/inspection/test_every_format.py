"""Every format that is read, written by its writer: no alarm where all is right, and a planted mistake is named."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import posed_writers as writers
import pytest
from checked import check, numbers, titles
from posed_writers import ANY_RIG, LAYOUTS, OWN_RIG, RIG, Lens, Pose, Shot, draw

from ouroboros3d.datamodules.readers.detection import READERS
from ouroboros3d.datamodules.readers.posed import PosedReader

# Of formats with several layouts one is enough, archives where there are any.
ONE_EACH = {reader: layout for layout, (reader, _, _) in LAYOUTS.items()}
CUT = "The image border cuts the object"  # the balls of some cameras are
AXES = {
    **dict.fromkeys(("gobjaverse", "lgm"), "camera-to-world poses with OpenGL camera axes"),
    **dict.fromkeys(("zero123", "objaverse_xl", "instantmesh"), "world-to-camera poses with OpenCV camera axes"),
}


def run(root: Path, layout: str) -> list[str]:
    """Titles of what a check of a tree found."""
    out = root.parent / "out"
    code = check(root, "--out", out, "--cache_dir", root.parent / "cache", "--assume_rig", "--workers", 1)
    errors = titles(out, "error")
    assert code == bool(errors)
    return [title for title in titles(out) if title != CUT]


def test_every_reader_of_posed_renders_is_written() -> None:
    posed = {name for name, reader in READERS.items() if issubclass(reader, PosedReader)}
    assert set(ONE_EACH) == posed - {"shards"}  # our own orbits in tar files


@pytest.mark.parametrize("layout", ["official", *ONE_EACH.values()])
def test_a_right_tree_raises_no_alarm(tmp_path: Path, layout: str) -> None:
    _, uid, write = LAYOUTS[layout]
    written = write(tmp_path / "tree", uid)
    assert run(tmp_path / "tree", layout) == []
    found = numbers(tmp_path / "out")
    assert found["views"] == str(len(written.poses))
    if "depth" in found:
        depths = [shot.depth[shot.depth > 0] for shot in written.shots()]
        near, far = map(float, found["depth"].split(" in ")[0].split(" to "))
        # Eight of the views, steps of 0.012 in one format, a rim that another leaves out.
        assert min(d.min() for d in depths) - 0.01 < near < far < max(d.max() for d in depths) + 0.01


def test_without_openexr_the_maps_alone_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "OpenEXR" else find_spec(name))
    _, uid, write = LAYOUTS["gobjaverse"]
    write(tmp_path / "tree", uid)
    assert run(tmp_path / "tree", "gobjaverse") == []
    assert "Depth or normal maps were not looked at" in titles(tmp_path / "out", "note")
    assert "pip install ouroboros3d[exr]" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("reader", [reader for reader, layout in ONE_EACH.items() if layout in ANY_RIG])
def test_flipped_camera_axes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str) -> None:
    """Images from right cameras, and poses whose y and z axes are negated."""
    _, uid, write = LAYOUTS[ONE_EACH[reader]]
    flipped = [replace(one, down=tuple(-x for x in one.down), forward=tuple(-x for x in one.forward)) for one in RIG]
    right = dict(zip(flipped, RIG, strict=True))
    monkeypatch.setattr(writers, "draw", lambda camera, lens: draw(right[camera], lens))
    write(tmp_path / "tree", uid, tuple(flipped))  # type: ignore[call-arg]
    (title,) = run(tmp_path / "tree", reader)
    axes = AXES.get(reader, "camera-to-world poses with OpenCV camera axes")
    assert title.startswith(f"These look like {axes}")


@pytest.mark.parametrize("layout", OWN_RIG)
def test_an_orbit_that_runs_the_other_way_is_named(tmp_path: Path, layout: str) -> None:
    _, uid, write = LAYOUTS[layout]
    count = {"syncdreamer_gso": 16, "objaverse_rendering": 12}[layout]
    write(tmp_path / "tree", uid, writers.turning(count)[::-1])  # type: ignore[call-arg]
    (title,) = run(tmp_path / "tree", layout)
    assert title.startswith("These look like ")
    assert "reverse order" in title


def along_the_rays(shot: Shot, camera: Pose, lens: Lens) -> Shot:
    height, width = lens.size
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    length = np.sqrt(((u - lens.cx) / lens.fx) ** 2 + ((v - lens.cy) / lens.fy) ** 2 + 1)
    return replace(shot, depth=shot.depth * length)


def longer(shot: Shot, camera: Pose, lens: Lens) -> Shot:
    return replace(shot, depth=shot.depth * 1.25)


def of_another_view(shot: Shot, camera: Pose, lens: Lens) -> Shot:
    return replace(shot, depth=draw(RIG[RIG.index(camera) - 1], lens).depth)


def in_the_cameras_frame(shot: Shot, camera: Pose, lens: Lens) -> Shot:
    return replace(shot, normals=shot.normals @ np.stack([camera.right, camera.down, camera.forward], axis=1))


@pytest.mark.parametrize(
    ("layout", "spoil", "title"),
    [
        ("ours", along_the_rays, "Depth is measured along the rays, not along the camera's axis"),
        ("trellis", along_the_rays, "Depth is measured along the rays, not along the camera's axis"),
        ("gobjaverse_tar", along_the_rays, "Depth is measured along the rays, not along the camera's axis"),
        ("syncdreamer_gso", along_the_rays, "Depth is measured along the rays, not along the camera's axis"),
        ("instantmesh", longer, "Depth is 1.25 times as long as the cameras' distances say"),
        ("ours", of_another_view, "Depth does not agree with the cameras"),
        ("ours", in_the_cameras_frame, "Normals point away from the cameras"),
        ("bpy_renderer", in_the_cameras_frame, "Normals point away from the cameras"),
    ],
)
def test_maps_that_do_not_belong_to_the_cameras_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, spoil: Callable[[Shot, Pose, Lens], Shot], title: str
) -> None:
    _, uid, write = LAYOUTS[layout]
    monkeypatch.setattr(writers, "draw", lambda camera, lens: spoil(draw(camera, lens), camera, lens))
    write(tmp_path / "tree", uid)
    assert run(tmp_path / "tree", layout) == [title]

"""Scenes of the viewer: what 17 bytes keep of a Gaussian, how large pages get, and that they can be read back."""

import base64
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.viewer.page import save_viewer, viewer_page
from ouroboros3d.viewer.scene import Frame, Scene, read_scenes, scene, spread, thinned

CAMERAS = Cameras.orbit([0.0, 90.0, 180.0, 270.0], 10.0, 1.7417, 39.598)[None]


def some(count: int) -> Gaussians:
    generator = torch.Generator().manual_seed(count)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(1, count, *shape, generator=generator)

    turns = torch.nn.functional.normalize(drawn(4) - 0.5, dim=-1)
    return Gaussians(drawn(3) - 0.5, 0.003 * 50 ** drawn(3), turns, 0.01 + 0.98 * drawn(1), drawn(3))


def made(gaussians: Gaussians, steps: int = 0, size: int = 32) -> Scene:
    views = torch.rand(4, 3, size, size)
    frames = [Frame(views, gaussians, step, 80.0 / (1 + step)) for step in range(steps)]
    return scene("staged", CAMERAS, [*frames, Frame(views, gaussians)], views)


def unpacked(frame: Scene) -> Gaussians:
    """The layout read in plain words, apart from the writer's code and from viewer.js."""
    data, count = base64.b64decode(frame["data"]), frame["count"]
    assert len(data) == 17 * count
    means, scales, quaternions, colours = [], [], [], []
    for n in range(count):
        word = int.from_bytes(data[4 * n : 4 * n + 4], "little")
        others = [((word >> shift & 1023) / 1023 * 2 - 1) * math.sqrt(0.5) for shift in (20, 10, 0)]
        others.insert(word >> 30, math.sqrt(1 - sum(value**2 for value in others)))
        quaternions.append(others)
        place = np.frombuffer(data[4 * count + 6 * n : 4 * count + 6 * n + 6], "<u2") / 65535
        means.append([low + (high - low) * x for low, high, x in zip(frame["low"], frame["high"], place, strict=True)])
        small, large = frame["log_scales"]
        scales.append([math.exp(small + (large - small) * s / 255) for s in data[10 * count + 3 * n :][:3]])
        colours.append([value / 255 for value in data[13 * count + 4 * n :][:4]])
    columns = [torch.tensor(column, dtype=torch.float32)[None] for column in (means, scales, quaternions, colours)]
    return Gaussians(*columns[:3], columns[3][..., 3:], columns[3][..., :3])


def test_what_is_kept_of_a_gaussian():
    gaussians = some(50)
    kept = unpacked(made(gaussians)["frames"][-1])
    assert_close(kept.means, gaussians.means, rtol=0, atol=1e-5)  # 16 bits of a cube's edge
    assert_close(kept.scales, gaussians.scales, rtol=0.01, atol=0)  # 255 steps from 0.003 to 0.15
    assert_close(kept.colours, gaussians.colours, rtol=0, atol=0.002)
    assert_close(kept.opacities, gaussians.opacities, rtol=0, atol=0.002)
    alike = (kept.quaternions * gaussians.quaternions).sum(-1).abs()
    assert math.degrees(2 * math.acos(min(1.0, alike.min().item()))) < 0.3


def test_faint_gaussians_are_left_out_and_none_is_a_scene_too():
    gaussians = some(10)
    gaussians.opacities[0, [1, 4]] = 0.004
    assert made(gaussians)["frames"][-1]["count"] == 8
    assert made(some(10)[:, :0])["frames"][-1]["count"] == 0


def test_pages_of_the_two_scales_are_small():
    """At desk scale 1,024 Gaussians at 20 steps, at paper scale 65,536 at as many as there is room for."""
    desk = viewer_page("desk", [made(some(1024), steps=20)])  # 0.6 MB
    assert len(desk) < 1.5e6
    assert len(read_back(desk)[0]["frames"]) == 21
    large = made(some(65536), steps=1, size=64)
    first, result = large["frames"]
    paper = viewer_page("paper", [{**large, "frames": [*({**first, "step": step} for step in range(25)), result]}])
    assert 6e6 < len(paper) < 8e6
    assert [frame["step"] for frame in read_back(paper)[0]["frames"]] == [0, 8, 16, None]


def read_back(page: str) -> list[Scene]:
    found = re.search(r'id="scenes">(.*?)</script>', page)
    assert found is not None
    scenes: list[Scene] = json.loads(found[1])["scenes"]
    return scenes


def test_steps_are_left_out_evenly_and_never_the_result():
    one = made(some(100), steps=8)
    steps = [[frame["step"] for frame in each["frames"]] for each in thinned([one, one], most=1000)]
    assert steps == [[0, 2, 4, 6, None]] * 2
    assert [len(each["frames"]) for each in thinned([one, one], most=10)] == [1, 1]
    assert thinned([one])[0] == one
    assert spread(5, 0) == []


def test_a_page_is_read_back(tmp_path: Path):
    scenes = [made(some(5), steps=2), {**made(some(6)), "name": "</script><b>"}]
    save_viewer(tmp_path / "viewer.html", "lamp", scenes)
    assert read_scenes(tmp_path / "viewer.html") == scenes


@pytest.mark.parametrize("damage", [lambda t: t[:3000], lambda t: t.replace('"frames"', '"fames"'), lambda t: "hello"])
def test_a_damaged_page_is_refused_in_one_line(tmp_path: Path, damage):
    path = tmp_path / "viewer.html"
    save_viewer(path, "lamp", [made(some(5))])
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=r"viewer\.html: expected a viewer's page") as caught:
        read_scenes(path)
    assert "\n" not in str(caught.value)

"""The viewer in a real Chromium, opened from a file: it shows what our renderer shows, and what it is told to."""

import base64
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from headless import chromium, eventually
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webdriver import WebDriver

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.renderers.gaussians import GaussianRenderer
from ouroboros3d.viewer.page import save_viewer
from ouroboros3d.viewer.scene import Frame, scene

pytestmark = pytest.mark.browser

CAMERAS = Cameras.orbit([0.0, 90.0, 180.0, 270.0], 10.0, 1.7417, 39.598)[None]
# The drawn square of a panel in pixels, and the colours of panel number arguments[0] from a camera.
LOOK = """
const [number, camera] = arguments, {panels} = window.viewer;
Object.assign(window.viewer.camera, camera);
window.viewer.draw();
const canvas = document.getElementById("canvas"), whole = canvas.getBoundingClientRect();
const box = panels[number].element.getBoundingClientRect();
const cut = document.createElement("canvas");
[cut.width, cut.height] = [Math.round(box.width), Math.round(box.height)];
cut.getContext("2d").drawImage(canvas, -Math.round(box.left - whole.left), -Math.round(box.top - whole.top));
return cut.toDataURL("image/png");
"""


def needles(count: int, seed: int) -> Gaussians:
    """Long, flat and round ones of every opacity and colour, mostly to one side, so that no turn looks like another."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(1, count, *shape, generator=generator)

    means = (drawn(3) - 0.5) * torch.tensor([0.9, 0.5, 0.3]) + torch.tensor([0.1, 0.05, 0.0])
    scales = 0.004 * 30 ** drawn(3)
    turns = torch.nn.functional.normalize(drawn(4) - 0.5, dim=-1)
    return Gaussians(means, scales, turns, 0.02 + 0.97 * drawn(1), drawn(3))


RESULTS = {name: needles(400, seed) for seed, name in enumerate(("staged", "recursive"))}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants; the first step of each has every eighth Gaussian of the result and grey views."""
    path = tmp_path_factory.mktemp("viewer") / "viewer.html"
    scenes = []
    for name, result in RESULTS.items():
        views = GaussianRenderer()(result, CAMERAS, 32, 32).colour[0]
        steps = [Frame(torch.full_like(views, 0.5), result[:, ::8], 0, 80.0)]
        scenes.append(scene(name, CAMERAS, [*steps, Frame(views, result)], views))
    save_viewer(path, "a <b>lamp</b>", scenes, {"comparison": "../comparison.html"})
    return path


@pytest.fixture(scope="module")
def driver(page: Path) -> Iterator[WebDriver]:
    with chromium() as driver:
        driver.set_window_size(900, 1000)
        driver.get(page.as_uri())
        assert eventually(lambda: driver.execute_script("return window.viewer && viewer.panels.every(p => p.pasted)"))
        yield driver


def look(driver: WebDriver, number: int, azimuth_deg: float, elevation_deg: float, radius: float) -> np.ndarray:
    """A panel's pixels [H, W, 3] in [0, 1]."""
    angles = {"azimuth": math.radians(azimuth_deg), "elevation": math.radians(elevation_deg), "radius": radius}
    url = driver.execute_script(LOOK, number, {**angles, "target": [0, 0, 0]})
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255


def rendered(gaussians: Gaussians, size: tuple[int, int], azimuth_deg: float, elevation_deg: float, radius: float):
    camera = Cameras.orbit([azimuth_deg], elevation_deg, radius, 39.598)[None]
    return GaussianRenderer()(gaussians, camera, *size).colour[0, 0].permute(1, 2, 0).clamp(0, 1).double().numpy()


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    return -10 * math.log10(np.square(one - two).mean())


@pytest.mark.parametrize("view", [(0.0, 10.0, 1.7417), (37.0, -25.0, 1.2), (200.0, 60.0, 2.5)])
def test_pixels_agree_with_our_renderer(driver: WebDriver, view: tuple[float, float, float]):
    """Seen: 51.6 to 57.3 dB; the rest is 8 bits for each of the layers that are blended, and 17 bytes a Gaussian."""
    for number, result in enumerate(RESULTS.values()):
        shown = look(driver, number, *view)
        expected = rendered(result, shown.shape[:2], *view)
        assert psnr(shown, expected) > 48
        assert psnr(shown, expected[:, ::-1]) < 25  # a mirrored picture would be told apart


def test_every_panel_has_the_same_camera(driver: WebDriver):
    """Dragging in one turns both."""
    before = [look(driver, number, 20.0, 10.0, 1.7417) for number in (0, 1)]
    panel = driver.find_element("id", "panel-0")
    ActionChains(driver).drag_and_drop_by_offset(panel, 90, 0).perform()
    azimuth, radius = driver.execute_script("return [viewer.camera.azimuth, viewer.camera.radius]")
    assert azimuth == pytest.approx(math.radians(20) - 0.9, abs=0.02)
    for number, result in enumerate(RESULTS.values()):
        after = look(driver, number, math.degrees(azimuth), 10.0, radius)
        assert psnr(after, before[number]) < 25
        assert psnr(after, rendered(result, after.shape[:2], math.degrees(azimuth), 10.0, radius)) > 48


def test_the_slider_shows_a_step_and_its_views(driver: WebDriver):
    script = "const s = document.getElementById('step'); s.value = arguments[0]; s.dispatchEvent(new Event('input'));"
    driver.execute_script(script, 0)
    assert driver.find_element("id", "label").text == "estimate of step 1, noise level 80"
    shown = look(driver, 1, 0.0, 10.0, 1.7417)
    assert psnr(shown, rendered(RESULTS["recursive"][:, ::8], shown.shape[:2], 0.0, 10.0, 1.7417)) > 48
    first = driver.find_element("id", "views-1").get_attribute("src")
    driver.execute_script(script, 1)
    assert driver.find_element("id", "label").text == "result"
    assert driver.find_element("id", "views-1").get_attribute("src") != first


def test_cameras_stand_in_the_scene_with_their_views(driver: WebDriver):
    """From behind the input camera: its frustum's picture hides the object in part, and its lines are orange."""
    bare = look(driver, 0, 30.0, 20.0, 4.5)
    driver.find_element("id", "cameras").click()
    shown = look(driver, 0, 30.0, 20.0, 4.5)
    driver.find_element("id", "cameras").click()
    changed = np.abs(shown - bare).max(-1) > 0.1
    orange = np.abs(shown - [0.85, 0.35, 0.05]).max(-1) < 0.02
    assert changed.mean() > 0.01
    assert orange.sum() > 50
    assert not (np.abs(bare - [0.85, 0.35, 0.05]).max(-1) < 0.02).sum() > 50


def test_buttons_stand_where_a_view_was_taken(driver: WebDriver):
    driver.find_element("css selector", "button[data-view='1']").click()
    azimuth, elevation, radius = driver.execute_script(
        "const c = viewer.camera; return [c.azimuth, c.elevation, c.radius]"
    )
    assert [math.degrees(azimuth), math.degrees(elevation), radius] == pytest.approx([90.0, 10.0, 1.7417], abs=1e-3)


def test_the_page_loads_nothing_and_says_no_error(driver: WebDriver, page: Path):
    assert driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert driver.get_log("browser") == []
    assert "http" not in page.read_text(encoding="utf-8").replace('http-equiv="Content-Security-Policy"', "")
    assert driver.find_element("tag name", "h1").text == "a <b>lamp</b>"


def test_without_webgl_the_views_remain(driver: WebDriver, page: Path):
    """Last in this file, because the browser leaves the page as it was."""
    source = "HTMLCanvasElement.prototype.getContext = () => null;"
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    driver.get(page.as_uri())
    assert driver.find_element("id", "trouble").is_displayed()
    assert eventually(lambda: driver.execute_script("return document.getElementById('views-1').naturalWidth")) == 4 * 32

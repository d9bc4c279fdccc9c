"""A real browser loads the running TensorBoard, and every plugin shows the comparison's data."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from headless import chromium, colours, eventually, measure, show, tensorboard, text
from run_writer import UIDS, write_study
from selenium.webdriver.remote.webdriver import WebDriver

from ouroboros3d.commands.compare import run

pytestmark = pytest.mark.browser
VARIANTS = ("staged", "inference_combined", "recursive")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("study") / "runs"
    write_study(runs, VARIANTS, seeds=(0, 1))
    run(["--runs", str(runs)])
    return runs / "comparison"


@pytest.fixture(scope="module")
def address(comparison: Path) -> Iterator[str]:
    with tensorboard(comparison) as found:
        yield found


@pytest.fixture(scope="module")
def driver() -> Iterator[WebDriver]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")  # the driver itself is spoken to over HTTP
        with chromium() as browser:
            yield browser


def means(comparison: Path, metric: str) -> dict[str, float]:
    with (comparison / "comparison.csv").open(newline="") as file:
        return {row["variant"]: float(row["mean"]) for row in csv.DictReader(file) if row["metric"] == metric}


def test_custom_scalars_overlay_the_variants(driver, address):
    show(driver, address, "custom_scalars")
    for title in ("Training losses", "reconstruction loss", "Validation", "Per denoising step", "gap PSNR"):
        assert eventually(lambda title=title: title in text(driver)), title
    # A chart draws a line a variant and seed; a path of a single point, or of an axis, is shorter.
    lines = "[...e.shadowRoot.querySelectorAll('path')].filter(p => (p.getAttribute('d') || '').length > 50).length"
    assert eventually(lambda: sum(count >= 6 for count in measure(driver, "vz-line-chart2", lines)) >= 6)
    assert all(f"{name}/seed_1" in text(driver) for name in VARIANTS)


def test_hparams_list_every_run_with_its_final_metrics(driver, address, comparison):
    show(driver, address, "hparams")
    assert eventually(lambda: all(f"{name}/seed_1" in text(driver) for name in VARIANTS))
    shown = text(driver)
    for expected in ("test/novel_psnr_foreground", "colour coordinates", "Recursive"):
        assert expected in shown
    for name in VARIANTS:
        results = json.loads((comparison.parent / name / "version_0" / "results.json").read_text())
        assert f"{results['mean']['mv_psnr_foreground']:#.5g}" in shown


def test_images_show_figures_and_strips(driver, address):
    show(driver, address, "images")
    loaded, picture = "e.complete && e.naturalWidth > 100", "img[src*='individualImage']"
    assert eventually(lambda: sum(measure(driver, picture, loaded)) >= 9)
    shown = text(driver)
    assert "differences/chamfer" in shown
    assert "objects/novel_psnr_foreground" in shown
    for kind in ("views", "renders"):
        show(driver, address, f"images&tagFilter={kind}%2F")
        assert eventually(lambda kind=kind: f"{kind}/{UIDS[0]}" in text(driver))
        assert eventually(lambda: sum(measure(driver, picture, loaded)) >= len(UIDS))


def test_mesh_draws_a_cloud_a_variant(driver, address):
    show(driver, address, "mesh")
    assert eventually(lambda: len(measure(driver, "canvas", "e.width")) >= len(VARIANTS))
    # An ellipsoid of many colours; an empty or a lost canvas has one or two.
    assert eventually(lambda: colours(driver, "canvas") > 100)
    assert set(VARIANTS) < set(measure(driver, "tf-category-paginated-view", "e.category.name"))


def test_text_shows_the_tables(driver, address, comparison):
    show(driver, address, "text")
    assert eventually(lambda: len(measure(driver, "table", "e.rows.length")) >= 5)
    cells = measure(driver, "td", "e.innerText")
    assert "novel PSNR fg (dB) ↑" in cells
    expected = means(comparison, "novel_psnr_foreground")
    assert any(cell.strip() == f"{expected['staged']:.2f}" for cell in cells)
    assert any(cell.startswith(f"{expected['recursive']:.2f}") for cell in cells)


def test_time_series_show_scalars_and_figures(driver, address):
    show(driver, address, "timeseries")
    assert eventually(lambda: all(f"{name}/seed_0" in text(driver) for name in VARIANTS))
    assert eventually(lambda: "differences 9 cards" in text(driver))
    assert eventually(lambda: sum(measure(driver, "img[src*='imageData']", "e.naturalWidth > 100")) >= 2)
    show(driver, f"{address}/?tagFilter=train%2Floss", "timeseries")
    assert eventually(lambda: colours(driver, "line-chart canvas") > 20)  # a line each run, in its colour


def test_an_empty_dashboard_is_seen_to_be_empty(driver, tmp_path):
    with tensorboard(tmp_path) as empty:
        show(driver, empty, "mesh")
        assert eventually(lambda: "No point cloud data was found" in text(driver))
        assert colours(driver, "canvas") == 0
        assert measure(driver, "table", "e.rows.length") == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_readable_in_light_and_dark(comparison, dark):
    with chromium(dark=dark) as browser:
        browser.get((comparison / "comparison.html").resolve().as_uri())
        script = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        ink, paper = (sum(map(int, colour[4:-1].split(","))) / 3 for colour in browser.execute_script(script))
        assert (ink > 200 > 60 > paper) if dark else (ink < 60 < 200 < paper)
        figure = browser.execute_script("return getComputedStyle(document.querySelector('svg text')).fill")
        assert figure == browser.execute_script("return getComputedStyle(document.body).color")
        assert all(measure(browser, "img", "e.complete && e.naturalWidth > 100"))
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
        assert all(name.startswith("data:") for name in loaded)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")

"""A running TensorBoard and a headless Chromium that looks at it.

As a script it takes the pictures of the documentation:
    python tests/headless.py runs/comparison docs
"""

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the tests may run as root in a container
    "--disable-dev-shm-usage",
    "--use-gl=angle",  # point clouds need WebGL, which the processor has to draw
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--window-size=1600,1200",
    "--hide-scrollbars",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# Everything that matches a selector, also inside shadow roots, where TensorBoard keeps nearly all it shows.
_FIND = """
const found = [];
const walk = root => {
  found.push(...root.querySelectorAll(arguments[0]));
  for (const element of root.querySelectorAll('*')) if (element.shadowRoot) walk(element.shadowRoot);
};
walk(document);
"""


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """TensorBoard on a free port, by its address."""
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--load_fast=false"]
        process = subprocess.Popen([*command, "--host=127.0.0.1", "--port=0"], stdout=log, stderr=log)

        def address() -> str | None:
            log.seek(0)
            text = log.read().decode()
            assert process.poll() is None, text
            found = re.search(r"http://127\.0\.0\.1:\d+", text)
            return found[0] if found else None

        try:
            yield eventually(address)
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def chromium(dark: bool = False) -> Iterator[WebDriver]:
    """A headless Chromium that knows nothing of earlier ones and talks to nobody."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        more = ["--blink-settings=preferredColorScheme=0"] if dark else []
        for flag in (*_FLAGS, f"--user-data-dir={profile}", *more):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            driver.set_page_load_timeout(60)
            yield driver
        finally:
            driver.quit()


def eventually(look: Callable[[], Any], seconds: float = 90) -> Any:
    """The first true value of `look`; the last false one where none comes in time."""
    end = time.monotonic() + seconds
    while not (value := look()) and time.monotonic() < end:
        time.sleep(0.3)
    return value


def show(driver: WebDriver, address: str, plugin: str) -> None:
    """Load one plugin's page afresh."""
    driver.get("about:blank")
    driver.get(f"{address}#{plugin}")


def text(driver: WebDriver) -> str:
    """All that the page says where it can be seen, white space made one."""
    said = "[...e.childNodes].filter(n => n.nodeType == 3).map(n => n.data).join(' ')"
    parts = measure(driver, "*", f"e.getClientRects().length ? {said} : ''")
    return " ".join(" ".join(parts).split())


def measure(driver: WebDriver, selector: str, value: str) -> list[Any]:
    """A JavaScript value of every element `e` that matches."""
    found: list[Any] = driver.execute_script(_FIND + f"return found.map(e => {value})", selector)
    return found


def colours(driver: WebDriver, selector: str) -> int:
    """How many colours are seen in the first element that matches, once it is scrolled into view."""
    script = _FIND + "if (!found.length) return null; found[0].scrollIntoView({block: 'center'}); return true"
    if not driver.execute_script(script, selector):
        return 0
    time.sleep(0.5)  # it is drawn once more
    box = driver.execute_script(
        _FIND + "const b = found[0].getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]", selector
    )
    with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as picture:
        seen = picture.convert("RGB").crop([round(side) for side in box]).getcolors(2**24)
    return len(seen or [])


def save(screenshot: bytes, path: Path) -> None:
    """A screenshot as a small PNG of 256 colours."""
    with Image.open(io.BytesIO(screenshot)) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main(folder: Path, out: Path) -> None:
    """Take the documentation's pictures of a comparison."""
    out.mkdir(parents=True, exist_ok=True)
    shown = {
        # Smoothing would shift the few points of the denoising steps.
        "custom_scalars": ("custom_scalars&_smoothingWeight=0", "vz-line-chart2"),
        "hparams": ("hparams", "vaadin-grid-cell-content"),
        "figures": ("images", "img[src*='individualImage']"),
        "images": ("images&tagFilter=renders%2F", "img[src*='individualImage']"),
        "mesh": ("mesh", "canvas"),
        "text": ("text", "table"),
    }
    with tensorboard(folder) as address, chromium() as driver:
        for name, (plugin, sign) in shown.items():
            show(driver, f"{address}/", plugin)
            eventually(lambda sign=sign: measure(driver, sign, "e.tagName"))
            time.sleep(12 if name == "mesh" else 6)  # all cards, not only the first
            save(driver.get_screenshot_as_png(), out / f"dashboard_{name}.png")
        driver.get((folder / "comparison.html").resolve().as_uri())
        driver.set_window_size(1280, 1900)
        save(driver.get_screenshot_as_png(), out / "comparison_page.png")
        strips = driver.find_elements("css selector", "details[open] .strips")
        save(strips[0].screenshot_as_png, out / "comparison_strip.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

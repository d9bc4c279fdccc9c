"""The example photo is what its script makes of an object that nothing was trained on."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from ouroboros3d.datamodules.photo_framing import load_photo
from ouroboros3d.datamodules.selection import BUNDLED

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(tmp_path)
    import example_photo

    yield example_photo
    del sys.modules["example_photo"]


def test_it_is_small_held_out_and_stands_out_from_its_background(script: ModuleType) -> None:
    path = BUNDLED / "example.png"
    assert path.stat().st_size < 200e3
    assert script.PLANT in (BUNDLED / "test.txt").read_text().split()
    _, alpha = load_photo(path, 64)
    # 0.26 with the shadow, which a lower tolerance of the background would take for the object.
    assert alpha.mean().item() == pytest.approx(0.231, abs=0.01)


@pytest.mark.slow
def test_the_script_makes_it(script: ModuleType) -> None:
    with Image.open(BUNDLED / "example.png") as stored:
        difference = np.abs(np.asarray(stored, dtype=int) - np.asarray(script.example(), dtype=int))
    assert difference.shape == (script.SIZE, script.SIZE, 3)
    assert difference.max() <= 2  # levels of 255; another processor may round otherwise

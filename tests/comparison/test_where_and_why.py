"""Where differences come from: steps, kinds of objects and costs, each against numbers worked out by hand."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from run_writer import NOVEL, SIZE, UIDS, VIEWS, write_run

from ouroboros3d.comparison.figures import looks
from ouroboros3d.comparison.kinds import by_kind, kinds, silhouette, symmetry, thickness
from ouroboros3d.comparison.outcome import Comparison, compare
from ouroboros3d.comparison.runs import read_run
from ouroboros3d.comparison.steps import read_steps, step_differences
from ouroboros3d.comparison.variants import group
from ouroboros3d.comparison.where_and_why import by_kinds, cost_of_gain, gains, step_curves

BASE = [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0]
GAINS = [0.1, -0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def result(folders: list[Path]) -> Comparison:
    variants = group([read_run(folder, "test") for folder in folders])
    return compare(variants, None, notes=[], command="", split="test")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two runs of known gains; the second costs more. Objects are seen from 0 to 90 degrees."""
    azimuths = {"input_azimuth_deg": list(np.linspace(0, 90, 8))}
    better = [value + gain for value, gain in zip(BASE, GAINS, strict=True)]
    return [
        write_run(tmp_path / "staged" / "v", {"novel_psnr_foreground": BASE, **azimuths}),
        write_run(tmp_path / "recursive" / "v", {"novel_psnr_foreground": better, "nfe": [40.0] * 8, **azimuths}),
    ]


def write_steps(folder: Path, value: float, uids: tuple[str, ...] = UIDS, steps: int = 3) -> None:
    with (folder / "steps.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uid", "step", "sigma", "gap_psnr"])
        writer.writerows([uid, step, 80 / (step + 1), value * step + len(uid)] for uid in uids for step in range(steps))


def test_a_strip_is_as_thick_as_it_is_wide():
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, 20:30] = True
    assert thickness(mask) == pytest.approx(10 / 64, rel=0.15)  # its ends touch the picture's edge
    mask[:, 20:22] = False
    assert thickness(mask) < 10 / 64
    disc = np.hypot(*(np.indices((64, 64)) - 31.5)) < 20
    assert thickness(disc) == pytest.approx(4 * 20 / 3 / 64, rel=0.05)  # a third of the radius on average; pixels


def test_symmetry_is_about_the_silhouettes_own_middle():
    mask = np.zeros((8, 16), dtype=bool)
    mask[2:6, 9:13] = True
    assert symmetry(mask) == 1
    mask[5, 9:11] = False  # two cells of sixteen, and their mirror images
    assert symmetry(mask) == 12 / 16


def test_a_silhouette_is_what_differs_from_the_page():
    view = np.full((4, 4, 3), 1.0)
    view[1, 1] = [1.0, 0.9, 1.0]
    view[2, 2] = 0.995  # rounding
    assert silhouette(view).nonzero() == (np.array([1]), np.array([1]))


def test_kinds_come_from_the_true_views(folders):
    for index, uid in enumerate(UIDS):
        (folders[1] / "objects" / uid).mkdir(parents=True)
        strip = np.full((SIZE, SIZE * (VIEWS + NOVEL), 3), 255, dtype=np.uint8)
        strip[8:24, 8 : 12 + index] = [200, 40, 40]  # one view of the object, wider and wider, of one colour
        Image.fromarray(strip).save(folders[1] / "objects" / uid / "truth.png")
    found = kinds(result(folders), "novel_psnr_foreground")
    # Symmetry and texture do not differ, so nothing is told by them.
    assert sorted(found) == ["seen from the side", "thickness", "value of the baseline"]
    assert (np.diff(found["thickness"]) > 0).all()
    assert found["seen from the side"] == pytest.approx(np.sin(np.linspace(0, math.pi / 2, 8)))
    assert found["value of the baseline"].tolist() == BASE


def test_thirds_of_the_objects_by_hand(folders):
    comparison = result(folders)
    kind = np.array([7.0, 6, 5, 4, 3, 2, 1, math.nan])
    found = by_kind(comparison, "recursive", "novel_psnr_foreground", kind)
    assert [ends for ends, _ in found] == [(1, 3), (4, 5), (6, 7)]
    assert [each.mean for _, each in found] == pytest.approx([0.6, 0.35, -0.05])
    assert found[1][1].half_width() == pytest.approx(12.706 * 0.05, rel=1e-3)  # two objects
    assert by_kind(comparison, "recursive", "novel_psnr_foreground", np.full(8, math.nan)) == []


def test_differences_at_every_step_by_hand(folders):
    write_steps(folders[0], 1.0)
    write_steps(folders[1], 1.5, UIDS[::-1])  # in another order of objects
    comparison = result(folders)
    steps = read_steps(comparison)
    assert steps["gap_psnr"]["staged"].shape == (1, 8, 3)
    found = step_differences(comparison, steps, "gap_psnr", "recursive")
    assert [each.mean for each in found] == pytest.approx([0, 0.5, 1.0])
    assert [each.half_width() for each in found] == pytest.approx([0, 0, 0])
    write_steps(folders[1], 1.5, steps=4)
    assert step_differences(comparison, read_steps(result(folders)), "gap_psnr", "recursive") == []
    write_steps(folders[1], 1.5, ("somebody",))
    with pytest.raises(ValueError, match=r"steps\.csv: expected objects of results\.csv, got somebody"):
        read_steps(result(folders))


def test_figures_show_what_there_is(folders):
    write_steps(folders[0], 1.0)
    write_steps(folders[1], 1.5)
    comparison = result(folders)
    metric = "novel_psnr_foreground"
    steps = step_curves(comparison, read_steps(comparison))
    assert [len(axes.lines) for axes in steps.axes] == [2, 2]  # two curves; their difference, and 0
    sorted_gains = gains(comparison, [metric])
    shown = sorted_gains.axes[0].get_legend().get_texts()[0].get_text()
    assert shown == "recursive: better on 7 of 8"
    assert sorted_gains.axes[0].lines[0].get_ydata().tolist() == pytest.approx(sorted(GAINS))
    found = by_kinds(comparison, metric, kinds(comparison, metric))
    assert [axes.get_title() for axes in found.axes] == [
        *("thirds by seen from the side", "thirds by value of the baseline")
    ]
    costs = cost_of_gain(comparison, metric)
    assert costs is not None
    assert [axes.get_xlabel() for axes in costs.axes] == ["network evaluations an object"]  # seconds are equal
    for figure in (steps, sorted_gains, found, costs):
        FigureCanvasAgg(figure).draw()
    assert cost_of_gain(result([folders[0], write_run(folders[0].parents[1] / "b/v", {metric: BASE})]), metric) is None


def test_no_two_of_many_variants_look_alike(tmp_path):
    folders = [write_run(tmp_path / f"v{index}" / "v", {"mv_psnr": BASE}) for index in range(24)]
    styles = looks(result(folders)).values()
    assert len({(style.line["color"], style.line["linestyle"], style.marker) for style in styles}) == 24

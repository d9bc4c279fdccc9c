"""The table of columns: complete, without contradictions, and known by name and by family."""

import math

import pytest

from ouroboros3d.metrics import geometry, images
from ouroboros3d.metrics.columns import COLUMNS, GROUPS, column, headline, measured
from ouroboros3d.metrics.per_object import PerObject

PLACES = ("mv", "render", "novel")
HIGHER = [
    *(f"{place}_{value}{part}" for place in PLACES for value in ("psnr", "ssim") for part in ("", "_foreground")),
    *("render_mask_iou", "novel_mask_iou", "gap_psnr", "gap_ssim"),
    *("fscore@0.01", "fscore@0.02", "fscore@0.05", "fscore@1", "normal_consistency"),
    *("volume_iou", "estimate_psnr", "estimate_psnr_foreground"),
]
LOWER = [
    *(f"{place}_lpips{part}" for place in PLACES for part in ("", "_foreground")),
    *("gap_lpips", "coordinate_error", "chamfer", "chamfer_unaligned", "truncated_pixels"),
    *("nfe", "vae_decodes", "vae_encodes", "recon_calls", "render_calls", "seconds", "peak_memory_mib"),
]
NEITHER = ["uid", "status", "batch_size", "constant_psnr_foreground", "seed", "steps", "views", "split_sha256", ""]


@pytest.mark.parametrize(
    ("names", "expected"), [(HIGHER, True), (LOWER, False), (NEITHER, None)], ids=["higher", "lower", "neither"]
)
def test_columns_have_directions(names, expected):
    assert [name for name in names if column(name).higher_is_better is not expected] == []


@pytest.mark.parametrize("name", ["xpsnr", "mv_psnrs", "val/mv_psnr", "fscore@", "fscore@high", "chamfer\n", "PSNR"])
def test_a_name_is_known_as_a_whole_or_not_at_all(name):
    assert column(name).higher_is_better is None
    assert column(name).group == "Other"


def test_every_metric_of_the_package_has_a_column_and_every_column_its_place():
    classes = {
        kind
        for module in (images, geometry)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, PerObject) and not kind.__abstractmethods__
    }
    assert {each.metric for each in COLUMNS} - {None} == classes  # volume IoU among them
    assert len({each.name for each in COLUMNS}) == len(COLUMNS)
    assert len({each.label for each in COLUMNS}) == len(COLUMNS)
    for each in COLUMNS:
        assert each.group in (*GROUPS, ""), each.name
        # Said in one place: by the class where there is one, else in the row.
        assert each.metric is None or (each.better is None and each.of and each.metric.compares), each.name


def test_families_have_a_column_a_number():
    found = {each.name: each for each in measured((0.01, 0.2), aligned=True)}
    assert found["fscore@0.2"].options == {"threshold": 0.2}
    assert found["fscore@0.2"] == column("fscore@0.2")
    assert "fscore@" not in found
    assert "chamfer_unaligned" in found
    assert "chamfer_unaligned" not in {each.name for each in measured((), aligned=False)}
    assert not {"seconds", "constant_psnr_foreground"} & found.keys()


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("novel_psnr_foreground", "novel PSNR fg (dB) ↑"),
        ("mv_lpips", "views LPIPS ↓"),
        ("render_mask_iou", "renders mask IoU ↑"),
        ("fscore@0.02", "F-score@0.02 ↑"),
        ("chamfer_unaligned", "Chamfer, unaligned ↓"),
        ("peak_memory_mib", "peak memory (MiB) ↓"),
        ("constant_psnr_foreground", "best constant image, PSNR fg (dB)"),
        ("a_metric_of_tomorrow", "a metric of tomorrow"),
    ],
)
def test_titles(name, title):
    assert column(name).title == title
    assert title.startswith(column(name).label)


@pytest.mark.parametrize(
    ("name", "value", "signed", "expected"),
    [
        ("mv_psnr", 12.345, False, "12.35"),
        ("mv_psnr", -0.001, True, "0.00"),  # never a minus zero
        ("mv_psnr", 0.5, True, "+0.50"),
        ("chamfer", 0.01234, False, "0.0123"),
        ("nfe", 40.0, False, "40"),
        ("seconds", 1.5, False, "1.50"),
        ("mv_ssim", math.nan, False, "-"),
    ],
)
def test_numbers(name, value, signed, expected):
    assert column(name).text(value, signed) == expected


def test_the_headline_is_short_and_has_the_middle_threshold():
    names = ["seconds", "chamfer", "fscore@0.1", "fscore@0.02", "fscore@0.05", "gap_psnr", "mv_psnr_foreground", "new"]
    assert headline(names) == ["mv_psnr_foreground", "gap_psnr", "chamfer", "fscore@0.05", "seconds"]
    assert headline(["new"]) == ["new"]

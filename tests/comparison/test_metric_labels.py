"""How metrics are named, grouped and written."""

import math

import pytest

from ouroboros3d.comparison.labels import grouped, headline, interval, label, number, probability, titled


@pytest.mark.parametrize(
    ("metric", "expected"),
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
def test_titles(metric, expected):
    assert titled(metric) == expected
    assert expected.startswith(label(metric))


@pytest.mark.parametrize(
    ("metric", "value", "signed", "expected"),
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
def test_numbers(metric, value, signed, expected):
    assert number(metric, value, signed) == expected


def test_intervals_and_probabilities():
    assert interval("mv_psnr", -0.5, 1.0) == "[-0.50, +1.00]"
    assert interval("mv_psnr", math.nan, math.nan) == "-"
    assert [probability(p) for p in (0.25, 0.0001, math.nan)] == ["0.250", "<0.001", ""]


def test_every_metric_is_in_one_group_and_the_headline_is_short():
    metrics = [
        "seconds",
        "chamfer",
        "fscore@0.1",
        "fscore@0.02",
        "fscore@0.05",
        "gap_psnr",
        "mv_psnr_foreground",
        "new",
    ]
    groups = grouped(metrics)
    assert list(groups) == ["Generated views", "3D consistency", "Geometry", "Cost", "Other"]
    assert sorted(name for members in groups.values() for name in members) == sorted(metrics)
    assert headline(metrics) == ["mv_psnr_foreground", "gap_psnr", "chamfer", "fscore@0.05", "seconds"]
    assert headline(["new"]) == ["new"]

"""How groups of metrics, intervals and p-values are written."""

import math

from ouroboros3d.comparison.labels import grouped, interval, probability


def test_intervals_and_probabilities():
    assert interval("mv_psnr", -0.5, 1.0) == "[-0.50, +1.00]"
    assert interval("mv_psnr", math.nan, math.nan) == "-"
    assert [probability(p) for p in (0.25, 0.0001, math.nan)] == ["0.250", "<0.001", ""]


def test_every_metric_is_in_one_group():
    metrics = ["seconds", "chamfer", "fscore@0.1", "gap_psnr", "mv_psnr_foreground", "new"]
    groups = grouped(metrics)
    assert list(groups) == ["Generated views", "3D consistency", "Geometry", "Cost", "Other"]
    assert sorted(name for members in groups.values() for name in members) == sorted(metrics)

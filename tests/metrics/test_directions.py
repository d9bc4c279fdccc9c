"""Every column of results.csv has a direction, or rightly none, and the metrics agree with it."""

import pytest

from ouroboros3d.metrics.directions import higher_is_better
from ouroboros3d.metrics.geometry import Chamfer, FScore, NormalConsistency
from ouroboros3d.metrics.images import LPIPS, PSNR, SSIM, CoordinateError, MaskIoU

PLACES = ("mv", "render", "novel")
HIGHER = [
    *(f"{place}_{value}{part}" for place in PLACES for value in ("psnr", "ssim") for part in ("", "_foreground")),
    *("render_mask_iou", "novel_mask_iou", "gap_psnr", "gap_ssim"),
    *("fscore@0.01", "fscore@0.02", "fscore@0.05", "fscore@1", "normal_consistency"),
    *("psnr", "ssim", "volume_iou", "fscore", "estimate_psnr", "estimate_psnr_foreground"),
    *("render_psnr", "render_psnr_foreground"),
]
LOWER = [
    *(f"{place}_lpips{part}" for place in PLACES for part in ("", "_foreground")),
    *("gap_lpips", "lpips", "coordinate_error", "chamfer", "chamfer_unaligned", "truncated_pixels"),
    *("nfe", "vae_decodes", "vae_encodes", "recon_calls", "render_calls", "seconds", "peak_memory_mib"),
]
NEITHER = ["uid", "status", "batch_size", "constant_psnr_foreground", "seed", "steps", "views", "split_sha256", ""]


@pytest.mark.parametrize(
    ("names", "expected"), [(HIGHER, True), (LOWER, False), (NEITHER, None)], ids=["higher", "lower", "neither"]
)
def test_columns_have_directions(names, expected):
    wrong = {name: higher_is_better(name) for name in names if higher_is_better(name) is not expected}
    assert not wrong


@pytest.mark.parametrize("name", ["xpsnr", "psnrs", "val/psnr", "fscore@", "fscore@high", "chamfer\n", "PSNR"])
def test_a_name_is_known_as_a_whole_or_not_at_all(name):
    assert higher_is_better(name) is None


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        *(("psnr", PSNR), ("ssim", SSIM), ("lpips", LPIPS), ("render_mask_iou", MaskIoU)),
        *(("coordinate_error", CoordinateError), ("chamfer", Chamfer), ("fscore@0.01", FScore)),
        ("normal_consistency", NormalConsistency),
    ],
)
def test_metrics_and_columns_agree(name, metric):
    assert metric.higher_is_better is higher_is_better(name)

"""How metrics are called, grouped and written in tables and figures."""

import math
from collections.abc import Iterable, Sequence

from ouroboros3d.metrics.directions import higher_is_better

_PLACES = {"mv": "views", "render": "renders", "novel": "novel", "gap": "gap", "estimate": "estimate"}
_NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "mask_iou": "mask IoU"}
_WHOLE = {
    "coordinate_error": "coordinate error",
    "chamfer": "Chamfer",
    "chamfer_unaligned": "Chamfer, unaligned",
    "normal_consistency": "normal consistency",
    "volume_iou": "volume IoU",
    "constant_psnr_foreground": "best constant image, PSNR fg",
    "truncated_pixels": "truncated pixels",
    "nfe": "network evaluations",
    "vae_decodes": "decodes",
    "vae_encodes": "encodes",
    "recon_calls": "reconstructions",
    "render_calls": "renderings",
    "seconds": "seconds",
    "peak_memory_mib": "peak memory",
}
_COSTS = {"nfe", "vae_decodes", "vae_encodes", "recon_calls", "render_calls", "seconds", "peak_memory_mib"}
_HEADLINE = (
    "mv_psnr_foreground",
    "render_psnr_foreground",
    "novel_psnr_foreground",
    "novel_ssim_foreground",
    "novel_lpips_foreground",
    "gap_psnr",
    "chamfer",
    "fscore",
    "normal_consistency",
    "seconds",
)
GROUPS = ("Generated views", "Renders, input cameras", "Renders, novel cameras", "3D consistency", "Geometry", "Cost")


def label(metric: str) -> str:
    """A metric's short name: `novel PSNR fg` (foreground only), `Chamfer`, `F-score@0.02`."""
    if metric in _WHOLE:
        return _WHOLE[metric]
    if metric.startswith("fscore@"):
        return f"F-score{metric.removeprefix('fscore')}"
    place, _, rest = metric.partition("_")
    stem = rest.removesuffix("_foreground")
    if place not in _PLACES or stem not in _NAMES:
        return metric.replace("_", " ")
    return f"{_PLACES[place]} {_NAMES[stem]}{' fg' if stem != rest else ''}"


def titled(metric: str) -> str:
    """The label with its unit and an arrow toward better."""
    unit = " (dB)" if "psnr" in metric else " (MiB)" if metric == "peak_memory_mib" else ""
    upward = higher_is_better(metric)
    return label(metric) + unit + ("" if upward is None else " ↑" if upward else " ↓")


def group(metric: str) -> str:
    """Which of `GROUPS` a metric is shown in, `Other` where in none."""
    if metric in _COSTS:
        return "Cost"
    starts = {
        "mv_": GROUPS[0],
        "render_": GROUPS[1],
        "novel_": GROUPS[2],
        "gap_": GROUPS[3],
        "coordinate_error": GROUPS[3],
        "chamfer": GROUPS[4],
        "fscore": GROUPS[4],
        "normal_": GROUPS[4],
        "volume_": GROUPS[4],
    }
    return next((name for start, name in starts.items() if metric.startswith(start)), "Other")


def grouped(metrics: Iterable[str]) -> dict[str, list[str]]:
    """Metrics by group, groups in the order of `GROUPS`."""
    found: dict[str, list[str]] = {name: [] for name in (*GROUPS, "Other")}
    for metric in metrics:
        found[group(metric)].append(metric)
    return {name: members for name, members in found.items() if members}


def headline(metrics: Sequence[str]) -> list[str]:
    """What the short table and the figures show, at least one metric; of the F-scores the middle threshold's."""
    thresholds = sorted((m for m in metrics if m.startswith("fscore@")), key=lambda m: float(m.split("@")[1]))
    middle = thresholds[(len(thresholds) - 1) // 2] if thresholds else ""
    wanted = [middle if name == "fscore" else name for name in _HEADLINE]
    return [name for name in wanted if name in metrics] or list(metrics[:5])


def number(metric: str, value: float, signed: bool = False) -> str:
    """A value with the decimals that its metric deserves, `-` where missing."""
    if math.isnan(value):
        return "-"
    digits = 2 if "psnr" in metric else 4 if metric.startswith(("chamfer", "coordinate")) else 3
    if metric in _COSTS:
        digits = 2 if metric == "seconds" else 0
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text if float(text) else f"{0:.{digits}f}"  # no "-0.00"


def interval(metric: str, low: float, high: float) -> str:
    """An interval's two ends in brackets, `-` where missing."""
    return "-" if math.isnan(low) else f"[{number(metric, low, True)}, {number(metric, high, True)}]"


def probability(p: float) -> str:
    """A p-value with three decimals, empty where there is none."""
    return "" if math.isnan(p) else "<0.001" if p < 0.0005 else f"{p:.3f}"

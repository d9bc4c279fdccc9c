"""The columns of `results.csv`: the one table that measuring, comparing and drawing read.

A new metric is a row here, and its class.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from ouroboros3d.metrics.geometry import Chamfer, FScore, NormalConsistency, VolumeIoU
from ouroboros3d.metrics.images import LPIPS, PSNR, SSIM, CoordinateError, MaskIoU
from ouroboros3d.metrics.per_object import PerObject

VIEWS, RENDERS, NOVEL = "Generated views", "Renders, input cameras", "Renders, novel cameras"
CONSISTENCY, GEOMETRY, COST, OTHER = "3D consistency", "Geometry", "Cost", "Other"
GROUPS = (VIEWS, RENDERS, NOVEL, CONSISTENCY, GEOMETRY, COST, OTHER)


@dataclass(frozen=True)
class Column:
    """What is known of a column.

    Args:
        name: in results.csv. One that ends in `@` is a family, whose columns are named with a number behind it.
        metric: the class that measures it, None for costs and what is not measured by one.
        of: what the metric is given, together with what its class compares: generated views (`mv`), renders at their
            cameras or at novel ones, generated views and their own renders (`gap`), or the whole object.
        label: how readers call it.
        group: the table that it stands in, one of `GROUPS`; empty for what is the same whatever is compared.
        unit: of its values, empty without one.
        digits: after the decimal point.
        options: of the metric's class; LPIPS is given its network besides.
        better: for a column without a metric, which way it gets better, None where neither is.
        headline: whether the short table and the figures show it; of a family the middle one.
        ratio: whether a difference in percent means something, which it does not for decibels.
        of_batch: whether the objects of a batch share its value, so that an interval over objects would be wrong.
    """

    name: str
    metric: type[PerObject] | None
    of: Literal["mv", "render", "novel", "gap", "unaligned", "object", ""]
    label: str
    group: str
    unit: str = ""
    digits: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)
    better: Literal["higher", "lower"] | None = None
    headline: bool = False
    ratio: bool = False
    of_batch: bool = False

    @property
    def higher_is_better(self) -> bool | None:
        """Whether a larger value is a better one; None where neither direction is."""
        if self.metric is not None:
            return self.metric.higher_is_better
        return None if self.better is None else self.better == "higher"

    @property
    def arrow(self) -> str:
        """Toward better, after a space; empty where neither direction is."""
        return {None: "", True: " ↑", False: " ↓"}[self.higher_is_better]

    @property
    def title(self) -> str:
        """The label with its unit and an arrow toward better."""
        return self.label + (f" ({self.unit})" if self.unit else "") + self.arrow

    def text(self, value: float, signed: bool = False) -> str:
        """A value with its decimals, `-` where missing."""
        if value != value:
            return "-"
        text = f"{value:{'+' if signed else ''}.{self.digits}f}"
        return text if float(text) else f"{0:.{self.digits}f}"  # no "-0.00"

    def member(self, number: float) -> "Column":
        """A family's column of a number."""
        options = {name: number for name in self.options}
        return replace(self, name=f"{self.name}{number:g}", label=f"{self.label}@{number:g}", options=options)


_FG = {"foreground": True}
_PSNR: Mapping[str, Any] = {"unit": "dB", "digits": 2}
_LOWER: Mapping[str, Any] = {"better": "lower", "digits": 0}

COLUMNS = (
    Column("mv_psnr", PSNR, "mv", "views PSNR", VIEWS, **_PSNR),
    Column("mv_ssim", SSIM, "mv", "views SSIM", VIEWS),
    Column("mv_lpips", LPIPS, "mv", "views LPIPS", VIEWS),
    Column("mv_psnr_foreground", PSNR, "mv", "views PSNR fg", VIEWS, options=_FG, headline=True, **_PSNR),
    Column("mv_ssim_foreground", SSIM, "mv", "views SSIM fg", VIEWS, options=_FG),
    Column("mv_lpips_foreground", LPIPS, "mv", "views LPIPS fg", VIEWS, options=_FG),
    Column("render_psnr", PSNR, "render", "renders PSNR", RENDERS, **_PSNR),
    Column("render_ssim", SSIM, "render", "renders SSIM", RENDERS),
    Column("render_lpips", LPIPS, "render", "renders LPIPS", RENDERS),
    Column("render_psnr_foreground", PSNR, "render", "renders PSNR fg", RENDERS, options=_FG, headline=True, **_PSNR),
    Column("render_ssim_foreground", SSIM, "render", "renders SSIM fg", RENDERS, options=_FG),
    Column("render_lpips_foreground", LPIPS, "render", "renders LPIPS fg", RENDERS, options=_FG),
    Column("render_mask_iou", MaskIoU, "render", "renders mask IoU", RENDERS),
    Column("novel_psnr", PSNR, "novel", "novel PSNR", NOVEL, **_PSNR),
    Column("novel_ssim", SSIM, "novel", "novel SSIM", NOVEL),
    Column("novel_lpips", LPIPS, "novel", "novel LPIPS", NOVEL),
    Column("novel_psnr_foreground", PSNR, "novel", "novel PSNR fg", NOVEL, options=_FG, headline=True, **_PSNR),
    Column("novel_ssim_foreground", SSIM, "novel", "novel SSIM fg", NOVEL, options=_FG, headline=True),
    Column("novel_lpips_foreground", LPIPS, "novel", "novel LPIPS fg", NOVEL, options=_FG, headline=True),
    Column("novel_mask_iou", MaskIoU, "novel", "novel mask IoU", NOVEL),
    Column("gap_psnr", PSNR, "gap", "gap PSNR", CONSISTENCY, headline=True, **_PSNR),
    Column("gap_ssim", SSIM, "gap", "gap SSIM", CONSISTENCY),
    Column("gap_lpips", LPIPS, "gap", "gap LPIPS", CONSISTENCY),
    Column("chamfer_unaligned", Chamfer, "unaligned", "Chamfer, unaligned", GEOMETRY, digits=4, ratio=True),
    Column("chamfer", Chamfer, "object", "Chamfer", GEOMETRY, digits=4, headline=True, ratio=True),
    Column("fscore@", FScore, "object", "F-score", GEOMETRY, options={"threshold": 0.0}, headline=True, ratio=True),
    Column("normal_consistency", NormalConsistency, "object", "normal consistency", GEOMETRY, headline=True),
    Column("volume_iou", VolumeIoU, "object", "volume IoU", GEOMETRY),
    Column("coordinate_error", CoordinateError, "object", "coordinate error", CONSISTENCY, digits=4, ratio=True),
    # Of the data and not of the method.
    Column("constant_psnr_foreground", None, "", "best constant image, PSNR fg", OTHER, **_PSNR),
    Column("batch_size", None, "", "batch size", ""),
    Column("input_azimuth_deg", None, "", "azimuth of the input view", "", unit="°", digits=0),
    Column("truncated_pixels", None, "", "truncated pixels", OTHER, **_LOWER),
    # Of steps.csv; what its other curves are called, they have in common with the columns above.
    Column("estimate_psnr", None, "", "estimate PSNR", OTHER, better="higher", **_PSNR),
    Column("estimate_psnr_foreground", None, "", "estimate PSNR fg", OTHER, better="higher", **_PSNR),
    Column("nfe", None, "", "network evaluations", COST, **_LOWER),
    Column("vae_decodes", None, "", "decodes", COST, **_LOWER),
    Column("vae_encodes", None, "", "encodes", COST, **_LOWER),
    Column("recon_calls", None, "", "reconstructions", COST, **_LOWER),
    Column("render_calls", None, "", "renderings", COST, **_LOWER),
    Column(
        *("seconds", None, "", "seconds", COST),
        **{**_LOWER, "digits": 2},
        headline=True,
        ratio=True,
        of_batch=True,
    ),
    Column("peak_memory_mib", None, "", "peak memory", COST, unit="MiB", ratio=True, of_batch=True, **_LOWER),
)
_BY_NAME = {column.name: column for column in COLUMNS}


@cache
def column(name: str) -> Column:
    """What is known of a column by its name; of an unknown one its name without underscores, and no direction."""
    if name in _BY_NAME and not name.endswith("@"):
        return _BY_NAME[name]
    family, _, number = name.rpartition("@")
    if f"{family}@" in _BY_NAME and re.fullmatch(r"\d+(\.\d+)?", number):
        return replace(_BY_NAME[f"{family}@"].member(float(number)), name=name)
    return Column(name, None, "", name.replace("_", " "), OTHER)


def measured(fscore_thresholds: Sequence[float], aligned: bool) -> Iterator[Column]:
    """The columns that a metric's class measures, each member of a family by itself.

    Args:
        fscore_thresholds: of the F-scores, scene units.
        aligned: whether surfaces are aligned before they are compared, so that the distance without it is one more.
    """
    for each in COLUMNS:
        if each.name == "fscore@":
            yield from map(each.member, fscore_thresholds)
        elif each.metric is not None and (aligned or each.of != "unaligned"):
            yield each


def headline(names: Sequence[str]) -> list[str]:
    """Those of some columns that the short table and the figures show, at least one; of a family the middle one."""
    shown = []
    for each in COLUMNS:
        if not each.headline:
            continue
        found = [name for name in names if name == each.name or (each.name[-1] == "@" and name.startswith(each.name))]
        found.sort(key=lambda name: float(name.partition("@")[2] or 0))
        shown += found[(len(found) - 1) // 2 :][:1]
    return shown or list(names[:5])

"""`python -m ouroboros3d check-data`: what a tree of meshes or renders holds, and whether its cameras are right."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ouroboros3d.arguments import OneLineParser
from ouroboros3d.datamodules.readers.detection import ReaderName, open_tree
from ouroboros3d.datamodules.readers.meshes import MeshReader
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.datamodules.readers.stored import SampleError
from ouroboros3d.files import replace_text
from ouroboros3d.inspection import overlays
from ouroboros3d.inspection.conventions import STORED
from ouroboros3d.inspection.diagnosis import diagnose, find_up
from ouroboros3d.inspection.findings import Check, Finding, all_findings, skip_list, verdict, view_names
from ouroboros3d.inspection.fit import FITS, ViewSet
from ouroboros3d.inspection.images import Images, look_at
from ouroboros3d.inspection.meshes import broken_assets, mesh_facts, mesh_findings
from ouroboros3d.inspection.report import Pictured, camera_map, histogram, page
from ouroboros3d.inspection.statistics import CameraStatistics

# Objects on which every hypothesis is tried, some seconds each: enough to outvote symmetric ones.
_PROBED = 12
_MISFITS = 64  # more objects that do not fit are not looked into one by one
_PICTURED = 12
_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}


def run(arguments: Sequence[str]) -> None:
    """Check a tree.

    Args:
        arguments: the command line after `check-data`.

    Raises:
        ValueError: a wrong argument, or a tree of no known format; one line.
        SystemExit: code 1, where there are errors in the data.
    """
    parser = OneLineParser("check-data")
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--objects", type=int, default=32)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--reader", choices=get_args(ReaderName))
    parser.add_argument("--views_per_object", type=int)
    parser.add_argument("--assume_rig", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    if options.objects < 1 or options.workers < 1:
        raise ValueError(f"objects, workers: expected at least 1, got {options.objects} and {options.workers}.")
    tree = open_tree(options.root, options.reader, options.views_per_object, options.assume_rig)
    torch.set_num_threads(1)  # the tensors are tiny: handing work to a second thread costs more than it saves
    out = options.out or Path("check-data") / options.root.resolve().name
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out: expected a folder that can be written, got {out} ({error}).") from error
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    title = f"{options.root}, format {tree.name}"
    if isinstance(tree, MeshReader):
        assets = tree.assets(tree.uids)
        skipped = broken_assets(assets, options.workers, timeout_s=120)
        findings, facts = mesh_findings(assets, skipped), mesh_facts(assets)
        html = page(title, findings, facts, [])
    else:
        sample = len(tree.uids) if options.all else options.objects
        with Progress(*columns, console=console) as progress:
            check = _check(tree, sample, progress)
            findings, facts, skipped = all_findings(check), _facts(check), skip_list(check)
            html = page(title, findings, facts, _plots(check), _pictures(tree, check, progress))
    replace_text(out / "report.html", html)
    replace_text(out / "skip_uids.txt", "".join(f"{uid} {reason}\n" for uid, reason in sorted(skipped.items())))
    _print(console, title, findings, facts, out, len(skipped))
    if any(finding.severity == "error" for finding in findings):
        raise SystemExit(1)


def _check(tree: PosedReader, sample: int, progress: Progress) -> Check:
    uids = tree.uids
    chosen = {uids[int(place)] for place in np.linspace(0, len(uids) - 1, min(sample, len(uids))).round()}
    images: list[Images] = []
    misfits: dict[str, float] = {}
    extents: dict[str, float] = {}
    for uid in progress.track(uids, description="reading views"):
        seen, alpha = look_at(tree, uid)
        images.append(seen)
        if uid in chosen and (one := _view_set(seen, alpha)):
            misfits[uid], extents[uid] = one.misfit, one.hull.extent
    sets = [one for uid in _probed(misfits) if (one := _view_set(*look_at(tree, uid)))]
    bar = progress.add_task("testing conventions", total=len(sets))
    stored = STORED.get(tree.name)
    diagnosis = diagnose(sets, stored, lambda: progress.advance(bar))
    cameras = {one.uid: one.cameras for one in images if one.cameras is not None}
    find_up(cameras, stored, diagnosis)
    for one in sets:
        if one.uid in diagnosis.mended:
            extents[one.uid] = one.seen_by(diagnosis.mended[one.uid]).hull.extent
        elif one.uid in diagnosis.unexplained:
            del extents[one.uid]
    if not any(explanation.of_all for explanation in diagnosis.explanations):
        tried = {one.uid for one in sets}
        diagnosis.unexplained += [uid for uid in misfits if misfits[uid] > FITS and uid not in tried]
    statistics = CameraStatistics.of(cameras.values())
    return Check(images, misfits, extents, diagnosis, stored, statistics)


def _view_set(images: Images, alpha: torch.Tensor | None) -> ViewSet | None:
    """What the cameras of an object are tested with; None if it cannot be."""
    if alpha is None or images.cameras is None:
        return None
    one = ViewSet.of(images.uid, images.cameras, alpha)
    return one if one.testable else None


def _probed(misfits: dict[str, float]) -> list[str]:
    """Objects that every hypothesis is tried on: those that fit worst, and evenly chosen ones."""
    worst = sorted((uid for uid in misfits if misfits[uid] > FITS), key=lambda uid: -misfits[uid])
    even = [list(misfits)[int(place)] for place in np.linspace(0, len(misfits) - 1, min(_PROBED, len(misfits)))]
    return list(dict.fromkeys([*even, *worst[:_MISFITS]]))


def _facts(check: Check) -> dict[str, str]:
    read = [one for one in check.images if one.cameras is not None]
    facts = {"objects": str(len(check.images)), "views": str(sum(one.views for one in read))}
    if not read:
        return facts
    sizes = sorted({one.size for one in read})
    facts["image size"] = ", ".join(f"{width} x {height}" for height, width in sizes[:4]) + " pixels"
    cameras = check.statistics
    facts["radius"] = cameras.range("radius") + _differ(cameras.varying_radius, len(read), "within the object")
    facts["elevation"] = cameras.range("elevation_deg", "°")
    facts["field of view"] = cameras.range("fov_deg", "°") + _differ(
        cameras.varying_fov, len(read), "within the object"
    )
    facts["cameras tested"] = f"{len(check.misfits)} objects"
    if check.misfits:
        typical = float(np.median(list(check.misfits.values())))
        facts["misfit"] = (
            f"median {typical:.2f} pixels of 128, worst {max(check.misfits.values()):.2f}; fits up to {FITS:g}"
        )
    if check.extents:
        low, high = min(check.extents.values()), max(check.extents.values())
        facts["object size"] = (
            f"longest edge {low:.2f} to {high:.2f}, median {np.median(list(check.extents.values())):.2f}"
        )
    return facts


def _differ(count: int, total: int, where: str) -> str:
    return f" (differs {where} in {count} of {total})" if count else ""


def _plots(check: Check) -> list[str]:
    cameras = check.statistics
    if not cameras.radius:
        return []
    plots = [
        camera_map(cameras.azimuth_deg, cameras.elevation_deg),
        histogram(cameras.radius, "Radius in scene units"),
        histogram(cameras.elevation_deg, "Elevation", "°"),
        histogram(cameras.fov_deg, "Field of view", "°"),
    ]
    if check.misfits:
        capped = [min(value, 20.0) for value in check.misfits.values()]
        plots.append(histogram(capped, "Misfit of the tested objects, up to 20", " px"))
        plots.append(histogram(list(check.extents.values()) or [0.0], "Longest edge of the objects' hulls"))
    return plots


def _pictures(tree: PosedReader, check: Check, progress: Progress) -> list[Pictured]:
    """The worst objects with their cameras drawn on them, and right ones beside them."""
    diagnosis = check.diagnosis
    said: dict[str, str] = {uid: f"views {a} and {b} are exchanged" for uid, (a, b) in diagnosis.swapped.items()}
    said |= {uid: f"{view_names(views)} not fitting the others" for uid, views in diagnosis.bad_views.items()}
    said |= dict.fromkeys(diagnosis.own_radii, "distances of the views were lost")
    said |= dict.fromkeys(diagnosis.unexplained, "does not fit")
    for explanation in diagnosis.explanations:
        said |= {uid: f"looks like {explanation.hypotheses[0].finding}" for uid in explanation.uids if uid not in said}
    said |= {uid: f"stands upright along {axis}" for uid, axis in diagnosis.up.items() if uid not in said}
    flawed = [one.uid for one in check.images if one.usable and (one.empty or one.clipped)][:3]
    order = sorted(check.misfits, key=lambda uid: (uid not in said, -check.misfits[uid]))
    opaque = [one.uid for one in check.images if one.opaque and not one.unreadable][:3]
    uids = list(dict.fromkeys([*order[: _PICTURED - 4], *flawed, *opaque, *order[:_PICTURED]]))[:_PICTURED]
    shown = []
    for uid in progress.track(uids, description="drawing"):
        if (picture := _picture(tree, uid, said.get(uid, ""), check)) is not None:
            shown.append(picture)
    return shown


def _picture(tree: PosedReader, uid: str, said: str, check: Check) -> Pictured | None:
    images, alpha = look_at(tree, uid)
    diagnosis = check.diagnosis
    marked = [*diagnosis.bad_views.get(uid, ()), *diagnosis.swapped.get(uid, ()), *images.empty, *images.clipped]
    one = _view_set(images, alpha)
    if images.cameras is None:
        return None
    views = overlays.shown_views(images.views, marked)
    found = tree.read(uid)
    try:
        rgba = torch.stack([found.rgba(view) for view in views])
    except SampleError:  # named in a finding already
        return None
    hull = one.hull.images & one.masks.solid if one else None
    strips = {"as stored": overlays.overlay(rgba, images.cameras, views, hull, marked)}
    if one:
        strips["masks and the hull of all views"] = overlays.coverage(one, views, marked)
    if one and uid in diagnosis.mended:
        mended = one.seen_by(diagnosis.mended[uid])
        hull = mended.hull.images & one.masks.solid
        strips["as they would fit"] = overlays.overlay(rgba, mended.cameras, views, hull, [])
    misfit = f"misfit {check.misfits[uid]:.2f} pixels" if uid in check.misfits else ""
    notes = [
        said,
        f"empty: {len(images.empty)} views" if images.empty else "",
        f"cut off: {len(images.clipped)} views" if images.clipped else "",
        "no transparency" if images.opaque else "",
        misfit,
    ]
    return Pictured(uid, "; ".join(filter(None, notes)), any(notes[:4]), strips)


def _print(
    console: Console, title: str, findings: Sequence[Finding], facts: dict[str, str], out: Path, skipped: int
) -> None:
    console.print(f"[bold]{escape(title)}[/]")
    numbers = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        numbers.add_row(f"[dim]{name}[/]", escape(value))
    console.print(numbers)
    if findings:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("", "found", "how many"):
            table.add_column(heading, overflow="fold")
        for finding in findings:
            colour = _COLOURS[finding.severity]
            table.add_row(f"[{colour}]{finding.severity}[/]", escape(finding.title), escape(finding.count))
        console.print(table)
    bad = any(finding.severity == "error" for finding in findings)
    console.print(f"[bold {'red' if bad else 'green'}]{escape(verdict(findings))}[/]")
    console.print(f"report:    {out / 'report.html'}", soft_wrap=True, markup=False)
    if skipped:
        path = out / "skip_uids.txt"
        console.print(f"skip list: {path} ({skipped} objects; --data.skip_uids {path})", soft_wrap=True, markup=False)

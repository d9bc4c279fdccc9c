"""`python -m ouroboros3d check-data`: what a tree of meshes or renders holds, and whether its cameras are right."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ouroboros3d.commands.check_data_options import parse
from ouroboros3d.datamodules.left_out import Ledger
from ouroboros3d.datamodules.readers.detection import open_tree
from ouroboros3d.datamodules.readers.errors import SampleError
from ouroboros3d.datamodules.readers.meshes import MeshReader
from ouroboros3d.datamodules.readers.posed import PosedReader
from ouroboros3d.datamodules.verdicts import Verdict, verdict_path, write_verdict
from ouroboros3d.files import atomic_write_text
from ouroboros3d.inspection import overlays
from ouroboros3d.inspection.camera_checks.silhouette_fit import FITS
from ouroboros3d.inspection.check import Check, check_tree, view_set
from ouroboros3d.inspection.findings.all import all_findings, skip_list
from ouroboros3d.inspection.findings.cameras import suspects
from ouroboros3d.inspection.findings.finding import Finding, conclusion
from ouroboros3d.inspection.findings.maps import map_facts
from ouroboros3d.inspection.findings.meshes import mesh_facts, mesh_findings, try_assets
from ouroboros3d.inspection.images import inspect_views
from ouroboros3d.inspection.report import Pictured, camera_map, histogram, page

_PICTURED = 12
_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}


def run(arguments: Sequence[str]) -> None:
    """Check a tree.

    Args:
        arguments: the command line after `check-data`.

    Raises:
        ValueError: a wrong argument, or a tree of no known format; one line.
        SystemExit: code 1, where there are errors in the data; 130 if it was interrupted.
    """
    options = parse(arguments)
    try:
        findings = _run(options)
    except KeyboardInterrupt:
        print("check-data: stopped; nothing was written", file=sys.stderr)
        raise SystemExit(130) from None
    if any(finding.severity == "error" for finding in findings):
        raise SystemExit(1)


def _run(options: argparse.Namespace) -> list[Finding]:
    tree = open_tree(options.root, options.reader, options.views_per_object, options.assume_rig)
    torch.set_num_threads(1)  # the tensors are tiny: handing work to a second thread costs more than it saves
    out = options.out or Path("check-data") / tree.key
    for name, folder in (("out", out), ("cache_dir", options.cache_dir)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{name}: expected a folder that can be written, got {folder} ({error}).") from error
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    title = f"{options.root}, format {tree.name}"
    if isinstance(tree, MeshReader):
        assets = tree.assets(tree.uids)
        trial = try_assets(assets, options.workers, timeout_s=120)
        broken, doubtful = trial.broken, trial.left_out(len(assets))
        findings, facts = mesh_findings(assets, trial), mesh_facts(assets)
        html = page(title, findings, facts, {})
    else:
        sample = len(tree.uids) if options.all else options.objects
        with Progress(*columns, console=console) as progress:
            check = check_tree(tree, sample, options.workers, progress)
            findings, facts = all_findings(check), _facts(check)
            broken, doubtful = skip_list(check)
            html = page(title, findings, facts, _plots(check), _pictures(tree, check, progress))
    report, listed = out / "report.html", out / "skip_uids.txt"
    atomic_write_text(report, html)
    skipped = sorted({**broken, **doubtful}.items())
    atomic_write_text(listed, "".join(f"{uid}\t{' '.join(reason.split())}\n" for uid, reason in skipped))
    files = {"report": str(report)}
    if skipped:
        files["skip list"] = f"{listed} ({len(skipped)} objects; --data.skip_uids {shlex.quote(str(listed))})"
    if isinstance(tree, PosedReader):
        ledger = Ledger.of(tree, options.cache_dir)
        unread = {one.uid for one in check.images if one.error or one.unreadable}
        ledger.replace({uid: ("read" if uid in unread else "check", reason) for uid, reason in broken.items()})
        kept = Verdict(
            root=str(tree.root.resolve()),
            reader=tree.name,
            checked_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            errors=tuple(one.title for one in findings if one.severity == "error" and not one.cured),
            report=str(report.resolve()),
        )
        write_verdict(kept, tree, options.cache_dir)
        said = "refuses this tree" if kept.errors else "may use it"
        files["verdict"] = f"{verdict_path(tree, options.cache_dir)} (fit {said})"
        if broken:
            files["left out"] = f"{ledger.path} ({len(broken)} objects, without which fit and test work)"
    _print(console, title, findings, facts)
    for name, value in files.items():
        console.print(f"{name + ':':<10} {value}", soft_wrap=True, markup=False)
    return findings


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
        facts["misfit"] = f"median {typical:.2f} pixels, worst {max(check.misfits.values()):.2f}; fits up to {FITS:g}"
    if check.extents:
        low, high = min(check.extents.values()), max(check.extents.values())
        facts["object size"] = (
            f"longest edge {low:.2f} to {high:.2f}, median {np.median(list(check.extents.values())):.2f}"
        )
    return facts | map_facts(check.maps)


def _differ(count: int, total: int, where: str) -> str:
    return f" (differs {where} in {count} of {total})" if count else ""


def _plots(check: Check) -> dict[str, Figure]:
    """By their captions."""
    cameras = check.statistics
    if not cameras.radius:
        return {}
    shown: dict[str, tuple[Sequence[float], str]] = {
        "Radius in scene units": (cameras.radius, ""),
        "Elevation": (cameras.elevation_deg, "°"),
        "Field of view": (cameras.fov_deg, "°"),
    }
    if check.misfits:
        capped = [min(value, 20.0) for value in check.misfits.values()]
        shown["Misfit of the tested objects, up to 20"] = (capped, " px")
        shown["Longest edge of the objects' hulls"] = (list(check.extents.values()) or [0.0], "")
    where = camera_map(cameras.azimuth_deg, cameras.elevation_deg)
    plots = {f"{caption}, {len(values)}": histogram(values, unit) for caption, (values, unit) in shown.items()}
    return {"Where the cameras stand, elevation over azimuth": where, **plots}


def _pictures(tree: PosedReader, check: Check, progress: Progress) -> list[Pictured]:
    """The worst objects with their cameras drawn on them, and right ones beside them."""
    said: dict[str, str] = {}
    for group in suspects(check):
        said |= group.reasons if group.certain else {}
    for explanation in check.diagnosis.explanations:
        said |= {uid: f"looks like {explanation.hypotheses[0].finding}" for uid in explanation.uids if uid not in said}
    said |= {uid: f"stands upright along {axis}" for uid, axis in check.diagnosis.up.items() if uid not in said}
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
    images, alpha = inspect_views(tree, uid)
    diagnosis = check.diagnosis
    marked = [*diagnosis.bad_views.get(uid, ()), *diagnosis.swapped.get(uid, ()), *images.empty, *images.clipped]
    one = view_set(images, alpha) if uid in check.misfits else None
    if images.cameras is None:
        return None
    numbers = one.numbers if one else range(images.views)
    places = overlays.shown_views(len(numbers), [numbers.index(view) for view in marked if view in numbers])
    views = [numbers[place] for place in places]
    found = tree.read(uid)
    try:
        rgba = torch.stack([found.rgba(view) for view in views])
    except SampleError:  # named in a finding already
        return None
    hull = (one.hull.images & one.masks.solid)[places] if one else None
    strips = {"as stored": overlays.overlay(rgba, images.cameras[views], views, hull, marked)}
    if one:
        strips["masks and the hull of all views"] = overlays.coverage(one, views, marked)
    if one and uid in diagnosis.mended:
        mended = one.seen_by(diagnosis.mended[uid])
        hull = (mended.hull.images & one.masks.solid)[places]
        strips["as they would fit"] = overlays.overlay(rgba, mended.cameras[places], views, hull, [])
    misfit = f"misfit {check.misfits[uid]:.2f} pixels" if uid in check.misfits else ""
    notes = [
        said,
        f"empty: {len(images.empty)} views" if images.empty else "",
        f"cut off: {len(images.clipped)} views" if images.clipped else "",
        "no transparency" if images.opaque else "",
        misfit,
    ]
    return Pictured(uid, "; ".join(filter(None, notes)), any(notes[:4]), strips)


def _print(console: Console, title: str, findings: Sequence[Finding], facts: dict[str, str]) -> None:
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
            table.add_row(f"[{colour}]{finding.severity}[/]", escape(finding.title), escape(finding.scope))
        console.print(table)
    bad = any(finding.severity == "error" for finding in findings)
    console.print(f"[bold {'red' if bad else 'green'}]{escape(conclusion(findings))}[/]")

"""Writes tested runs as `test` leaves them: known numbers in, so that known statistics must come out."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ouroboros3d.cameras import Cameras
from ouroboros3d.gaussians import Gaussians, save_ply
from ouroboros3d.viewer.page import save_viewer
from ouroboros3d.viewer.scene import Frame, scene

UIDS = tuple(f"object{index}" for index in range(8))
SIZE, VIEWS, NOVEL = 32, 4, 2
_COSTS = {"nfe": 20.0, "seconds": 1.5, "peak_memory_mib": 900.0, "batch_size": 8.0}
_CURVES = ("estimate_psnr_foreground", "render_psnr_foreground", "gap_psnr")


def protocol(folder: Path, **changed: object) -> dict[str, Any]:
    """The protocol fields of a run at desk scale."""
    return {
        "run_id": "/".join(folder.parts[-2:]),
        "experiment": folder.parent.name,
        "method": "Staged",
        "git_commit": "0123abcd",
        "config_hash": str(folder),
        "checkpoint": f"{folder}/checkpoints/last.ckpt",
        "checkpoint_sha256": f"sha of {folder}",
        "dataset": "bundled",
        "data_sha256": "sha of the data",
        "split": "test",
        "split_sha256": "sha of the uids",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "package_versions": "torch=2.11.0",
        "seed": 0,
        "training_seed": 0,
        "training_steps": 100,
        "training_length": 100,
        "training_batch": 8,
        "training_base_weights": ["bundled"],
        "training_data": ["root=bundled"],
        "training_rates": ["optimizer=AdamW", "lr=0.0003"],
        "resolution": SIZE,
        "background": "white",
        "fov_deg": 39.6,
        "views": VIEWS,
        "target_views": NOVEL,
        "lpips_net": None,
        "fscore_thresholds": [0.01, 0.02, 0.05],
        "sampler": "euler",
        "steps": 20,
        "guidance_max": 3.0,
        "projection_steps": [],
        "feedback_steps": [],
        "feedback_maps": [],
        "device": "cpu",
        "world_size": 1,
    } | changed


def write_run(
    folder: Path,
    values: Mapping[str, Sequence[float]],
    *,
    uids: Sequence[str] = UIDS,
    failures: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    pictures: bool = False,
    titles: Mapping[str, str] | None = None,
    **changed: object,
) -> Path:
    """Write a run: `values` by metric, one an object, NaN = missing; `changed` protocol fields; the folder."""
    folder.mkdir(parents=True)
    fields, failures = protocol(folder, **changed), dict(failures or {})
    settings = {"seed_everything": fields["training_seed"], "version": folder.name, "model": dict(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    stem, ends = ("results", "") if fields["split"] == "test" else (f"results_{fields['split']}", f"_{fields['split']}")
    columns = {**values, **{name: [cost] * len(uids) for name, cost in _COSTS.items() if name not in values}}
    rows = [
        {"uid": uid, **{name: _cell(column[i]) for name, column in columns.items()}}
        | ({} if titles is None else {"name": titles.get(uid, "")})
        | {"alignment_matrix": "[1.0, 0.0]", "status": failures.get(uid, "ok")}
        for i, uid in enumerate(uids)
    ]
    _write_csv(folder / f"{stem}.csv", [row | {name: _cell(value) for name, value in fields.items()} for row in rows])
    means = {name: float(np.nanmean(np.asarray(column, float))) for name, column in columns.items()}
    summary = {
        **fields,
        "truncated_pixels": len(str(folder)),
        "objects": len(uids),
        "failed": len(failures),
        "mean": means,
    }
    (folder / f"{stem}.json").write_text(json.dumps(summary))
    if pictures:
        generator = np.random.default_rng(abs(hash((folder.parent.name, fields["seed"]))) % 2**32)
        for uid in uids:
            _write_pictures(folder / f"objects{ends}" / uid, uid, generator)
        _write_curves(folder, uids, generator)
        _write_events(folder, generator)
    return folder


def _write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _cell(value: object) -> object:
    return "" if value is None or value != value else value


def _ball(uid: str, count: int = 1500) -> Gaussians:
    """An ellipsoid of the object's own proportions and colours."""
    torch.manual_seed(sum(map(ord, uid)))
    directions = torch.nn.functional.normalize(torch.randn(1, count, 3), dim=-1)
    means = 0.45 * directions * (0.4 + 0.6 * torch.rand(1, 1, 3))
    colours = (0.5 + 0.5 * directions * torch.randn(1, 1, 3)).clamp(0, 1)
    quaternions = torch.nn.functional.normalize(torch.randn(1, count, 4), dim=-1)
    return Gaussians(means, torch.full((1, count, 3), 0.02), quaternions, torch.rand(1, count, 1), colours)


def _picture(gaussians: Gaussians, count: int, noise: float, generator: np.random.Generator) -> Image.Image:
    """`count` views side by side: the centres dropped onto each image plane, and noise."""
    views = []
    for azimuth in np.linspace(0, 2 * np.pi, count, endpoint=False):
        x, y, z = gaussians.means[0].numpy().T
        right, depth = x * np.cos(azimuth) + z * np.sin(azimuth), z * np.cos(azimuth) - x * np.sin(azimuth)
        view = np.ones((SIZE, SIZE, 3))
        order = np.argsort(depth)
        columns, rows = ((right + 0.6) / 1.2 * SIZE).astype(int), ((0.6 - y) / 1.2 * SIZE).astype(int)
        view[rows[order], columns[order]] = gaussians.colours[0].numpy()[order]
        views.append(view + noise * generator.normal(size=view.shape) * (view < 1))
    pixels = (np.concatenate(views, axis=1).clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels)


def _write_pictures(folder: Path, uid: str, generator: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    ball = _ball(uid)
    _picture(ball, VIEWS, 0.15, generator).save(folder / "views.png")
    _picture(ball, VIEWS + NOVEL, 0.08, generator).save(folder / "renders.png")
    _picture(ball, VIEWS + NOVEL, 0.0, generator).save(folder / "truth.png")
    moved = ball.means + 0.02 * torch.from_numpy(generator.normal(size=ball.means.shape)).float()
    found = Gaussians(moved, ball.scales, ball.quaternions, ball.opacities, ball.colours)
    save_ply(found, folder / "gaussians.ply")
    cameras = Cameras.orbit(torch.arange(VIEWS) * 360 / VIEWS, 10.0, 1.7417, 39.598)[None]
    frames = [Frame(torch.rand(VIEWS, 3, SIZE, SIZE), found[:, ::each], each, 1.0) for each in (8, 4, 2)]
    save_viewer(folder / "viewer.html", uid, [scene("as tested", cameras, frames)])


def _write_curves(folder: Path, uids: Sequence[str], generator: np.random.Generator) -> None:
    rows = []
    for uid in uids:
        rises = generator.normal(12, 0.5, size=len(_CURVES))
        rows += [
            {"uid": uid, "step": step, "sigma": 80 * 0.7**step}
            | {name: 5 + rise * step / 19 for name, rise in zip(_CURVES, rises, strict=True)}
            for step in range(20)
        ]
    _write_csv(folder / "steps.csv", rows)


def _write_events(folder: Path, generator: np.random.Generator) -> None:
    """Two event files, as an interrupted and resumed training leaves them."""
    for steps in (range(0, 50, 5), range(50, 100, 5)):
        with SummaryWriter(str(folder), filename_suffix=f".{steps[0]}") as writer:
            for step in steps:
                for name in ("loss", "diffusion_loss", "reconstruction_loss"):
                    writer.add_scalar(f"train/{name}", 1 / (1 + step / 20) + 0.02 * generator.normal(), step)
                writer.add_scalar("epoch", step // 20, step)
            for name in ("novel_psnr_foreground", "mv_psnr_foreground"):
                writer.add_scalar(f"val/{name}", 10 + steps[-1] / 40 + 0.1 * generator.normal(), steps[-1])


def write_study(runs: Path, experiments: Sequence[str], seeds: Sequence[int] = (0, 1)) -> None:
    """A study of made-up numbers in which every later experiment is a little better than the one before."""
    generator = np.random.default_rng(0)
    levels = {
        "mv_psnr": (17.0, 0.3),
        "mv_psnr_foreground": (12.3, 0.3),
        "mv_ssim_foreground": (0.52, 0.01),
        "render_psnr_foreground": (13.4, 0.25),
        "novel_psnr": (18.0, 0.3),
        "novel_psnr_foreground": (13.5, 0.25),
        "novel_ssim_foreground": (0.55, 0.008),
        "render_mask_iou": (0.71, 0.01),
        "gap_psnr": (21.0, 0.9),
        "coordinate_error": (0.061, -0.002),
        "chamfer": (0.052, -0.003),
        "fscore@0.01": (0.21, 0.01),
        "fscore@0.02": (0.42, 0.02),
        "fscore@0.05": (0.71, 0.02),
        "normal_consistency": (0.68, 0.004),
        "constant_psnr_foreground": (12.16, 0.0),
        "seconds": (1.4, 0.9),
        "nfe": (40.0, 0.0),
    }
    hardness = {name: generator.normal(0, 0.12, len(UIDS)) for name in levels}
    for rank, experiment in enumerate(experiments):
        for seed in seeds:
            values = {}
            for name, (start, gain) in levels.items():
                column = start * (1 + hardness[name]) if name not in ("nfe", "seconds") else np.full(len(UIDS), start)
                noise = 2.5 * abs(gain) * generator.normal(size=len(UIDS)) if "constant" not in name else 0
                values[name] = list(column + gain * rank + (noise if name != "nfe" else 0))
            recursive = experiment.startswith("recursive")
            write_run(
                runs / experiment / f"version_{seed}",
                values,
                pictures=True,
                seed=seed,
                training_seed=seed,
                method="Recursive" if recursive else "Staged",
                feedback_maps=["colour", "coordinates"] if recursive else [],
                feedback_steps=list(range(20)) if recursive else [],
                timestamp=f"2026-01-0{seed + 1}T00:00:00+00:00",
            )

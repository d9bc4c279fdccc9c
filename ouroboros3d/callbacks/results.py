"""What `test` leaves behind: results.csv (a row an object), results.json (the summary), pictures and a table.

Results of another split than the test objects are named after it, such as results_train.json.
"""

import csv
import hashlib
import json
import os
import subprocess
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.callbacks.pictures import comparison_sheet, to_image
from ouroboros3d.callbacks.statistics import peak_memory_mib
from ouroboros3d.lightning_modules.image_to_3d import Evaluation, Generation, ImageTo3D
from ouroboros3d.metrics.images import best_constant_psnr, foreground_moments

_PACKAGES = ("torch", "lightning", "diffusers", "easypytorch3d", "ouroboros3d")
_SHOWN = {
    "mv": "generated views",
    "render": "renders, same cameras",
    "novel": "renders, novel cameras",
}


class ResultsWriter(Callback):
    """Collect every object's values during `test`, write them into the run and print the table.

    Values are averaged once an object: mean over its views, then over objects.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._started = 0.0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh."""
        self.rows = []

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: MultiviewBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Start the clock of a batch."""
        self._started = time.perf_counter()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Evaluation,  # type: ignore[override]
        batch: MultiviewBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's rows and write its pictures."""
        seconds = (time.perf_counter() - self._started) / len(batch)
        generation, renders, values = outputs
        folder = _pictures(trainer)
        for index, uid in enumerate(batch.uids):
            row = {"uid": uid, **{name: value[index].item() for name, value in values.items()}}
            moments = foreground_moments(batch.target_images_01[index], batch.target_alpha[index] > 0.5).cpu()
            self.rows.append({**row, "moments": moments, "seconds": seconds, "batch_size": len(batch)})
            one = Generation(generation.views_01[index : index + 1], generation.gaussians[index : index + 1])
            to_image(comparison_sheet(one, renders[index : index + 1], _object(batch, index))).save(
                folder / f"{uid}.png"
            )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather all ranks' rows, write the files on the first and print where they are."""
        assert isinstance(pl_module, ImageTo3D)
        rows = self.rows
        if trainer.world_size > 1:
            gathered: list[list[dict[str, Any]]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, rows)
            # A sampler pads the last batch by repeating objects; each counts once.
            rows = list({row["uid"]: row for part in gathered for row in part}.values())
        pictures = _pictures(trainer)  # a broadcast: every rank has to ask
        if not trainer.is_global_zero:
            return
        folder = pictures.parent
        rows = sorted(rows, key=lambda row: str(row["uid"]))
        constant = best_constant_psnr(torch.stack([row.pop("moments") for row in rows])).nanmean(1)
        for row, value in zip(rows, constant.tolist(), strict=True):
            row["constant_psnr_foreground"] = value
        header = protocol(trainer, pl_module, rows, folder)
        means = {name: _mean(rows, name) for name in rows[0] if isinstance(rows[0][name], float)}
        stem = "results" if header["split"] == "test" else f"results_{header['split']}"
        _write(folder / f"{stem}.json", json.dumps({**header, "objects": len(rows), "mean": means}, indent=2) + "\n")
        with (folder / f"{stem}.csv.part").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], *header])
            writer.writeheader()
            # A missing value is empty, never 0 or nan.
            flat = {name: _cell(value) for name, value in header.items()}
            writer.writerows({**{name: _cell(value) for name, value in row.items()}, **flat} for row in rows)
        (folder / f"{stem}.csv.part").replace(folder / f"{stem}.csv")
        console = Console()
        console.print(results_table(header["method"], means, len(rows), header["split"]))
        console.print(f"results:     {folder / stem}.json\npictures:    {pictures}", highlight=False)
        console.print(f"tensorboard: tensorboard --logdir {folder.parents[1]}", highlight=False, soft_wrap=True)


def results_table(method: str, means: dict[str, float], objects: int, split: str) -> Table:
    """The means of one run as a table."""
    table = Table(title=f"{method}: mean over {objects} {split} objects")
    columns = ["psnr", "psnr_foreground", "ssim", "lpips"]
    for column in ("", "PSNR dB", "PSNR dB, foreground", "SSIM", "LPIPS"):
        table.add_column(column, justify="left" if not column else "right")
    for prefix, title in _SHOWN.items():
        cells = [means.get(f"{prefix}_{column}") for column in columns]
        table.add_row(title, *("-" if cell is None else f"{cell:.3f}" for cell in cells))
    table.add_row("best constant image", "-", f"{means['constant_psnr_foreground']:.3f}", "-", "-")
    return table


def protocol(trainer: Trainer, module: ImageTo3D, rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """What the values were measured under (FORMATS 4.2), the same for every row of a run."""
    settings, data = module.sampler, trainer.datamodule  # type: ignore[attr-defined]
    checkpoint = trainer.ckpt_path
    uids = [str(row["uid"]) for row in rows]
    return {
        "run_id": "/".join(folder.parts[-2:]),
        "method": type(module).__name__,
        "git_commit": _git_commit(),
        "checkpoint": str(checkpoint) if checkpoint else "",
        "checkpoint_sha256": _sha256(Path(checkpoint)) if checkpoint else "",
        "dataset": str(getattr(data, "root", None) or "bundled"),
        "split": data.test_split,
        "split_sha256": hashlib.sha256("\n".join(uids).encode()).hexdigest(),
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "package_versions": " ".join(f"{name}={metadata.version(name)}" for name in _PACKAGES),
        "seed": settings.seed,
        "resolution": data.rig.image_size,
        "background": data.background,
        "views": data.num_views,
        "ssim_data_range": 1.0,
        "lpips_net": module.reconstruction_loss.settings.lpips_net if "mv_lpips" in rows[0] else "",
        "sampler": "euler",
        "steps": settings.num_steps,
        "guidance_min": settings.guidance_min,
        "guidance_max": settings.guidance_max,
        "guidance_shape": settings.guidance_shape,
        "feedback_maps": " ".join(module.unet.feedback_maps),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "device": str(module.device),
        "status": "ok",
    }


def _object(batch: MultiviewBatch, index: int) -> MultiviewBatch:
    one = slice(index, index + 1)
    return MultiviewBatch(
        batch.uids[one],
        batch.images_01[one],
        batch.alpha[one],
        batch.cameras[one],
        batch.target_images_01[one],
        batch.target_alpha[one],
        batch.target_cameras[one],
        batch.background[one],
        batch.object_from_batch[one],
    )


def _pictures(trainer: Trainer) -> Path:
    assert trainer.log_dir is not None
    folder = Path(trainer.log_dir) / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    values = torch.tensor([row[name] for row in rows])
    return values.nanmean().item()


def _cell(value: object) -> object:
    return "" if isinstance(value, float) and value != value else value


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _git_commit() -> str:
    """The commit of the source tree that runs, empty where it is an installed copy without one."""
    command = ["git", "-C", os.path.dirname(__file__), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""

"""What `test` leaves behind: results.json (the summary), results.csv (a row an object), steps.csv, objects/, a table.

Results of another split than the test objects are named after it, such as results_train.json.
"""

import csv
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.callbacks.journal import Journal
from ouroboros3d.callbacks.pictures import comparison_sheet, strip, titles_of, to_image
from ouroboros3d.callbacks.predictions import filter_comment
from ouroboros3d.callbacks.protocol import VOLATILE, listed_data, protocol
from ouroboros3d.callbacks.step_curves import StepCurves, mean_curves
from ouroboros3d.callbacks.step_frames import StepFrames
from ouroboros3d.cameras import Cameras
from ouroboros3d.files import atomic_write, atomic_write_text, naming
from ouroboros3d.gaussians import PlyAxes, save_ply
from ouroboros3d.lightning_modules.generation import Evaluation
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.metrics.columns import column as find_column
from ouroboros3d.metrics.images import best_constant_psnr, foreground_moments, load_lpips_or_explain
from ouroboros3d.renderers.gaussians import GaussianRenderer
from ouroboros3d.viewer.page import save_viewer
from ouroboros3d.viewer.scene import Frame, scene

_STEPS_SHOWN = 10  # of the sampler on the page of an object; a test may have thousands of objects


class ResultsWriter(Callback):
    """Measure every object during `test`, write its row at once, and the results at the end.

    Values are averaged once an object: mean over its views, then over objects. A test that was interrupted goes on
    where it stopped; several processes share the objects and write the results of one.

    `settings` is what the command line adds to the protocol: the checkpoint, `config_hash` and `training_seed`.

    Args:
        axes: of the plys in objects/.
    """

    def __init__(self, axes: PlyAxes = "gl_yup") -> None:
        self.axes: PlyAxes = axes
        self.settings: dict[str, Any] = {}
        self._header: dict[str, Any] = {}
        self._kept: list[dict[str, Any]] = []
        self._new: list[dict[str, Any]] = []
        self._curves: StepCurves | None = None
        self._frames: StepFrames | None = None
        self._journal: Journal | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over what an interrupted test of the same identity has measured, and skip those objects.

        Raises:
            ValueError: another process tests this run.
        """
        if stage != "test":
            return
        assert isinstance(pl_module, ImageTo3D)
        lpips = load_lpips_or_explain(pl_module.reconstruction_loss.settings.lpips_net)
        if lpips is not None:
            pl_module.evaluator.use_lpips(lpips)
        assert trainer.log_dir is not None
        self._folder = Path(trainer.log_dir)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._header = protocol(trainer, pl_module, self._folder, self.settings)
        split = self._header["split"]
        self._suffix = "" if split == "test" else f"_{split}"
        same = {name: value for name, value in self._header.items() if name not in VOLATILE}
        self._journal = Journal(self._folder, f"results{self._suffix}", json.dumps(same, sort_keys=True))
        if trainer.is_global_zero:
            self._journal.lock()
        self._kept, self._new = self._journal.read(), []
        if self._journal.is_of_another_test() and trainer.is_global_zero:
            print("test: an interrupted test with other weights, objects or settings is dropped", flush=True)
        trainer.strategy.barrier("the journal has been read by all")
        if trainer.is_global_zero:
            self._journal.restart(self._kept)
        trainer.strategy.barrier("the journal starts anew")
        done = [entry["row"]["uid"] for entry in self._kept]
        data = listed_data(trainer)
        if set(done) >= set(data.tested_uids()):  # Lightning runs no test without a batch: measure the last one again
            self._kept = [entry for entry in self._kept if entry["row"]["uid"] != done[-1]]
            done = [uid for uid in done if uid != done[-1]]
        data.skipped = frozenset(done)
        if done and trainer.is_global_zero:
            print(f"test: {len(done)} objects were tested before it was interrupted", flush=True)

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: MultiviewBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Watch the sampler's steps, if curves over them are wanted."""
        assert isinstance(pl_module, ImageTo3D)
        self._frames = StepFrames(pl_module, batch.cameras, _STEPS_SHOWN)
        self._curves = StepCurves(pl_module, batch, self._frames) if pl_module.evaluator.settings.step_curves else None
        pl_module.observers = [self._curves] if self._curves else []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Evaluation,  # type: ignore[override]
        batch: MultiviewBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch's pictures, Gaussians and rows."""
        assert isinstance(pl_module, ImageTo3D)
        pl_module.observers = []
        titles = titles_of(trainer, batch.uids)
        for index, uid in enumerate(batch.uids):
            finite = self._write_object(outputs, batch, index, pl_module.renderer, titles)
            row: dict[str, Any] = {"uid": uid, "name": titles.get(uid)}
            if finite:  # renderers leave out what is not, so a render of it would look like a poor prediction
                row |= {name: value[index].item() for name, value in outputs.values.items()}
            row["input_azimuth_deg"] = azimuth_deg(batch.cameras[index, 0], batch.object_from_batch[index])
            if finite and outputs.alignment is not None:
                row["alignment_matrix"] = outputs.alignment[index].flatten().tolist()
            row |= {**outputs.generation.cost, "batch_size": len(batch)}
            row["status"] = "ok" if finite else "the prediction is not finite"
            moments = foreground_moments(batch.target_images_01[index], batch.target_alpha[index] > 0.5)
            entry = {
                "row": row,
                "moments": moments.tolist(),
                "steps": self._curves.of_object(index) if finite and self._curves else [],
                "truncated": outputs.truncated.item(),
            }
            self._new.append(entry)
            assert self._journal is not None
            self._journal.append(trainer.global_rank, entry)

    def _write_object(
        self,
        outputs: Evaluation,
        batch: MultiviewBatch,
        index: int,
        renderer: GaussianRenderer,
        titles: Mapping[str, str],
    ) -> bool:
        """Leave what one object looks like; False where the prediction is not finite."""
        uid, one = batch.uids[index], batch.object(index)
        generation, renders = outputs.generation.object(index), outputs.renders_01[index : index + 1]
        gaussians = generation.gaussians.transform(one.object_from_batch)
        folder = self._folder / f"objects{self._suffix}" / uid
        made = (generation.views_01, renders, *(getattr(gaussians, field.name) for field in fields(gaussians)))
        if not all(bool(torch.isfinite(tensor).all()) for tensor in made):
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier test
            return False
        pictures = self._folder / "pictures"
        for path in (folder, pictures):
            path.mkdir(parents=True, exist_ok=True)
        with naming(folder):
            to_image(comparison_sheet(generation, renders, one, titles=titles)).save(pictures / f"{uid}.png")
            to_image(strip(generation.views_01[0])).save(folder / "views.png")
            to_image(strip(renders[0])).save(folder / "renders.png")
            to_image(strip(torch.cat([one.images_01[0], one.target_images_01[0]]))).save(folder / "truth.png")
        cameras = one.cameras.transform(one.object_from_batch[:, None])
        height, width = one.images_01.shape[-2:]
        gaussians = renderer.filtered(gaussians, cameras, height, width)
        comments = ["frame object", filter_comment(renderer, height, width), f"run {self._header['run_id']}"]
        save_ply(gaussians, folder / "gaussians.ply", axes=self.axes, comments=comments)
        assert self._frames is not None
        frames = self._frames.of_object(index, cameras, one.object_from_batch)
        frames.append(Frame(generation.views_01[0], gaussians))
        shown = scene(self._header["experiment"], cameras, frames, one.images_01[0])
        save_viewer(folder / "viewer.html", uid, [shown])
        return True

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather all processes' rows, write the files on the first and print where they are."""
        entries = self._kept + self._new
        self._write(trainer, entries)
        assert self._journal is not None
        self._journal.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the next test of this run begin; what was measured is kept for it."""
        if self._journal is not None:
            self._journal.close()

    def _write(self, trainer: Trainer, entries: list[dict[str, Any]]) -> None:
        assert self._journal is not None
        failed = dict(listed_data(trainer).failed)
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, (entries, failed))
            entries = [entry for part, _ in gathered for entry in part]
            failed = {uid: reason for _, part in gathered for uid, reason in part.items()}
        if not trainer.is_global_zero:
            return
        # A sampler pads the last batch by repeating objects; each counts once.
        entries = sorted({entry["row"]["uid"]: entry for entry in entries}.values(), key=lambda e: str(e["row"]["uid"]))
        rows = [entry["row"] for entry in entries]
        moments = torch.tensor([entry["moments"] for entry in entries])
        if moments.shape[1]:  # there are novel views
            for row, value in zip(rows, best_constant_psnr(moments).nanmean(1).tolist(), strict=True):
                row["constant_psnr_foreground"] = value
        measured = {row["uid"] for row in rows}  # and listed by another process since
        failed = {uid: reason for uid, reason in sorted(failed.items()) if uid not in measured}
        rows += [{"uid": uid, "status": reason} for uid, reason in failed.items()]
        means = _means(rows)
        curves = mean_curves([entry["steps"] for entry in entries if entry["steps"]])
        self._write_files(rows, entries, means)
        self._journal.remove()
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, value in means.items():
                    logger.experiment.add_scalar(f"test/{name}", value)
                for point in curves:
                    for name in point.keys() - {"step", "sigma"}:
                        logger.experiment.add_scalar(f"steps/{name}", point[name], point["step"])
        console = Console(markup=False)
        ok = sum(row["status"] == "ok" for row in rows)
        console.print(results_table(self._header["method"], means, ok, len(rows) - ok, self._header["split"]))
        for what, path in {
            "results": self._folder / f"results{self._suffix}.json",
            "objects": self._folder / f"objects{self._suffix}",
            "tensorboard": f"tensorboard --logdir {self._folder.parents[1]}",
        }.items():
            console.print(f"{what + ':':12} {path}", highlight=False, soft_wrap=True)

    def _write_files(
        self, rows: Sequence[dict[str, Any]], entries: Sequence[dict[str, Any]], means: dict[str, float]
    ) -> None:
        failed = sum(row["status"] != "ok" for row in rows)
        truncated = max(entry["truncated"] for entry in entries)
        summary = {**self._header, "truncated_pixels": truncated}
        summary |= {"objects": len(rows), "failed": failed, "mean": means}
        names = list(dict.fromkeys(name for row in rows for name in row))
        header = {name: _cell(value) for name, value in self._header.items()}
        _write_csv(
            self._folder / f"results{self._suffix}.csv",
            [*names, *header],
            ({**{name: _cell(row.get(name)) for name in names}, **header} for row in rows),
        )
        steps = [{"uid": entry["row"]["uid"], **point} for entry in entries for point in entry["steps"]]
        curves = self._folder / f"steps{self._suffix}.csv"
        curves.unlink(missing_ok=True)  # of an earlier test
        if steps:
            lines = ({name: _cell(value) for name, value in point.items()} for point in steps)
            _write_csv(curves, list(steps[0]), lines)
        # Last, because its presence says that the test is complete.
        atomic_write_text(self._folder / f"results{self._suffix}.json", json.dumps(summary, indent=2) + "\n")


def results_table(method: str, means: dict[str, float], objects: int, failed: int, split: str) -> Table:
    """The means of one run as a table, readable at 80 columns; what is of whole objects below it."""
    left_out = f", {failed} failed" if failed else ""
    table = Table(title=f"{method}: mean over {objects} {split} objects{left_out}", caption_justify="left")
    rows: dict[str, dict[str, str]] = {}
    below = []
    for column in map(find_column, means):
        value = column.text(means[column.name])
        if column.of in ("mv", "render", "novel"):
            place, _, name = column.label.partition(" ")
            rows.setdefault(place, {})[f"{name}\n{column.unit}"] = value
        elif column.of or column.name == "constant_psnr_foreground":
            below.append(f"{column.label} {value} {column.unit}".rstrip())
    heads = dict.fromkeys(head for cells in rows.values() for head in cells)
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for place, cells in rows.items():
        table.add_row(place, *(cells.get(head, "-") for head in heads))
    table.caption = ", ".join(below) + "; fg: pixels of the object alone"
    return table


def azimuth_deg(camera: Cameras, object_from_batch: Tensor) -> float:
    """From where a view is taken, in the object's frame: 0 from the front (+Z), 90 from its +X side, in (-180, 180].

    Args:
        camera: [] of the view, in the batch's frame.
        object_from_batch: [4, 4] maps points of the batch's frame to the object's.
    """
    x, _, z = camera.transform(object_from_batch).centres.tolist()
    return math.degrees(math.atan2(x, z))


def _means(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Means of all numbers over the objects that have them; objects that failed count in none."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["status"] != "ok":
            continue
        for name, value in row.items():
            if isinstance(value, (int, float)) and value == value:
                values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def _cell(value: object) -> object:
    """A value as a cell of a CSV file: a missing one is empty, never 0 or nan; a list keeps its brackets."""
    if value is None or value != value:
        return ""
    return json.dumps(value) if isinstance(value, list) else value


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, object]]) -> None:
    with atomic_write(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)

"""The comparison in TensorBoard: one run a variant and seed, and the run `overview` with figures, strips and tables."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ouroboros3d.comparison import figures
from ouroboros3d.comparison.labels import grouped
from ouroboros3d.comparison.outcome import Comparison
from ouroboros3d.comparison.points import SCENE, cloud
from ouroboros3d.comparison.runs import Run
from ouroboros3d.comparison.tables import caption, explanation, markdown_tables, markdown_text
from ouroboros3d.comparison.variants import Variant
from ouroboros3d.metrics.columns import column, headline
from ouroboros3d.reports.plots import to_image

OVERVIEW = "overview"
# TensorBoard keeps ten steps of a tag, and draws a canvas a card of which a browser allows sixteen: so a variant's
# clouds are the steps of one card.
_CLOUDS = 10
# The HParams table shows five settings at first.
_SETTINGS = ("method", "feedback_maps", "seed", "steps")


def write_dashboard(comparison: Comparison, folder: Path, strips: Mapping[str, Mapping[str, Image.Image]]) -> None:
    """Write event files under an empty folder.

    Args:
        comparison: what is shown.
        folder: that TensorBoard will be started on.
        strips: pictures by uid and kind.
    """
    tags: dict[str, None] = {}
    for variant in comparison.variants:
        for seed, run in variant.runs.items():
            with SummaryWriter(str(folder / variant.name / f"seed_{seed}")) as writer:
                for tag, value, step, wall_time in [*_copied(run), *_curves(run)]:
                    writer.add_scalar(tag, value, step, wall_time)
                    tags[tag] = None
                _write_session(writer, comparison, variant, seed)
                if run is variant.first:
                    _write_clouds(writer, variant, comparison.uids)
    with SummaryWriter(str(folder / OVERVIEW)) as writer:
        writer.add_custom_scalars(layout(list(tags)))
        metrics = headline(comparison.metrics)
        for metric in metrics:
            differences, objects = figures.differences(comparison, [metric]), figures.scatter(comparison, [metric])
            _write_picture(writer, f"differences/{metric}", to_image(differences))
            _write_picture(writer, f"objects/{metric}", to_image(objects))
        for uid, pictures in strips.items():
            for kind, picture in pictures.items():
                _write_picture(writer, f"{kind}/{comparison.title(uid)}", picture)
        notes = "\n".join(f"- {markdown_text(note)}" for note in comparison.notes)
        tables = {"Headline": metrics, **grouped(comparison.metrics)}
        for place, (name, members) in enumerate(tables.items()):  # shown in the order of their names
            text = [f"{markdown_text(caption(comparison))}. Bold: best mean.", markdown_tables(comparison, members)]
            writer.add_text(f"tables/{place} {name}", "\n\n".join([*text, explanation(comparison), notes]))


def layout(tags: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """The custom-scalars layout: a chart a tag with all variants in it, by category.

    Args:
        tags: of scalars, such as `train/loss`, `val/novel_psnr` and `steps/gap_psnr`.
    """
    titles = {"train/": "Training losses", "val/": "Validation", "steps/": "Per denoising step"}
    return {
        title: {
            column(tag.removeprefix(start)).label: ["Multiline", [f"^{tag}$"]]
            for tag in sorted(tags)
            if tag.startswith(start)
        }
        for start, title in titles.items()
        if any(tag.startswith(start) for tag in tags)
    }


def _copied(run: Run) -> Iterator[tuple[str, float, int, float]]:
    """Losses and validation metrics of all event files of a run: tag, value, step, wall time."""
    everything = {"scalars": 0, "tensors": 1, "images": 1, "compressedHistograms": 1, "histograms": 1, "audio": 1}
    events = EventAccumulator(str(run.folder), size_guidance=everything).Reload()
    for tag in events.Tags()["scalars"]:
        if tag.startswith("val/") or (tag.startswith("train/") and tag.endswith("loss")):
            yield from ((tag, event.value, event.step, event.wall_time) for event in events.Scalars(tag))


def _curves(run: Run) -> Iterator[tuple[str, float, int, float]]:
    for name, values in run.curves().items():
        if name != "sigma":
            yield from ((f"steps/{name}", float(value), step, time.time()) for step, value in enumerate(values))


def _write_session(writer: SummaryWriter, comparison: Comparison, variant: Variant, seed: str) -> None:
    """A row of the HParams table: the run's settings and its mean over objects in every metric."""
    run = variant.runs[seed]
    settings = {"variant": variant.name} | {name: _setting(run.protocol.get(name)) for name in _SETTINGS}
    table = comparison.values[variant.name][list(variant.runs).index(seed)]
    means = {}
    for metric in dict.fromkeys([*headline(comparison.metrics), *comparison.metrics]):
        values = table[:, list(comparison.metrics).index(metric)]
        if not np.isnan(values).all():
            means[f"test/{metric}"] = float(np.nanmean(values))
    for summary in hparams(settings, means):
        writer._get_file_writer().add_summary(summary)  # `add_hparams` would make a run of its own below this one
    for tag, value in means.items():
        writer.add_scalar(tag, value)


def _setting(value: object) -> str:
    """A setting as text, since TensorBoard shows the number 20 as 20.000."""
    return (" ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def _write_picture(writer: SummaryWriter, tag: str, picture: Image.Image) -> None:
    writer.add_image(tag, np.asarray(picture), dataformats="HWC")


def _write_clouds(writer: SummaryWriter, variant: Variant, uids: Sequence[str]) -> None:
    """A card for the variant, whose steps are the objects in their order."""
    for index, uid in enumerate(uids[:_CLOUDS]):
        path = variant.first.pictures(uid) / "gaussians.ply"
        if path.is_file():
            vertices, colours = cloud(path, f"{variant.name}\n{uid[:20]}")
            writer.add_mesh(f"{variant.name}/gaussians", vertices, colours, config_dict=SCENE, global_step=index)

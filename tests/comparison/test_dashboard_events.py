"""What the dashboard's event files hold, read back with TensorBoard's own reader."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from run_writer import UIDS, write_run, write_study
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from ouroboros3d.commands.compare import run
from ouroboros3d.comparison.dashboard import layout
from ouroboros3d.comparison.points import cloud
from ouroboros3d.gaussians import Gaussians, save_ply

EVERYTHING = {"scalars": 0, "images": 0, "tensors": 0}


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance=EVERYTHING).Reload()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "runs"
    write_study(folder, ["staged", "recursive"])
    # Tested with another run's checkpoint: no training of its own.
    for path in (folder / "recursive").glob("*/events*"):
        path.unlink()
    run(["--runs", str(folder)])
    return folder


def test_one_run_a_variant_and_seed(runs):
    found = {str(path.parent.relative_to(runs / "comparison")) for path in (runs / "comparison").rglob("events*")}
    assert found == {"overview", *(f"{name}/seed_{seed}" for name in ("staged", "recursive") for seed in (0, 1))}
    assert len(list((runs / "comparison").rglob("events*"))) == 5


def test_curves_are_copied_whole_from_all_event_files(runs):
    source, copy = events(runs / "staged/version_1"), events(runs / "comparison/staged/seed_1")
    for tag in ("train/loss", "train/diffusion_loss", "val/novel_psnr_foreground"):
        assert [(e.step, e.value, e.wall_time) for e in copy.Scalars(tag)] == [
            (e.step, e.value, e.wall_time) for e in source.Scalars(tag)
        ]
    assert [e.step for e in copy.Scalars("train/loss")] == list(range(0, 100, 5))
    assert "epoch" not in copy.Tags()["scalars"]
    assert "train/loss" not in events(runs / "comparison/recursive/seed_0").Tags()["scalars"]


def test_curves_over_denoising_steps_are_means_over_objects(runs):
    table = np.genfromtxt(runs / "staged/version_0/steps.csv", delimiter=",", names=True)
    scalars = events(runs / "comparison/staged/seed_0").Scalars("steps/gap_psnr")
    assert [e.step for e in scalars] == list(range(20))
    expected = [table["gap_psnr"][table["step"] == step].mean() for step in range(20)]
    assert [e.value for e in scalars] == pytest.approx(expected)


def test_the_layout_has_a_chart_a_tag(runs):
    stored = events(runs / "comparison/overview").Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    parsed = layout_pb2.Layout.FromString(stored)
    charts = {category.title: {c.title: list(c.multiline.tag) for c in category.chart} for category in parsed.category}
    assert list(charts) == ["Training losses", "Validation", "Per denoising step"]
    assert charts["Per denoising step"]["gap PSNR"] == ["^steps/gap_psnr$"]
    assert charts["Training losses"]["reconstruction loss"] == ["^train/reconstruction_loss$"]
    assert charts["Validation"]["novel PSNR fg"] == ["^val/novel_psnr_foreground$"]
    assert layout(["other/x"]) == {}


def test_hparams_have_a_session_a_run_with_its_metrics(runs):
    read = events(runs / "comparison/recursive/seed_1")
    content = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    settings = {name: value.string_value for name, value in start.hparams.items()}
    assert settings == {
        "variant": "recursive",
        "method": "Recursive",
        "feedback_maps": "colour coordinates",
        "seed": "1",
        "steps": "20",
    }
    content = read.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    names = [info.name.tag for info in experiment.metric_infos]
    assert names[:3] == [f"test/{place}_psnr_foreground" for place in ("mv", "render", "novel")]  # shown at first
    assert set(names) <= set(read.Tags()["scalars"])
    mean = json.loads((runs / "recursive/version_1/results.json").read_text())["mean"]["chamfer"]
    assert read.Scalars("test/chamfer")[0].value == pytest.approx(mean)


def test_figures_strips_and_tables(runs):
    read = events(runs / "comparison/overview")
    tags = read.Tags()["images"]
    assert {f"views/{uid}" for uid in UIDS} | {f"renders/{uid}" for uid in UIDS} < set(tags)
    assert {"differences/chamfer", "objects/chamfer", "differences/fscore@0.02"} < set(tags)
    views, renders = read.Images(f"views/{UIDS[0]}")[0], read.Images(f"renders/{UIDS[0]}")[0]
    assert views.height == renders.height == 22 + 4 * 98  # input, two variants, truth
    assert renders.width - views.width == 2 * 98  # two novel cameras
    texts = [tag for tag in read.Tags()["tensors"] if tag.startswith("tables/")]
    assert texts[0] == "tables/0 Headline/text_summary"
    text = read.Tensors(texts[0])[0].tensor_proto.string_val[0].decode()
    assert "| novel PSNR fg (dB) ↑ |" in text
    assert "intervals of the mean paired difference" in text


def test_clouds_are_steps_of_one_card_a_variant(runs):
    read = events(runs / "comparison/staged/seed_0")
    meshes = [tag for tag in read.Tags()["tensors"] if tag.startswith("staged/gaussians")]
    assert len(meshes) == 2  # vertices and colours
    assert [event.step for event in read.Tensors(meshes[0])] == list(range(8))
    again = events(runs / "comparison/staged/seed_1").Tags()["tensors"]
    assert not any("gaussians" in tag for tag in again)  # the first seed stands for the variant


def test_a_cloud_leaves_out_what_is_nearly_invisible_and_names_itself(tmp_path):
    opacities = torch.tensor([0.9, 0.05, 0.5, 0.2]).reshape(1, 4, 1)
    means = torch.arange(12.0).reshape(1, 4, 3) / 12
    quaternions = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 4, 4)
    colours = torch.rand(1, 4, 3)
    save_ply(Gaussians(means, torch.full((1, 4, 3), 0.1), quaternions, opacities, colours), tmp_path / "g.ply")
    vertices, shades = cloud(tmp_path / "g.ply", "staged\nchair")
    assert torch.allclose(vertices[0, :3], means[0, [0, 2, 3]])  # most opaque first
    assert torch.equal(shades[0, :3], (colours[0, [0, 2, 3]] * 255).round().to(torch.uint8))
    letters = vertices[0, 3:]
    assert len(letters) > 50
    assert letters[:, 1].max() < -0.6  # below the object
    assert letters[:, 0].abs().max() < 0.7
    assert len(cloud(tmp_path / "g.ply", "staged\na longer name")[0][0]) > len(vertices[0])


def test_runs_without_pictures_curves_or_events_still_make_a_dashboard(tmp_path):
    for name in ("staged", "recursive"):
        write_run(tmp_path / "runs" / name / "v", {"chamfer": [0.1] * 8})
    run(["--runs", str(tmp_path / "runs")])
    read = events(tmp_path / "runs/comparison/overview")
    assert read.Tags()["images"] == ["differences/chamfer", "objects/chamfer", "differences/seconds", "objects/seconds"]


def test_large_views_are_made_smaller_and_many_objects_are_not_all_drawn(tmp_path):
    uids = [f"o{i:02}" for i in range(26)]
    for name in ("staged", "recursive"):
        folder = write_run(tmp_path / "runs" / name / "v", {"chamfer": [0.1] * 26}, uids=uids)
        for uid in uids:
            (folder / "objects" / uid).mkdir(parents=True)
            for picture in ("views", "renders", "truth"):
                Image.new("RGB", (400, 200)).save(folder / "objects" / uid / f"{picture}.png")
    run(["--runs", str(tmp_path / "runs")])
    read = events(tmp_path / "runs/comparison/overview")
    assert len([tag for tag in read.Tags()["images"] if tag.startswith("views/")]) == 24
    assert read.Images("views/o00")[0].height == 22 + 4 * 98
    assert "2 more objects are left out here" in (tmp_path / "runs/comparison/comparison.html").read_text()

"""`test` end to end: what it writes, that it resumes, and that two processes write the results of one."""

import csv
import gzip
import io
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import working_in
from PIL import Image
from processes import Command, ranks

from ouroboros3d.callbacks.results import ResultsWriter, _means, azimuth_deg, results_table
from ouroboros3d.cameras import Cameras
from ouroboros3d.cli import main
from ouroboros3d.datamodules.selection import BUNDLED
from ouroboros3d.datamodules.splits import split_of
from ouroboros3d.gaussians import load_ply
from ouroboros3d.metrics import columns
from ouroboros3d.viewer.scene import read_scenes

ROOT = Path(__file__).parents[2]
TINY = f"--config={ROOT / 'tests' / 'tiny.yaml'}"
# What may differ between two tests that measure the same.
VOLATILE = {"run_id", "timestamp", "seconds", "peak_memory_mib", "batch_size", "world_size"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny recursive run, whose last checkpoint is tested, one object a batch."""
    folder = tmp_path_factory.mktemp("tested")
    with working_in(folder):
        main(["fit", f"--config={ROOT / 'ablations/recursive.yaml'}", TINY, "--data.batch_size=1"])
        main(["test", "--ckpt_path=runs/recursive/version_0/checkpoints/last.ckpt"])
    return folder / "runs/recursive/version_0"


@pytest.fixture
def here(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(run.parents[2])
    monkeypatch.delenv("OUROBOROS3D_RUN_VERSION", raising=False)
    return run


def kill_after_the_first_object() -> None:
    write = ResultsWriter.on_test_batch_end

    def kill(self: ResultsWriter, *arguments: Any, **named: Any) -> None:
        write(self, *arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    ResultsWriter.on_test_batch_end = kill


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def same(left: Path, right: Path) -> None:
    """Two results say the same of every object, to the last bit, and in the mean."""
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (left, right))
    assert {k: v for k, v in one.items() if k not in {*VOLATILE, "mean"}} == {
        k: v for k, v in two.items() if k not in {*VOLATILE, "mean"}
    }
    for name in one["mean"].keys() - VOLATILE:
        assert one["mean"][name] == two["mean"][name], name
    for name in ("results.csv", "steps.csv"):
        for a, b in zip(*(rows(folder / name) for folder in (left, right)), strict=True):
            assert {column: a[column] for column in a.keys() - VOLATILE} == {
                column: b[column] for column in b.keys() - VOLATILE
            }


def test_every_field_of_a_result_row_is_there(run: Path) -> None:
    """Those of docs/formats.md, section 4.1, group by group."""
    results: dict[str, Any] = json.loads((run / "results.json").read_text())
    table = rows(run / "results.csv")
    assert len(table) == results["objects"] == 2
    assert results["failed"] == 0
    header = """
        run_id git_commit config_hash method checkpoint_sha256 dataset split_sha256 seed timestamp package_versions
        resolution background fov_deg radius elevation_deg views view_selection lpips_net ssim_data_range resize_filter
        num_points point_source sampling_seed squared reduction normalization alignment yaw_step_deg align_scale
        fscore_thresholds sampler steps projection_steps feedback_steps blend guidance_min guidance_max guidance_shape
        feedback_maps published_switches device dtype data_sha256
    """.split()
    assert not set(header) - results.keys()
    assert not set(header) - table[0].keys()
    values = """
        gap_psnr gap_ssim chamfer normal_consistency fscore@0.01 volume_iou coordinate_error render_mask_iou
        nfe vae_decodes vae_encodes recon_calls render_calls seconds peak_memory_mib batch_size input_azimuth_deg
    """.split()
    names = ("psnr", "ssim_foreground", "lpips", "lpips_foreground")
    values += ["gap_lpips", *(f"{what}_{name}" for what in ("mv", "render", "novel") for name in names)]
    for name in values:
        column = [float(row[name]) for row in table]
        assert results["mean"][name] == pytest.approx(sum(column) / 2), name
    assert {row["status"] for row in table} == {"ok"}
    assert results["run_id"] == "recursive/version_0"
    assert results["lpips_net"] == "vgg"
    assert results["feedback_steps"] == [0, 1, 2, 3]
    assert (results["training_seed"], results["training_steps"], results["device"]) == (0, 2, "cpu")
    assert (results["training_length"], results["training_batch"], results["training_base_weights"]) == (2, 1, [])
    assert {"root=bundled", "rig.image_size=16", "max_objects=2"} <= set(results["training_data"])
    assert {"optimizer=AdamW", "lr=0.0003", "learning_rates.adapters=8.0", "warmup_steps=10"} <= set(
        results["training_rates"]
    )
    assert results["mean"]["nfe"] == 10
    assert len(results["git_commit"]) == 40
    known = [name for name in results["mean"] if columns.column(name).higher_is_better is not None]
    assert {"novel_psnr", "chamfer", "fscore@0.05", "seconds"} <= set(known)


def test_what_an_object_looks_like_is_kept(run: Path) -> None:
    uids = [row["uid"] for row in rows(run / "results.csv")]
    for uid in uids:
        sizes = {}
        for name in ("views", "renders", "truth"):
            with Image.open(run / "objects" / uid / f"{name}.png") as picture:
                sizes[name] = picture.size
        assert sizes == {"views": (64, 16), "renders": (96, 16), "truth": (96, 16)}
        gaussians = load_ply(run / "objects" / uid / "gaussians.ply")
        assert gaussians.shape[0] == 1
        # No camera is nearer than 1 to what is in the object's cube: no Gaussian is sharper than a training pixel.
        focal_px = 16 * 0.5 / math.tan(math.radians(39.598) / 2)
        assert gaussians.scales.min() > math.sqrt(0.3) * 1.0 / focal_px
        [shown] = read_scenes(run / "objects" / uid / "viewer.html")
        assert [frame["step"] for frame in shown["frames"]] == [0, 1, 2, 3, 4, None]
        assert shown["frames"][-1]["count"] == gaussians.shape[1]
        assert (shown["name"], shown["truth"]["views"]) == ("recursive", 4)
    steps = rows(run / "steps.csv")
    assert [(row["uid"], row["step"]) for row in steps] == [(uid, str(step)) for uid in uids for step in range(5)]
    assert float(steps[0]["sigma"]) == 80


def test_the_run_logs_means_and_step_curves(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload()
    results = json.loads((run / "results.json").read_text())
    [point] = events.Scalars("test/novel_psnr")
    assert point.value == pytest.approx(results["mean"]["novel_psnr"], rel=1e-6)
    table = rows(run / "steps.csv")
    for point in events.Scalars("steps/gap_psnr"):
        expected = [float(row["gap_psnr"]) for row in table if row["step"] == str(point.step)]
        assert point.value == pytest.approx(sum(expected) / len(expected), rel=1e-6)


def test_an_interrupted_test_goes_on_where_it_stopped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--ckpt_path=runs/recursive/version_0/checkpoints/last.ckpt"]
    run += [f"--config={here / 'config.yaml'}", "--experiment=recursive", "--version=killed"]
    command = Command("test", *run, before=kill_after_the_first_object)
    assert command.wait() == -signal.SIGKILL, command.printed
    killed = here.with_name("killed")
    assert not (killed / "results.json").exists()
    assert len(list(killed.glob("results.*.jsonl.part"))) == 2
    resume = ["test", run[0], f"--config={killed / 'config.yaml'}"]
    (killed / "checkpoints").mkdir()  # so that its own configuration stands for its folder
    main(resume)
    assert "1 objects were tested before" in capsys.readouterr().out
    assert not list(killed.glob("*.part"))
    same(killed, here)
    # A finished test starts anew when it is asked for again, and gives the same.
    before = json.loads((killed / "results.json").read_text())
    main(resume)
    assert "tested before" not in capsys.readouterr().out
    assert json.loads((killed / "results.json").read_text())["timestamp"] >= before["timestamp"]


def test_two_processes_write_the_results_of_one(here: Path) -> None:
    """Three objects on two ranks: the sampler repeats one of them, which must count once."""
    base = ["--ckpt_path", str(here / "checkpoints/last.ckpt"), f"--config={here / 'config.yaml'}", "--experiment=two"]
    base += ["--data.max_objects=3", "--data.test_split=train", "--trainer.accelerator=cpu"]
    two = ["--version=b", "--trainer.devices=2", "--trainer.strategy=ddp"]
    commands = ranks("test", *base, *two)
    for command in commands:
        assert command.wait() == 0, command.printed
    main(["test", *base, "--version=a"])
    folders = [here.parents[1] / "two" / name for name in "ab"]
    for folder in folders:
        for name in ("results.json", "results.csv", "steps.csv"):
            (folder / name.replace(".", "_train.")).rename(folder / name)
    assert json.loads((folders[1] / "results.json").read_text())["world_size"] == 2
    same(*folders)


def test_geometry_can_be_aligned_or_left_out(here: Path) -> None:
    main(["test", "--model.evaluation.alignment=yaw", "--model.evaluation.yaw_step_deg=90", "--data.test_split=val"])
    aligned = json.loads((here / "results_val.json").read_text())
    assert (aligned["alignment"], aligned["yaw_step_deg"]) == ("yaw", 90)
    # The turn is chosen on a sample of the points: among turns that are as good it may be the other one.
    assert aligned["mean"]["chamfer"] <= 1.01 * aligned["mean"]["chamfer_unaligned"]
    matrix = json.loads(rows(here / "results_val.csv")[0]["alignment_matrix"])
    assert len(matrix) == 16
    main(["test", "--data.surface_points=0", "--data.test_split=val", "--model.evaluation.step_curves=false"])
    without = json.loads((here / "results_val.json").read_text())
    assert without["num_points"] == 0
    assert without["alignment"] is None
    assert not {"chamfer", "coordinate_error", "fscore@0.01"} & without["mean"].keys()


def test_the_azimuth_of_a_view_is_in_the_objects_frame() -> None:
    """The front is +Z: a camera at +X sees the side; turning the frame by 90 degrees about Y takes +Z to +X."""
    camera = Cameras(torch.eye(4), torch.eye(3))
    camera.c2w_opencv[:3, 3] = torch.tensor([2.0, 0.5, 0.0])
    assert azimuth_deg(camera, torch.eye(4)) == pytest.approx(90)
    turned = torch.eye(4)
    turned[:3, :3] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    assert azimuth_deg(camera, turned) == pytest.approx(180)
    assert azimuth_deg(camera, turned.T) == pytest.approx(0, abs=1e-4)


def test_a_missing_value_counts_in_no_mean_and_is_empty() -> None:
    found = [
        {"uid": "a", "psnr": 1.0, "x": float("nan"), "status": "ok"},
        {"uid": "b", "psnr": 3.0, "status": "ok"},
        {"uid": "c", "seconds": 2.0, "status": "the prediction is not finite"},
    ]
    assert _means(found) == {"psnr": 2.0}


def test_the_table_fits_a_terminal() -> None:
    from rich.console import Console

    kinds = [f"{kind}{part}" for kind in ("psnr", "ssim", "lpips") for part in ("", "_foreground")]
    means = {f"{what}_{name}": 12.345 for what in ("mv", "render", "novel") for name in kinds}
    means["novel_mask_iou"] = 0.5
    means |= {"constant_psnr_foreground": 12.0, "chamfer": 0.1, "normal_consistency": 0.5, "fscore@0.02": 0.25}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(results_table("Staged", means, 8, 1, "test"))
    text = console.export_text()
    assert "12.35" in text  # decibels
    assert "12.345" in text  # SSIM
    assert "mean over 8 test objects, 1 failed" in text
    assert "Chamfer 0.1000, normal consistency 0.500, F-score@0.02 0.250" in " ".join(text.split())
    assert "best constant image, PSNR fg 12.00 dB" in " ".join(text.split())
    assert "…" not in text
    first = [line.split()[1] for line in text.splitlines() if len(line.split()) > 2]
    assert [name for name in first if name in ("views", "renders", "novel")] == ["views", "renders", "novel"]
    console.print(results_table("Staged", {"mv_psnr": 1.0}, 8, 1, "test"))
    assert "LPIPS" not in console.export_text()  # nothing was measured: no column of dashes


def test_a_failed_object_is_a_row(here: Path, tmp_path: Path) -> None:
    """One mesh is cut off; the other one's prediction is not finite, because the checkpoint's weights are not."""
    paths = json.loads(gzip.decompress((BUNDLED / "object-paths.json.gz").read_bytes()))
    broken, whole = [uid for uid in sorted(paths) if split_of(uid) == "test"][:2]
    (tmp_path / "glbs").mkdir()
    for uid, share in ((broken, 0.5), (whole, 1.0)):
        content = (BUNDLED / paths[uid]).read_bytes()
        (tmp_path / "glbs" / f"{uid}.glb").write_bytes(content[: int(share * len(content))])
    index = {uid: f"glbs/{uid}.glb" for uid in (broken, whole)}
    (tmp_path / "object-paths.json.gz").write_bytes(gzip.compress(json.dumps(index).encode()))
    checkpoint = torch.load(here / "checkpoints/last.ckpt", weights_only=True)
    checkpoint["state_dict"]["reconstructor.conv.bias"][0] = torch.nan
    torch.save(checkpoint, tmp_path / "nan.ckpt")
    for name, path in (("finite", here / "checkpoints/last.ckpt"), ("nan", tmp_path / "nan.ckpt")):
        where = [f"--ckpt_path={path}", f"--config={here / 'config.yaml'}", f"--data.root={tmp_path}"]
        main(["test", *where, "--experiment=failing", f"--version={name}"])
    folder = here.parents[1] / "failing"
    results = [json.loads((folder / name / "results.json").read_text()) for name in ("finite", "nan")]
    assert [(result["objects"], result["failed"]) for result in results] == [(2, 1), (2, 2)]
    assert "novel_psnr" in results[0]["mean"]
    assert "novel_psnr" not in results[1]["mean"]
    finite = {row["uid"]: row for row in rows(folder / "finite/results.csv")}
    assert finite[whole]["status"] == "ok"
    assert finite[broken]["status"].startswith("load: ")
    assert finite[broken]["novel_psnr"] == ""
    nan = {row["uid"]: row for row in rows(folder / "nan/results.csv")}
    assert nan[whole]["status"] == "the prediction is not finite"
    assert "novel_psnr" not in nan[whole], "no object has a value, so there is no column"

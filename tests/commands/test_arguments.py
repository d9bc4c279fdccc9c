"""Command lines are parsed as a whole, by exact names, before anything heavy is imported or decided."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import refusal

from ouroboros3d.commands.arguments import parse_run_options
from ouroboros3d.commands.run_folders import place_fit, place_use

ROOT = Path(__file__).parents[2]
STAGED = f"--config={ROOT / 'ablations' / 'staged.yaml'}"
# What is wrong, and what the one line says of it.
WRONG = [
    ("test --ckpt last.ckpt", "got --ckpt; did you mean --ckpt_path?"),
    ("predict --ckp last.ckpt", "got --ckp; did you mean --ckpt_path?"),
    ("validate --ckpt-path last.ckpt", "got --ckpt-path; did you mean --ckpt_path?"),
    ("export --ckpt last.ckpt", "got --ckpt; did you mean --ckpt_path?"),
    ("export --version x", "got --version"),
    ("fit --conf a.yaml", "got --conf; did you mean --config?"),
    ("fit --verison x", "got --verison; did you mean --version?"),
    ("fit --max_steps 3", "got --max_steps; values of the configuration are written --model.X"),
    ("fit --image a.png", "got --image"),
    ("fit --axes colmap", "got --axes"),
    ("predict --axes zup", "axes: expected gl_yup, colmap, blender_zup, supersplat, got 'zup'"),
    ("fit recursive", "expected options, which begin with --, got 'recursive'"),
    ("fit --config", "expected a value of --config, got none"),
    ("fit --resume --version x", "expected a value of --resume, got none"),
    ("fit --data.uids a b", "expected one value of --data.uids, got also 'b'"),
    ("fit --config nowhere.yaml", "config: no file nowhere.yaml"),
    ("fit --config broken.yaml", "broken.yaml: expected YAML, got"),
    ("fit --config list.yaml", "list.yaml: expected a configuration with model, data or trainer, got list"),
    ("fit --config foreign.yaml", "foreign.yaml: model: expected a class of ouroboros3d, torch.optim"),
    ("fit --version ../x", "version: expected the name of one folder in its experiment, got '../x'"),
    ("fit --experiment a/b", "experiment: expected the name of one folder in runs, got 'a/b'"),
    ("test --version ..", "version: expected the name of one folder"),
    ("fit --allow_package a-b", "allow_package: expected the name of a package"),
    ("fit --allow_package jsonargparse", "allow_package: expected the name of a package"),
    ("fit --resume nowhere", "got nowhere without a config.yaml"),
    ("test --ckpt_path nowhere.ckpt", "ckpt_path: no file nowhere.ckpt"),
    ("test --ckpt_path bundled:nothing", "ckpt_path: no file bundled:nothing"),
    ("test --ckpt_path .", "ckpt_path: expected one file, got the folder ."),
    ("predict --image nowhere.png", "image: no file nowhere.png"),
    ("predict --seed -1", "seed: expected a whole number of at least 0, got '-1'"),
    ("predict --samples 0", "samples: expected a whole number of at least 1, got '0'"),
    ("predict --mesh=maybe", "mesh: expected nothing after it, or true or false, got 'maybe'"),
    ("predict --run nowhere", "run: expected the folder of a run, such as runs/recursive, got nowhere"),
    ("predict --run . --ckpt_path bundled:recursive", "run: expected no --ckpt_path"),
    ("export --dtype float8", "dtype: expected float32, float16, bfloat16, got 'float8'"),
    ("export --out .", "which is taken"),
    ("compare --baselin staged", "unrecognized arguments: --baselin; did you mean --baseline?"),
    ("compare --split a/b", "split: expected test, val or train, got 'a/b'"),
    ("render", "the following arguments are required: root, --out"),
    ("render . --out r --ray-address local", "did you mean --ray_address?"),
    ("render nowhere --out r", "root: expected a folder with meshes, got nowhere, which does not exist"),
    ("render . --out r --size 0", "size: expected at least 1, got 0"),
    ("check-data nowhere", "root: expected a folder with meshes or posed renders, got nowhere"),
    ("check-data . --reader nothing", "invalid choice: 'nothing'"),
    ("ablate --configg a.yaml", "got --configg; did you mean --config?"),
    ("ablate nowhere.yaml", "suite: no file nowhere.yaml"),
]
_ALL = """
import contextlib, io, json, sys
from ouroboros3d.cli import main
answers = []
for line in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            main(line.split())
            code = 0
        except SystemExit as stopped:
            code = stopped.code
    heavy = sorted({"torch", "lightning", "jsonargparse", "numpy"} & set(sys.modules))
    answers.append([code, said.getvalue(), heavy])
print(json.dumps(answers))
"""


def test_wrong_arguments_are_answered_before_anything_heavy_is_imported(here: Path) -> None:
    Path("broken.yaml").write_text("model: [")
    Path("list.yaml").write_text("- model")
    Path("foreign.yaml").write_text("model: {class_path: my_project.Model}")
    (here / "here").touch()
    asked = json.dumps([line for line, _ in WRONG])
    ended = subprocess.run([sys.executable, "-c", _ALL], input=asked, capture_output=True, text=True, check=True)
    for (line, expected), (code, said, heavy) in zip(WRONG, json.loads(ended.stdout), strict=True):
        assert (code, said.count("\n"), heavy) == (2, 1, []), (line, said)
        assert expected in said, (line, said)
    assert not Path("runs").exists()


def test_the_order_of_values_and_files_is_kept() -> None:
    arguments = ["--model.x", "-5", "-c", "a.yaml", "--data.uids=[a, b]", "--version", "3", "--config=b=c.yaml"]
    options = parse_run_options("fit", [*arguments, "--trainer.callbacks+=X", "--runs", "r", "--runs", "s"])
    assert options.settings == (
        ("--model.x", "-5"),
        ("--config", "a.yaml"),
        ("--data.uids", "[a, b]"),
        ("--config", "b=c.yaml"),
        ("--trainer.callbacks+", "X"),
    )
    assert options.single == {"version": "version_3", "runs": "s"}
    assert options.configs == ["a.yaml", "b=c.yaml"]
    assert options.gives("data") == {"uids"}
    assert options.gives("trainer") == {"callbacks"}
    images = parse_run_options("predict", ["--image", "a.png", "--image=b.png", "--allow_package", "mine"])
    assert (images.images, images.allowed) == (("a.png", "b.png"), ("mine",))
    help_of = parse_run_options("fit", ["--model.help", "Recursive", "--print_config", "--trainer.max_steps=1"])
    assert help_of.settings[:2] == (("--model.help", "Recursive"), ("--print_config", None))
    assert help_of.only_prints


def test_a_configuration_says_where_its_runs_go(here: Path) -> None:
    Path("night.yaml").write_text("runs: lab\nexperiment: mine\nversion: 7\n")
    Path("day.yaml").write_text("experiment: yours\nversion: null\n")

    def placed(*arguments: str) -> Path:
        folder = place_fit(parse_run_options("fit", [STAGED, *arguments])).folder
        assert folder is not None
        return folder

    assert placed("--config=night.yaml") == Path("lab/mine/version_7")
    assert placed("--config=night.yaml", "--config=day.yaml") == Path("lab/yours/version_7")
    assert placed("--config=night.yaml", "--version=8", "--runs=here") == Path("here/mine/version_8")
    Path("lab/mine/version_7/config.yaml").touch()  # a run that began
    with pytest.raises(FileExistsError, match="lab/mine/version_7 exists already"):
        placed("--config=night.yaml")
    Path("night.yaml").write_text("version: ../../etc\n")
    with pytest.raises(ValueError, match="version: expected the name of one folder"):
        placed("--config=night.yaml")


def test_a_run_s_own_configuration_says_where_that_run_is(here: Path) -> None:
    """Not where the next one goes, which never is in its place."""
    run = Path("lab/mine/version_0")
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(
        f"model: {{}}\ndata: {{}}\nruns: {run.parents[1]}\nexperiment: mine\nversion: version_0\n"
    )
    torch.save({"state_dict": {}, "global_step": 1, "pytorch-lightning_version": "2.6"}, run / "checkpoints/last.ckpt")
    arguments = ["--config", str(run / "config.yaml")]
    assert place_fit(parse_run_options("fit", arguments)).folder == Path("runs/mine/version_0")
    used = place_use(parse_run_options("test", arguments))
    assert (used.folder, used.is_new) == (run, False)


def test_nested_names_are_not_abbreviated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, expected in {
        "--trainer.max_step=3": "unrecognized arguments: --trainer.max_step=3; did you mean --trainer.max_steps?",
        "--trainer.limit_val_batche=1": "did you mean --trainer.limit_val_batches?",
        "--model.sampler.num_step=3": "--sampler.num_step=3; did you mean --sampler.num_steps?",
        "--data.rot=tree": "data: Option 'rot' is not accepted; did you mean --root?",
    }.items():
        assert expected in refusal(capsys, "fit", STAGED, option)
    assert not Path("runs").exists()

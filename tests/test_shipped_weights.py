"""Trained variants in files: made from a run's checkpoint, used where no run is, and never where one is."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from commands import refusal, working_in
from safetensors import safe_open

from ouroboros3d.cli import main
from ouroboros3d.commands import base_weights
from ouroboros3d.commands.export import run as export
from ouroboros3d.commands.export import to_pipeline
from ouroboros3d.commands.trainer import load, run
from ouroboros3d.export import OuroborosPipeline
from ouroboros3d.export.card import model_card
from ouroboros3d.files import sha256_of
from ouroboros3d.lightning_modules.weights import read_checkpoint
from ouroboros3d.networks.pretrained.base import WITHOUT_EFFECT
from ouroboros3d.weight_names import SHIPPED, checkpoint_file, checkpoint_name

ROOT = Path(__file__).parents[1]
TINY = f"--config={ROOT / 'tests' / 'tiny.yaml'}"
SOURCES = {"bundled objects": "CC0-1.0", "another tree": "CC-BY-3.0"}
# Of the data, what a file of weights leaves to its user: as in tiny.yaml, without geometry.
VALUES = ("max_objects=2", "rig.orbits=2", "rig.views=4", "rig.supersampling=1", "surface_points=0")
FEW = [f"--data.init_args.{value}" for value in VALUES]


def ablation(name: str) -> str:
    return f"--config={ROOT / 'ablations' / name}.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of both variants, with moving averages, and `weights/` with the files made of them."""
    folder = tmp_path_factory.mktemp("shipped")
    average = "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"
    with working_in(folder), pytest.MonkeyPatch.context() as patch:
        (folder / "weights").mkdir()
        for name in ("staged", "recursive"):
            options = ["--trainer.limit_val_batches=0", "--model.sampler.num_steps=3", average]
            main(["fit", ablation(name), TINY, *options])
            last = f"runs/{name}/version_0/checkpoints/last.ckpt"
            sources = ["--sources", json.dumps(SOURCES), "--recipe", '{"by": "a test"}']
            patch.setattr("sys.argv", ["x", f"weights/{name}.safetensors", "--variant", last, *sources])
            base_weights.main()
    return folder


def shipped(trained: Path) -> Path:
    return trained / "weights"


def results(folder: Path) -> dict[str, object]:
    return json.loads((folder / "results.json").read_text())


def test_a_file_holds_the_moving_average_and_describes_itself(trained: Path) -> None:
    checkpoint = torch.load(trained / "runs/recursive/version_0/checkpoints/last.ckpt", weights_only=True)
    with safe_open(trained / "weights/recursive.safetensors", "pt") as file:
        about = {name: value if name == "format" else json.loads(value) for name, value in file.metadata().items()}
        stored = {key: file.get_tensor(key) for key in file.keys()}
    average, raw = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert all(torch.equal(value, average[key].half()) for key, value in stored.items())
    assert any(not torch.equal(value, raw[key].half()) for key, value in stored.items())
    left_out = average.keys() - stored.keys()
    assert left_out
    assert all(re.search(WITHOUT_EFFECT, key) for key in left_out)
    assert (about["steps"], about["seed"], about["moving_average"]) == (2, 0, True)
    assert (about["sources"], about["recipe"]) == (SOURCES, {"by": "a test"})
    assert about["variant"] == "ouroboros3d.lightning_modules.recursive.Recursive"
    assert about["meaning"] == checkpoint["ouroboros3d_meaning"]
    own = yaml.safe_load((trained / "runs/recursive/version_0/config.yaml").read_text())["model"]
    assert about["config"]["model"] == own  # which started from no base weights
    assert about["config"]["data"]["init_args"]["rig"]["image_size"] == 16
    assert str(trained) not in json.dumps(about)
    assert "root" not in about["config"]["data"]["init_args"]


def test_where_no_run_is_the_shipped_weights_are_tested(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a second time: the first test's folder is no trained run. And the results compare."""
    for again in range(2):
        run("test", FEW, shipped(trained))
        said = f"test: no run in runs/*/*, so the weights that come with this package, {trained}/weights/recursive"
        assert said in capsys.readouterr().out
        found = results(here / f"runs/recursive/version_{again}")
        assert (found["method"], found["objects"], found["resolution"], found["steps"]) == ("Recursive", 2, 16, 3)
    file = trained / "weights/recursive.safetensors"
    assert (found["checkpoint"], found["checkpoint_sha256"]) == (str(file), sha256_of(file))
    assert (found["training_seed"], found["training_steps"], found["training_length"]) == (0, 2, 2)
    assert found["training_data"][: len(SOURCES)] == sorted(SOURCES)
    assert "lr=0.0003" in found["training_rates"]
    assert found["training_batch"] is None  # the file says nothing of it
    few = [*FEW, "--model.sampler.num_steps=3"]
    run("test", [ablation("staged"), TINY, *few], shipped(trained))
    assert results(here / "runs/staged/version_0")["checkpoint"].endswith("weights/staged.safetensors")
    run("test", [ablation("inference_combined"), TINY, *few], shipped(trained))
    assert "no run in runs/inference_combined/* or runs/staged/*" in capsys.readouterr().out
    combined = results(here / "runs/inference_combined/version_0")
    assert combined["checkpoint"].endswith("weights/staged.safetensors")
    assert combined["method"] == "InferenceCombined"
    main(["compare"])
    assert "recursive" in capsys.readouterr().out
    for others in ([ablation("joint_only"), TINY], [ablation("staged"), ablation("scales/lab")]):
        with pytest.raises(FileNotFoundError, match="train first"):
            run("test", others, shipped(trained))
    with pytest.raises(FileNotFoundError, match="train first"):
        run("test", FEW, here)  # nothing is shipped
    assert not (here / "runs/joint_only").exists()


def test_a_run_of_ones_own_wins(trained: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained / "runs/staged", "runs/staged")
    for arguments in ([], [ablation("staged"), TINY], [ablation("inference_combined"), TINY]):
        capsys.readouterr()
        run("validate", arguments, shipped(trained))
        assert "newest run's best checkpoint, runs/staged/version_0/checkpoints/last.ckpt" in capsys.readouterr().out


def test_predict_needs_neither_a_run_nor_an_image(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("predict", [], shipped(trained))
    said = capsys.readouterr().out
    assert "predict: no --image, so the example that comes with this package" in said
    assert "so the weights that come with this package" in said
    assert len(list((here / "runs/recursive/version_0/predictions/example").glob("view_*.png"))) == 4


def test_export_needs_no_run(trained: Path, here: Path) -> None:
    export([], shipped(trained))
    pipeline = OuroborosPipeline.from_pretrained("runs/export/recursive")
    stored = read_checkpoint(trained / "weights/recursive.safetensors")["state_dict"]
    for key, value in pipeline.unet.state_dict().items():
        assert re.search(WITHOUT_EFFECT, key) or torch.equal(value, stored[f"unet.{key}"].float())
    card = (here / "runs/export/recursive/README.md").read_text()
    assert "- another tree: CC-BY-3.0" in card
    assert "2 steps, seed 0" in card
    assert str(trained) not in card
    assert "license" not in yaml.safe_load(card.split("---\n")[1])  # only of what comes with the package it is known
    loaded = load("export", [f"--ckpt_path={trained / 'weights/staged.safetensors'}"])
    of_the_package = loaded._replace(checkpoint=SHIPPED / "desk.safetensors")
    card = model_card(of_the_package, to_pipeline(loaded, torch.float32), "float32")
    assert "`bundled:desk`" in card
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "apache-2.0"


def test_a_training_starts_from_a_trained_variant(trained: Path, here: Path) -> None:
    """A staged one starts every variant; adapters that it lacks start as ever."""
    start = f"--model.init_args.base_weights={trained / 'weights/staged.safetensors'}"
    short = ["--trainer.limit_val_batches=0", "--trainer.max_steps=1", "--model.init_args.optimizer.init_args.lr=0"]
    main(["fit", ablation("recursive"), TINY, start, *short])
    began = torch.load("runs/recursive/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    stored = read_checkpoint(trained / "weights/staged.safetensors")["state_dict"]
    assert all(torch.equal(began[key], value.float()) for key, value in stored.items())
    assert any(key.startswith("unet.cond_encoder.") for key in began)


def test_names_of_what_comes_with_the_package(here: Path) -> None:
    assert checkpoint_file("bundled:staged") == SHIPPED / "staged.safetensors"
    assert checkpoint_name(SHIPPED / "staged.safetensors") == "bundled:staged"
    assert checkpoint_name(ROOT / "ouroboros3d/lightning_modules/../weights/staged.safetensors") == "bundled:staged"
    assert checkpoint_file("runs/last.ckpt") == Path("runs/last.ckpt")
    assert checkpoint_name(Path("runs/last.ckpt")) == "runs/last.ckpt"


def test_a_wrong_file_gets_one_line(
    trained: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    staged, recursive = (str(trained / f"weights/{name}.safetensors") for name in ("staged", "recursive"))
    resume = refusal(capsys, "fit", ablation("staged"), TINY, f"--ckpt_path={staged}")
    assert "without callbacks, loops; weights alone are what --model.base_weights takes" in resume
    assert "no file bundled:nothing" in refusal(capsys, "test", "--ckpt_path=bundled:nothing")
    desk = str(SHIPPED / "desk.safetensors")
    assert "base weights are what --model.base_weights takes" in refusal(capsys, "test", f"--ckpt_path={desk}")
    Path("cut.safetensors").write_bytes(Path(staged).read_bytes()[:5000])
    assert "cut.safetensors: expected a safetensors file" in refusal(capsys, "test", "--ckpt_path=cut.safetensors")
    assert not (here / "runs").exists()
    line = refusal(capsys, "test", ablation("staged"), TINY, f"--ckpt_path={recursive}")
    assert "expected the weights of Staged as configured, " in line
    assert "got those of Recursive, " in line
    last = str(trained / "runs/staged/version_0/checkpoints/last.ckpt")
    monkeypatch.setattr("sys.argv", ["x", "out.safetensors", "--variant", last, "--diffusion", last])
    with pytest.raises(SystemExit):
        base_weights.main()
    assert "expected --diffusion and --reconstructor, or --variant in place of both" in capsys.readouterr().err
    with pytest.raises(ValueError, match="sources: expected the training data with their licences, got none"):
        base_weights.write_variant(here / "out.safetensors", Path(last), {}, {})
    (here / "a/checkpoints").mkdir(parents=True)
    shutil.copyfile(trained / "runs/staged/version_0/config.yaml", "a/config.yaml")
    content = torch.load(last, weights_only=True)
    content["state_dict"]["unet.x.lora_A.weight"] = torch.zeros(1)
    torch.save(content, "a/checkpoints/lora.ckpt")
    with pytest.raises(ValueError, match=r"got .*lora\.ckpt with LoRA beside them"):
        base_weights.write_variant(here / "out.safetensors", here / "a/checkpoints/lora.ckpt", SOURCES, {})
    del content["ouroboros3d_seed"]
    torch.save(content, "a/checkpoints/foreign.ckpt")
    with pytest.raises(ValueError, match="without ouroboros3d_seed"):
        base_weights.write_variant(here / "out.safetensors", here / "a/checkpoints/foreign.ckpt", SOURCES, {})
    assert not Path("out.safetensors").exists()

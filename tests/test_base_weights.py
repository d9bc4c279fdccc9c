"""Base weights from runs: what a run learned is what the next one starts from."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from ouroboros3d.cli import main
from ouroboros3d.commands.base_weights import main as make
from ouroboros3d.networks.pretrained.base import WITHOUT_EFFECT

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_base_weights_of_two_runs_start_a_third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUROBOROS3D_CACHE", str(tmp_path / "cache"))
    tiny = f"--config={ROOT / 'tests' / 'tiny.yaml'}"
    pretrain = ["fit", f"--config={ROOT / 'ablations' / 'pretrain.yaml'}", tiny, "--trainer.max_steps=1"]
    main([*pretrain, "--version=f", "--model.init_args.train=[unet,image_encoder]"])
    main([*pretrain, "--version=r", "--model.init_args.train=[reconstructor]", "--seed_everything=1"])
    checkpoints = {name: tmp_path / "runs" / "pretrain" / name / "checkpoints" / "last.ckpt" for name in "fr"}
    arguments = ["x", "base.safetensors", f"--diffusion={checkpoints['f']}", f"--reconstructor={checkpoints['r']}"]
    monkeypatch.setattr("sys.argv", [*arguments, '--recipe={"data": "tiny"}', '--sources={"bundled": "CC0"}'])
    make()
    with safe_open("base.safetensors", "pt") as file:
        metadata = file.metadata()
        stored = {key: file.get_tensor(key) for key in file.keys()}
    recipe = json.loads(metadata["recipe"])
    assert (recipe["data"], recipe["sources"]) == ("tiny", {"bundled": "CC0"})
    assert set(recipe["steps"].values()) == {1}
    states = {name: torch.load(path, weights_only=True)["state_dict"] for name, path in checkpoints.items()}
    every = {key for key in states["f"] if key.startswith(("unet.", "reconstructor.", "image_encoder."))}
    assert every - set(stored)
    assert all(re.search(WITHOUT_EFFECT, key) for key in every - set(stored))
    for key, value in stored.items():
        run = "r" if key.startswith("reconstructor.") else "f"
        assert value.dtype == torch.float16
        # Half precision keeps 11 bits.
        torch.testing.assert_close(value.float(), states[run][key], rtol=1e-3, atol=1e-6)
    start = ["--model.init_args.base_weights=base.safetensors", "--model.init_args.optimizer.init_args.lr=0"]
    main(["fit", f"--config={ROOT / 'ablations' / 'recursive.yaml'}", tiny, *start, "--version=0"])
    last = tmp_path / "runs" / "recursive" / "version_0" / "checkpoints" / "last.ckpt"
    trained = torch.load(last, weights_only=True)["state_dict"]
    for key, value in stored.items():
        assert torch.equal(trained[key], value.float()), key


def test_bundled_weights_fit_the_default_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    package = ROOT / "ouroboros3d"
    wanted = yaml.safe_load((package / "defaults.yaml").read_text())["model"]["init_args"]
    with safe_open(package / "weights" / "desk.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    for name in ("unet", "reconstructor", "image_encoder"):
        trained = config[name]["init_args"]
        assert {key: trained[key] for key in wanted[name]["init_args"]} == wanted[name]["init_args"]
    assert (package / "weights" / "desk.safetensors").stat().st_size <= 12e6
    small = ["--data.rig.orbits=1", "--data.rig.supersampling=1", "--data.render_workers=1"]
    small += ["--data.max_objects=1", "--data.batch_size=1", "--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    main(["fit", f"--config={ROOT / 'ablations' / 'staged.yaml'}", *small, "--model.sampler.num_steps=2"])
    with pytest.raises(SystemExit):
        main(["fit", f"--config={ROOT / 'ablations' / 'staged.yaml'}", "--model.reconstructor.position=absolute"])
    assert "expected reconstructor.position = absolute, got weights of pixel_aligned" in capsys.readouterr().err

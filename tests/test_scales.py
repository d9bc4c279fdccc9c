"""Scales over ablations, the published switches from YAML to their effect, and training from the paper's weights."""

import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
import yaml
from diffusers import EulerDiscreteScheduler
from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.callbacks.protocol import published_switches
from ouroboros3d.cameras import Cameras
from ouroboros3d.cli import main
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.lightning_modules.seeding import named_stream
from ouroboros3d.lightning_modules.weights import PaperWeights, check_files
from ouroboros3d.networks.pretrained.sources import to_published_key

ROOT = Path(__file__).parents[1]
ABLATIONS = ROOT / "ablations"
TINY = ROOT / "tests" / "tiny.yaml"
SVD_TINY = ROOT / "tests" / "svd_tiny.yaml"


@cache
def parsed(*configs: Path) -> str:
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as stopped:
        main(["fit", *(f"--config={path}" for path in configs), "--print_config"])
    assert stopped.value.code == 0
    return out.getvalue()


def config_of(*configs: Path) -> dict[str, Any]:
    """The whole configuration of a `fit`."""
    content: dict[str, Any] = yaml.safe_load(parsed(*configs))
    return content


def built(config: dict[str, Any], device: str = "cpu", base_weights: dict[str, Any] | str | None = None) -> ImageTo3D:
    """Its model, without the loss whose backbone has to be downloaded."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageTo3D, "model")
    init = {**config["model"]["init_args"], "base_weights": base_weights}
    init["reconstruction_loss"] = {**init["reconstruction_loss"], "lpips_weight": 0.0}
    values = parser.parse_object({"model": {**config["model"], "init_args": init}})
    torch.manual_seed(0)
    with torch.device(device):
        model: ImageTo3D = parser.instantiate(values).model
    return model


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return commands.refusal(capsys, "fit", *arguments)


# Scales.


@pytest.mark.parametrize("scale", ["paper", "lab"])
def test_a_scale_keeps_what_makes_the_ablation(scale: str, here: Path) -> None:
    alone, both = {}, {}
    for name in ("staged", "inference_combined", "recursive", "published", "combined_estimates"):
        alone[name] = yaml.safe_load((ABLATIONS / f"{name}.yaml").read_text())["model"]
        files = [ABLATIONS / f"{name}.yaml", ABLATIONS / "scales" / f"{scale}.yaml"]
        # These two set what a scale sets too, so they come after it.
        both[name] = config_of(*(files[::-1] if name in ("published", "combined_estimates") else files))
        assert both[name]["experiment"] == name
        found = both[name]["model"]
        assert found["class_path"] == alone[name]["class_path"]

        def kept(wanted: dict[str, Any], found: dict[str, Any]) -> None:
            for key, value in wanted.items():
                kept(value, found[key]) if isinstance(value, dict) else None
                assert isinstance(value, dict) or found[key] == value, key

        kept(alone[name], found)
    # Two ablations at one scale differ in what their own files say.
    staged, combined = both["staged"]["model"]["init_args"], both["inference_combined"]["model"]["init_args"]
    assert {key: combined[key] for key in staged} == staged
    assert both["staged"]["data"] == both["recursive"]["data"]
    assert both["published"]["data"]["init_args"]["view_selection"] == "published"
    assert both["published"]["data"]["init_args"]["batch_size"] == 1
    assert both["combined_estimates"]["data"]["init_args"]["background"] == "random"
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("ablation", "scale", "millions"),
    [
        ("recursive", "paper", {"unet": 1772.62, "reconstructor": 424.04, "codec": 97.74, "image_encoder": 632.08}),
        ("published", "paper", {"unet": 1765.03, "reconstructor": 424.04, "codec": 97.74, "image_encoder": 632.08}),
        ("recursive", "lab", {"unet": 216.94, "reconstructor": 64.93, "codec": 0.0, "image_encoder": 11.12}),
    ],
)
def test_sizes_of_the_scales(ablation: str, scale: str, millions: dict[str, float], here: Path) -> None:
    config = config_of(ABLATIONS / f"{ablation}.yaml", ABLATIONS / "scales" / f"{scale}.yaml")
    model = built(config, "meta")
    found = {name: sum(p.numel() for p in getattr(model, name).parameters()) / 1e6 for name in millions}
    assert {name: round(value, 2) for name, value in found.items()} == millions
    assert not any(p.requires_grad for p in model.codec.parameters())
    assert all(p.requires_grad for p in model.reconstructor.parameters())
    data = config["data"]["init_args"]
    latent = data["rig"]["image_size"] // model.codec.downscale
    assert model.unet.feedback_downscale * latent == data["rig"]["image_size"]
    assert model.unet.in_channels == 2 * model.unet.out_channels == 2 * model.codec.latent_channels
    assert model.image_encoder.embedding_dim == model.unet.unet.config.cross_attention_dim


def test_the_papers_training(here: Path) -> None:
    config = config_of(ABLATIONS / "recursive.yaml", ABLATIONS / "scales" / "paper.yaml")
    trainer, data, model = config["trainer"], config["data"]["init_args"], config["model"]["init_args"]
    assert (trainer["max_steps"], trainer["accumulate_grad_batches"], data["batch_size"]) == (40_000, 4, 1)
    assert (trainer["gradient_clip_val"], trainer["precision"]) == (1.0, "bf16-mixed")
    rig = data["rig"]
    assert (rig["image_size"], data["num_views"], rig["views"], rig["radius"]) == (512, 8, 16, 1.7417)
    assert (model["optimizer"]["class_path"], model["optimizer"]["init_args"]["lr"]) == ("torch.optim.AdamW", 1e-5)
    assert (model["warmup_steps"], model["decay"], model["train"]) == (0, "constant", ["unet", "reconstructor"])
    assert model["unet"]["init_args"]["gradient_checkpointing"] is True
    sampler = model["sampler"]
    assert (sampler["num_steps"], sampler["sigma_min"], sampler["sigma_max"]) == (25, 0.002, 700.0)
    loss = model["reconstruction_loss"]
    assert (loss["colour"], loss["lpips_weight"]) == ("l1", 1.0)
    assert model["reconstructor"]["init_args"]["position"] == "absolute"
    # What the desk scale has of its own: the paper has none of it.
    assert (model["log_sigma_mean"], model["log_sigma_std"]) == (1.0, 1.6)
    assert (data["augmentation"]["mirror"], data["augmentation"]["recolour"]) == (0.0, 0.0)
    assert set(model["learning_rates"].values()) == {1.0}
    assert config["moving_average"] == 0


def test_what_is_published_was_trained_on_stable_video_diffusions_noise_whatever_the_scale(here: Path) -> None:
    desk = config_of(ABLATIONS / "published.yaml")
    lab = config_of(ABLATIONS / "scales" / "lab.yaml", ABLATIONS / "published.yaml")
    for config in (desk, lab):
        model, augmentation = config["model"]["init_args"], config["data"]["init_args"]["augmentation"]
        assert (model["log_sigma_mean"], model["log_sigma_std"]) == (1.0, 1.6)
        assert (augmentation["mirror"], augmentation["recolour"]) == (0.0, 0.0)
    assert desk["moving_average"] == lab["moving_average"] == 0.9995


def test_the_papers_weights_that_are_missing_are_named_at_once(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing of two thousand million parameters is built before.
    monkeypatch.setattr("ouroboros3d.networks.multiview_unet.MultiviewUNet.__init__", None)
    paper = [f"--config={ABLATIONS / 'recursive.yaml'}", f"--config={ABLATIONS / 'scales' / 'paper.yaml'}"]
    line = refusal(capsys, *paper)
    assert "stabilityai/stable-video-diffusion-img2vid: expected scheduler/scheduler_config.json" in line
    assert "`hf download stabilityai/stable-video-diffusion-img2vid --local-dir FOLDER` gets it" in line
    configs = ("scheduler/scheduler_config", "unet/config", "vae/config", "image_encoder/config")
    weights = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "image_encoder/model")
    for name in (*(f"{name}.json" for name in configs), *(f"{name}.safetensors" for name in weights)):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    line = refusal(capsys, *paper, f"--model.base_weights.svd={here}")
    assert "ashawkey/LGM: expected model_fp16_fixrot.safetensors" in line
    assert "`hf download ashawkey/LGM --local-dir FOLDER` gets it" in line
    assert not (here / "runs").exists()
    with pytest.raises(ValueError, match=r"expected mv_model_unet\.pth .*`hf download huanngzh/Ouroboros3D-SVD-LGM"):
        check_files(PaperWeights(str(here), published=str(here)), "published")
    (here / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"expected unet/diffusion_pytorch_model\.safetensors \(or "):
        check_files(PaperWeights(str(here)), "per_gaussian")


# Training from the paper's weights, written in their layouts at the size of the tests.


def written(model: ImageTo3D, folder: Path) -> dict[str, Tensor]:
    """Write a model in the layouts of SVD, LGM and the published checkpoint; its state."""
    svd = {"unet": model.unet.unet, "vae": model.codec.vae, "image_encoder": model.image_encoder.clip}
    for name, part in svd.items():
        part.save_pretrained(folder / name)
    EulerDiscreteScheduler(
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        timestep_type="continuous",
        sigma_min=0.002,
        sigma_max=700.0,
    ).save_pretrained(folder / "scheduler")
    lgm = {key: value for key, value in model.reconstructor.state_dict().items() if "time_embed" not in key}
    lgm = {key: value for key, value in lgm.items() if "emb_layers" not in key}
    save_file(lgm, folder / "model_fp16_fixrot.safetensors")
    published = {to_published_key(key): value for key, value in model.unet.state_dict().items()}
    torch.save(published, folder / "mv_model_unet.pth")
    torch.save(model.reconstructor.state_dict(), folder / "recon_model.pth")
    return model.state_dict()


@pytest.mark.parametrize("ablation", ["recursive", "published"])
def test_training_starts_from_the_papers_weights(
    ablation: str, here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    configs = [ABLATIONS / f"{ablation}.yaml", TINY, SVD_TINY]
    config = config_of(*configs)
    state = written(built(config), here / "paper")
    arguments = [
        *(f"--config={path}" for path in configs),
        *("--seed_everything=1", "--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--data.batch_size=1"),
        *("--data.max_objects=1", "--data.rig.orbits=1", "--data.rig.views=16", "--data.num_target_views=0"),
        *("--data.surface_points=0", "--data.render_workers=1"),
        *("--model.optimizer.init_args.lr=0", "--model.base_weights.svd=paper"),
    ]
    if ablation == "published":
        arguments += ["--data.num_views=8", "--model.base_weights.published=paper"]
    else:
        arguments += ["--model.base_weights.lgm=paper"]
    main(["fit", *arguments])
    run = here / "runs" / ablation / "version_0"
    trained = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    table = (run / "weights.txt").read_text().splitlines()
    new = ("unet.cond_encoder.", "unet.down_plucker.", "unet.mid_plucker.", "unet.up_plucker.")
    for key, value in trained.items():
        if ablation == "published" or not (key.startswith(new) or "time_embed" in key or "emb_layers" in key):
            assert torch.equal(value, state[key]), key
    parts = ("unet", "reconstructor", "codec", "image_encoder")
    assert sum(line.startswith("# ") for line in table) == len(parts) == sum("loaded" in m for m in caplog.messages)
    assert len(table) - len(parts) == len(trained)  # a line for every key
    adapter = "kept, not in the weights: cond_encoder.0.conv_in.weight [32, 12, 3, 3]"
    assert (adapter in table) == (ablation != "published")
    # What does not fit is one line.
    if ablation == "published":
        line = refusal(capsys, *arguments, "--model.coordinate_map=canonical")
        assert "expected coordinate_map = canonical, got weights of published" in line
        return
    assert "kept, not in the weights: unet.time_embed.0.weight [128, 32]" in table
    config["model"]["init_args"]["sampler"]["sigma_max"] = 80.0
    with pytest.raises(ValueError, match=r"expected sigma_max = 80\.0 as in the sampler, got 700\.0"):
        built(config, base_weights={"svd": "paper"})
    model = built(config, base_weights={"svd": "paper", "own_sampler": True})
    assert set(model.weights_report) == {"unet", "codec", "image_encoder"}
    model = built(config, base_weights=str(run / "checkpoints" / "last.ckpt"))
    assert model.weights_report["checkpoint"].loaded == tuple(trained)


# The switches that reproduce the published code.


def batch(objects: int, views: int = 8) -> MultiviewBatch:
    torch.manual_seed(1)
    orbit = Cameras.orbit(torch.arange(views) * 360.0 / views, 10.0, 1.7417, 39.598)
    novel = Cameras.orbit([30.0], [25.0], 1.7417, 39.598)
    every, world = Cameras.cat([Cameras.cat([orbit, novel], 0)[None]] * objects, 0).relative_to_first()
    images, alpha = torch.rand(objects, views + 1, 3, 16, 16), (torch.rand(objects, views + 1, 1, 16, 16) > 0.5).float()
    return MultiviewBatch(
        tuple("ab"[:objects]),
        images[:, :views],
        alpha[:, :views],
        every[:, :views],
        images[:, views:],
        alpha[:, views:],
        every[:, views:],
        torch.ones(objects, 3),
        world,
    ).validate()


def trained(model: ImageTo3D) -> ImageTo3D:
    """Nothing at zero any more, as after some training."""
    for name, parameter in sorted(model.named_parameters()):
        if not bool(parameter.any()):
            with torch.no_grad():
                parameter.normal_(std=0.3, generator=named_stream(name))
    return model


@torch.no_grad()
def views(model: ImageTo3D, objects: int) -> Tensor:
    b = batch(objects)
    return model.eval().generate(b.input_images_01, b.cameras, b.background, b.uids).views_01


@torch.no_grad()
def means(model: ImageTo3D, objects: int) -> Tensor:
    b = batch(objects)
    g = model.eval().reconstruct(b.images_01, b.cameras)
    return torch.cat([g.means, g.scales, g.quaternions], dim=-1)


@torch.no_grad()
def ids(model: ImageTo3D, objects: int) -> Tensor:
    return model.train().draw(batch(objects), seed=0).conditions.added_time_ids[1, 2:]  # of the second object


def gradient(model: ImageTo3D, objects: int) -> Tensor:
    """Of the diffusion loss in the reconstructor."""
    model.train().training_losses(batch(objects), coin=0.0, seed=0)["diffusion"].backward()
    found = model.reconstructor.conv.weight.grad
    return torch.zeros(1) if found is None else found.norm()[None]


# Where each switch stands in published.yaml, and what it changes for how many objects.
SWITCHES: list[tuple[str, Callable[[ImageTo3D, int], Tensor], int]] = [
    ("coordinate_map", views, 1),
    ("detach_feedback", gradient, 1),
    ("condition_noise_ids", ids, 2),
    ("unet.plucker_rays", views, 1),
    ("unet.plucker_skips", views, 1),
    ("unet.temporal_context", views, 1),  # guidance makes it two
    ("unet.adapter_start", views, 1),
    ("reconstructor.resize", means, 1),
    ("reconstructor.rotation_norm", means, 1),
    ("reconstructor.scale_activation", means, 1),
    ("reconstructor.time_shape", means, 1),
    ("sampler.guidance_shape", views, 1),
]


def leaf(init: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *parents, name = path.split(".")
    for parent in parents:
        init = init[parent].get("init_args", init[parent])
    return init, name


def attribute(model: ImageTo3D, path: str) -> object:
    found: object = model
    for name in path.split("."):
        found = getattr(found, name)
    return found


def small(name: str) -> dict[str, Any]:
    """An ablation at the size of the tests, with something to do for every switch: resizing, more than four views."""
    config = config_of(ABLATIONS / f"{name}.yaml", TINY)
    config["model"]["init_args"]["reconstructor"]["init_args"] |= {"input_size": 8, "reconstruct_views": 8}
    config["model"]["init_args"]["sampler"]["num_steps"] = 2
    return config


@pytest.mark.parametrize(("path", "effect", "objects"), SWITCHES, ids=[path for path, *_ in SWITCHES])
def test_each_published_switch_can_be_set_in_yaml_and_has_an_effect(
    path: str, effect: Callable[[ImageTo3D, int], Tensor], objects: int, here: Path
) -> None:
    config, published = small("recursive"), small("published")
    given, name = leaf(published["model"]["init_args"], path)
    right = trained(built(config))
    target, _ = leaf(config["model"]["init_args"], path)
    default = target[name]
    assert given[name] != default
    target[name] = given[name]
    switched = trained(built(config))
    target[name] = default
    assert attribute(right, path) == default
    assert attribute(switched, path) == given[name]
    assert list(published_switches(right, {})) == []
    assert list(published_switches(switched, {})) == [path]
    state = right.state_dict()  # the same weights as far as the switch leaves them
    switched.load_state_dict({key: state.get(key, value) for key, value in switched.state_dict().items()})
    one, other = effect(right, objects), effect(switched, objects)
    assert (one - other).abs().max() > 1e-4 * one.abs().max()


def test_published_yaml_sets_every_switch_there_is(here: Path) -> None:
    config, published = small("recursive"), small("published")
    found = set(published_switches(built(published), published["data"]["init_args"]))
    assert found == {*(path for path, *_ in SWITCHES), "data.view_selection"}
    assert not set(published_switches(built(config), config["data"]["init_args"]))
    argument = re.compile(r'^ +(\w+): (?:Literal\[.*"published"\]|GuidanceShape|ViewSelection) = "', re.MULTILINE)
    offered = {name for path in (ROOT / "ouroboros3d").rglob("*.py") for name in argument.findall(path.read_text())}
    assert {path.rpartition(".")[2] for path in found} == offered | {"detach_feedback"}

"""Memory and speed levers: each does what it says, and changes no result that it must not change."""

import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.cli import main
from ouroboros3d.lightning_modules.generation import SamplerSettings
from ouroboros3d.lightning_modules.recursive import Recursive
from ouroboros3d.networks.codecs import PixelCodec, SVDCodec
from ouroboros3d.networks.image_encoder import ImageEncoder
from ouroboros3d.networks.lgm import LGM
from ouroboros3d.networks.multiview_unet import MultiviewUNet
from ouroboros3d.renderers.gaussians import GaussianRenderer

ROOT = Path(__file__).parents[2]
RECURSIVE = ["fit", f"--config={ROOT / 'ablations' / 'recursive.yaml'}", f"--config={ROOT / 'tests' / 'tiny.yaml'}"]
VIEWS, SIZE = 4, 16


def unet(channels: int = 48, downscale: int = 4, **changes: object) -> MultiviewUNet:
    torch.manual_seed(0)
    network = MultiviewUNet(
        in_channels=2 * channels,
        out_channels=channels,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        num_attention_heads=(1, 1),
        cross_attention_dim=32,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        feedback_maps=("colour", "coordinates"),
        feedback_downscale=downscale,
        **changes,
    )
    for adapter in network.cond_encoder:  # feedback that matters: the heads start at zero
        nn.init.normal_(adapter.head[0].weight, std=0.5)
    return network


def recursive(network: MultiviewUNet | None = None, views: int = VIEWS, **changes: object) -> Recursive:
    network = network or unet()
    torch.manual_seed(1)
    parts = {
        "unet": network,
        "reconstructor": LGM(16, (32, 32), (False, True), True, (32,), (False,), 1, 8, 1, reconstruct_views=views),
        "codec": PixelCodec(4, scale=1.0),
        "image_encoder": ImageEncoder(32, 1, 1, 16, 8, 32),
        "renderer": GaussianRenderer(),
        "sampler": SamplerSettings(num_steps=4, sigma_max=80.0),
        "base_weights": None,
        "augmentation": 0.0,
    }
    return Recursive(**{**parts, **changes})


@pytest.fixture
def batch() -> MultiviewBatch:
    torch.manual_seed(2)
    orbit = Cameras.orbit([0.0, 90.0, 180.0, 270.0, 30.0], 10.0, 1.7417, 39.598)
    cameras, world = orbit[None].relative_to_first()
    images, alpha = torch.rand(1, 5, 3, SIZE, SIZE), (torch.rand(1, 5, 1, SIZE, SIZE) > 0.5).float()
    seen, novel = slice(0, VIEWS), slice(VIEWS, None)
    return MultiviewBatch(
        ("a",),
        *(images[:, seen], alpha[:, seen], cameras[:, seen]),
        *(images[:, novel], alpha[:, novel], cameras[:, novel]),
        torch.ones(1, 3),
        world,
    ).validate()


def losses(module: Recursive, batch: MultiviewBatch, coin: float = 0.0) -> dict[str, Tensor]:
    return module.train().training_losses(batch, coin, seed=0)


def gradients(module: Recursive, batch: MultiviewBatch) -> dict[str, Tensor]:
    sum(losses(module, batch).values()).backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def views(module: Recursive, batch: MultiviewBatch) -> Tensor:
    return module.eval().generate(batch.input_images_01, batch.cameras, batch.background, batch.uids).views_01


def test_feedback_is_adapted_once_for_all_steps_that_keep_it(batch: MultiviewBatch) -> None:
    module = recursive(sampler=SamplerSettings(num_steps=6, sigma_max=80.0, feedback_every=2))
    sizes: list[int] = []
    module.unet.cond_encoder[0].register_forward_hook(lambda _, args, __: sizes.append(args[0].shape[0]))
    views(module, batch)
    assert sizes == [VIEWS] * 3  # steps 0, 2 and 4; one object's views serve both guidance branches


def test_only_the_views_that_are_used_are_decoded(batch: MultiviewBatch) -> None:
    made = {}
    for choice in ("used", "all"):
        module = recursive(views=2, decode_views=choice)
        generation = module.eval().generate(batch.input_images_01, batch.cameras, batch.background, batch.uids)
        made[choice] = (generation.views_01, generation.cost["vae_decodes"])
        made[choice] += (torch.stack(list(losses(module, batch).values())),)
    assert torch.equal(made["used"][0], made["all"][0])  # this codec's views do not see each other
    assert torch.equal(made["used"][2], made["all"][2])
    assert (made["used"][1], made["all"][1]) == (3 * 2 + 4, 3 * 4 + 4)


def test_the_first_pass_keeps_nothing_where_no_gradient_is_wanted_through_it(batch: MultiviewBatch) -> None:
    module = recursive()
    kept = []
    module.unet.register_forward_hook(lambda *_: kept.append(torch.is_grad_enabled()))
    losses(module, batch, coin=0.0)
    assert kept == [False, True]
    kept.clear()
    module.reconstruction_gradient = True
    losses(module, batch, coin=0.0)
    assert kept == [True, True]
    kept.clear()
    module.reconstruction_gradient = False
    losses(module, batch, coin=0.9)
    assert kept == [True]


def test_the_codecs_checkpointing_changes_no_gradient(batch: MultiviewBatch) -> None:
    found, calls = [], []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        codec = SVDCodec((32, 32, 32), layers_per_block=1, gradient_checkpointing=checkpointing)
        codec.vae.decoder.up_blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
        module = recursive(unet(channels=4), codec=codec, reconstruction_gradient=True)
        found.append(gradients(module, batch))
    assert len(calls) == 3  # once, and twice
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)  # float32, the same operations


# ------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_mixed_precision_leaves_codec_geometry_and_renders_in_float32(batch: MultiviewBatch, kind: torch.dtype) -> None:
    torch.manual_seed(3)
    module = recursive(unet(channels=4), codec=SVDCodec((32, 32, 32), layers_per_block=1))
    seen: dict[str, Tensor] = {}
    for name, part in (("codec", module.codec.vae.decoder.conv_out), ("unet", module.unet.unet.conv_out)):
        part.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    whole = {name: p.detach().clone() for name, p in module.codec.named_parameters()}
    with torch.autocast("cpu", dtype=kind):
        found = losses(module, batch)
        made = views(module, batch)
        rays = batch.cameras.plucker(SIZE, SIZE)
        rendering = module.render_all(module.reconstructor(batch.images_01, batch.cameras), batch)
    assert seen["codec"].dtype == torch.float32
    assert seen["unet"].dtype == kind
    assert torch.equal(rays, batch.cameras.plucker(SIZE, SIZE))
    assert rendering.colour.dtype == torch.float32
    assert made.isfinite().all()
    full = losses(module, batch)
    for name, loss in found.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, full[name], rtol=0.05, atol=0.01)  # of a type with 8 or 11 bits
    sum(found.values()).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    assert all(torch.equal(p, whole[name]) for name, p in module.codec.named_parameters())


# ------------------------------------------------------------------------------------------------ what is trained


def trained(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


def test_what_is_trained_is_what_the_configuration_says(batch: MultiviewBatch) -> None:
    new = ("unet.cond_encoder.", "unet.down_plucker.", "unet.mid_plucker.", "unet.up_plucker.")
    names = {kind: trained(recursive(unet(trainable=kind), train=("unet",))) for kind in ("all", "temporal", "new")}
    assert names["new"] == {name for name in names["all"] if name.startswith(new)}
    temporal = names["temporal"] - names["new"]
    assert any(".temporal_transformer_blocks." in name for name in temporal)
    assert any(".temporal_res_block." in name for name in temporal)
    assert not any(
        part in name for name in temporal for part in ("spatial", ".transformer_blocks.", "conv_in.", "norm_out")
    )
    module = recursive(unet(trainable="new"), train=("unet",))
    assert set(gradients(module, batch)) == names["new"]
    alone = recursive(unet(trainable="adapters"), train=("unet",), feedback_probability=1.0)
    assert trained(alone) == {name for name in names["all"] if name.startswith("unet.cond_encoder.")}
    assert set(gradients(alone, batch)) == trained(alone)
    with pytest.raises(ValueError, match="feedback_probability 1 with `adapters`"):
        recursive(unet(trainable="adapters"), train=("unet",))
    with pytest.raises(ValueError, match="add unet to train"):
        recursive(unet(trainable="temporal"), train=("reconstructor",))
    with pytest.raises(ValueError, match="lora_rank: expected at least 1"):
        unet(trainable="lora", lora_rank=0)


def test_lora_starts_as_the_plain_network_and_merges_into_one(batch: MultiviewBatch) -> None:
    plain = recursive()
    module = recursive(unet(trainable="lora", lora_rank=2))
    assert torch.equal(views(module, batch), views(plain, batch))
    additions = {name for name in trained(module.unet) if ".lora_" in name}
    attentions = sum(name.endswith(".to_q.weight") for name in plain.unet.state_dict())
    assert len(additions) == attentions * 4 * 2  # four projections, two factors
    assert not any("base_layer" in name for name in trained(module.unet))
    for name, parameter in module.unet.named_parameters():
        if ".lora_B." in name:  # zero at the start
            nn.init.normal_(parameter, std=0.2)
    merged = recursive()
    merged.unet.load_state_dict(module.unet.merged_state_dict())  # under plain names, all of them
    assert not torch.equal(views(module, batch), views(plain, batch))
    # The factors multiply apart or together, in float32.
    torch.testing.assert_close(views(merged, batch), views(module, batch), rtol=0, atol=1e-4)
    assert plain.unet.merged_state_dict().keys() == plain.unet.state_dict().keys()


# ------------------------------------------------------------------------------------------------ whole runs


def checkpoint(run: str) -> dict[str, object]:
    return torch.load(f"runs/recursive/{run}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.slow
def test_a_lora_run_with_averaged_weights_resumes_exactly_and_is_tested(here: Path) -> None:
    levers = [
        "--model.init_args.unet.init_args.trainable=lora",
        "--model.optimizer.init_args.fused=true",
        "--trainer.precision=bf16-mixed",
        "--trainer.limit_val_batches=0",
    ]
    main([*RECURSIVE, *levers, "--version=whole", "--trainer.max_steps=3"])
    main([*RECURSIVE, *levers, "--version=part", "--trainer.max_steps=2"])
    last = "--ckpt_path=runs/recursive/part/checkpoints/last.ckpt"
    main([*RECURSIVE, *levers, "--version=rest", "--trainer.max_steps=3", last])
    whole, rest = checkpoint("whole"), checkpoint("rest")
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, rest[key][name]) for name, value in whole[key].items())
    changed = [
        name
        for name, value in whole["state_dict"].items()
        if not torch.equal(value, whole["current_model_state"][name])
    ]
    assert any(".lora_" in name for name in changed)
    assert not any("base_layer" in name for name in changed)
    main(["test", "--ckpt_path=runs/recursive/whole/checkpoints/last.ckpt"])
    assert (here / "runs/recursive/whole/results.json").is_file()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_an_optimizer_that_is_not_installed_gets_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*RECURSIVE, "--model.optimizer=bitsandbytes.optim.AdamW8bit"])
    assert stopped.value.code == 2
    assert "no module named 'bitsandbytes'; pip install bitsandbytes" in capsys.readouterr().err


def test_a_fused_optimizer_refuses_to_clip_scaled_gradients() -> None:
    module = recursive(optimizer=partial(torch.optim.AdamW, fused=True))
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    module.trainer = Trainer(accelerator="cpu", plugins=[plugin], gradient_clip_val=1.0, max_steps=1, logger=False)
    with pytest.raises(ValueError, match="fused: false with precision: 16-mixed and gradient_clip_val"):
        module.configure_optimizers()

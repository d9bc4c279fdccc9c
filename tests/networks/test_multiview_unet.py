"""The denoiser's network: diffusers' U-Net untouched, rays and feedback where they belong, and the published quirks."""

import copy
from typing import Any

import pytest
import torch
import yaml
from diffusers import UNetSpatioTemporalConditionModel
from jsonargparse import ArgumentError, ArgumentParser
from published_vectors import assert_matches, difference, published_state, read, shapes, wave
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.networks.feedback import FeedbackAdapter
from ouroboros3d.networks.multiview_unet import MultiviewUNet
from ouroboros3d.networks.pretrained.sources import from_published_key, to_published_key
from ouroboros3d.networks.pretrained.strict import load_strict
from ouroboros3d.networks.rays import harmonic_embedding, published_plucker

TINY = {
    "in_channels": 4,
    "out_channels": 2,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "layers_per_block": 1,
    "num_attention_heads": (1, 2),
    "cross_attention_dim": 16,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
    "feedback_downscale": 2,
}
BOTH = ("colour", "coordinates")


def tiny(**changes: Any) -> MultiviewUNet:
    torch.manual_seed(0)
    return MultiviewUNet(**{**TINY, **changes}).double().eval()


def with_rays(network: MultiviewUNet) -> MultiviewUNet:
    """Rays that matter: their last layers start at zero."""
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if "plucker" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def with_feedback(network: MultiviewUNet) -> MultiviewUNet:
    """Adapters that matter: their heads start at zero."""
    torch.manual_seed(2)
    for name, parameter in network.named_parameters():
        if ".head." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def inputs(batch: int = 2, views: int = 3, size: int = 8) -> dict[str, Any]:
    torch.manual_seed(3)
    azimuths = torch.arange(views) * 100.0 + torch.arange(batch)[:, None] * 17
    cameras = Cameras.orbit(azimuths, torch.arange(batch)[:, None] * 10.0, 1.7, 45.0)
    return {
        "sample": torch.randn(batch, views, 4, size, size).double(),
        "c_noise": torch.randn(batch).double(),
        "image_embedding": torch.randn(batch, 1, 16).double(),
        "added_time_ids": torch.rand(batch, 3).double(),
        "cameras": cameras.to(dtype=torch.float64),
    }


def maps(batch: int = 2, views: int = 3, size: int = 16) -> dict[str, Tensor]:
    torch.manual_seed(4)
    return {kind: torch.rand(batch, views, 3, size, size).double() for kind in BOTH}


def one(tree: dict[str, Any], index: int) -> dict[str, Any]:
    return {key: value[index : index + 1] for key, value in tree.items()}


@pytest.mark.parametrize("with_maps", [False, True])
def test_a_new_network_equals_plain_diffusers_bit_for_bit(with_maps):
    """Rays and adapters start at zero, so pretrained weights without them give what they always gave."""
    network, x = tiny(feedback_maps=BOTH), inputs()
    plain = network.unet(x["sample"], x["c_noise"], x["image_embedding"], x["added_time_ids"]).sample
    assert type(network.unet) is UNetSpatioTemporalConditionModel
    assert torch.equal(network(**x, feedback=maps() if with_maps else None), plain)


def test_rays_and_feedback_change_the_output():
    network, x = with_feedback(with_rays(tiny(feedback_maps=BOTH))), inputs()
    plain = network.unet(x["sample"], x["c_noise"], x["image_embedding"], x["added_time_ids"]).sample
    rays = network(**x)
    both = network(**x, feedback=maps())
    swapped = dict(zip(BOTH, reversed(maps().values()), strict=True))
    assert difference(rays, plain) > 1e-3
    assert difference(both, rays) > 1e-3
    assert difference(network(**x, feedback=swapped), both) > 1e-3  # each kind has its own adapter


def test_every_camera_counts():
    network, x = with_rays(tiny()), inputs()
    poses = x["cameras"].c2w_opencv.clone()
    poses[1, 2, :3, 3] += 0.1
    moved = network(**{**x, "cameras": Cameras(poses, x["cameras"].intrinsics_norm)})
    reference = network(**x)
    assert torch.equal(moved[0], reference[0])
    assert (moved[1] - reference[1]).abs().max() > 1e-5


def test_rays_are_those_of_each_resolution():
    """Every block gets the rays through its own pixels' centres, not a resized map."""
    network, x = with_rays(tiny()), inputs()
    seen: list[Tensor] = []
    for plucker in (*network.down_plucker, network.mid_plucker, *network.up_plucker):
        plucker.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(**x)
    cameras = x["cameras"].reshape(-1)
    assert [rays.shape[1] for rays in seen] == [8, 4, 4, 4, 8]
    for rays in seen:
        expected = harmonic_embedding(cameras.plucker(*rays.shape[1:3]).permute(0, 2, 3, 1))
        assert torch.equal(rays, expected)


def test_harmonics_are_sines_then_cosines_then_the_values():
    values = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    embedded = harmonic_embedding(values)
    assert embedded.shape == (1, 26)
    assert torch.allclose(embedded[0, 7], torch.sin(values[0, 1] * 2))  # second component, second frequency
    assert torch.allclose(embedded[0, 12 + 5], torch.cos(values[0, 0] * 32))
    assert torch.equal(embedded[:, 24:], values)


def test_absent_feedback_is_exactly_nothing():
    network, x = with_feedback(with_rays(tiny(feedback_maps=BOTH))), inputs()
    without_adapters = with_rays(tiny())
    without_adapters.load_state_dict({k: v for k, v in network.state_dict().items() if "cond_encoder" not in k})
    none = network(**x)
    assert torch.equal(none, without_adapters(**x))
    assert torch.equal(network(**x, feedback=maps(), feedback_mask=torch.tensor([False, False])), none)
    black = {kind: torch.zeros_like(value) for kind, value in maps().items()}
    assert difference(network(**x, feedback=black), none) > 1e-4  # a black map is not an absent one


@pytest.mark.parametrize(("where", "reaches"), [("downsamplers", False), ("skips", True)])
def test_feedback_in_the_skips_passes_by_the_downsamplers(where, reaches):
    network, given = with_feedback(tiny(feedback_maps=BOTH, feedback_to=where)), inputs()
    with torch.no_grad():
        for adapter in network.cond_encoder:
            for head in adapter.head[1:]:  # the finest level's features alone
                torch.nn.init.zeros_(head.weight)
                torch.nn.init.zeros_(head.bias)
        for block in network.unet.down_blocks:
            for downsampler in block.downsamplers or ():
                torch.nn.init.zeros_(downsampler.conv.weight)
        without, fed = network(**given), network(**given, feedback=maps())
    assert torch.equal(without, fed) is not reaches


def test_mask_mixes_samples_with_and_without_feedback():
    network, x = with_feedback(tiny(feedback_maps=BOTH)), inputs()
    mixed = network(**x, feedback=maps(), feedback_mask=torch.tensor([False, True]))
    # 1e-10: float64, where a batch of one may sum in another order than a batch of two.
    torch.testing.assert_close(mixed[:1], network(**one(x, 0)), rtol=0, atol=1e-10)
    with_maps = network(**one(x, 1), feedback=one(maps(), 1))
    torch.testing.assert_close(mixed[1:], with_maps, rtol=0, atol=1e-10)
    broken = {kind: value.clone().index_fill_(0, torch.tensor([0]), float("nan")) for kind, value in maps().items()}
    masked = network(**x, feedback=broken, feedback_mask=torch.tensor([False, True]))
    assert torch.equal(masked, mixed)  # what is masked may hold anything


def test_a_batch_of_two_is_two_batches_of_one():
    network, x = with_feedback(with_rays(tiny(feedback_maps=BOTH))), inputs()
    batched = network(**x, feedback=maps())
    for i in range(2):
        single = network(**one(x, i), feedback=one(maps(), i))
        torch.testing.assert_close(batched[i : i + 1], single, rtol=0, atol=1e-10)  # float64, order of sums


def test_first_gradients_reach_the_heads_and_the_rays_last_layers():
    network, x = tiny(feedback_maps=BOTH), inputs()
    network(**x, feedback=maps()).square().sum().backward()
    for name, parameter in network.named_parameters():
        if ".head." in name or (name.split(".")[0].endswith("plucker") and ".embed.2." in name):
            assert parameter.grad.abs().max() > 0, name
        elif "cond_encoder" in name or "plucker" in name:
            assert parameter.grad.abs().max() == 0, name  # behind a zero: moves from the second step on


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        network = with_feedback(with_rays(tiny(feedback_maps=BOTH, gradient_checkpointing=checkpointing))).train()
        network(**inputs(), feedback=maps()).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)  # float64, same operations


def test_adapted_feedback_is_the_same_feedback():
    network, x = with_feedback(with_rays(tiny(feedback_maps=BOTH))), inputs()
    expected = network(**x, feedback=maps())
    assert torch.equal(network(**x, feedback=network.adapt(maps())), expected)
    # One object's feedback serves any number of samples of it, as both branches of guidance are.
    shared = {kind: value[:1] for kind, value in maps().items()}
    repeated = network(**x, feedback={kind: torch.cat([value, value]) for kind, value in shared.items()})
    torch.testing.assert_close(network(**x, feedback=network.adapt(shared)), repeated, rtol=0, atol=1e-10)  # float64
    with pytest.raises(ValueError, match=r"feedback\['colour'\]: expected \[2, 3, 3, 16, 16\]"):
        network(**x, feedback=maps(batch=3))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_fused_and_eager_attention_agree(checkpointing):
    found = []
    for attention in ("sdpa", "eager"):
        network = tiny(attention=attention, gradient_checkpointing=checkpointing).train()
        network(**inputs()).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        processors = {type(processor).__name__ for processor in network.unet.attn_processors.values()}
        assert processors == {"Attending" if attention == "sdpa" else "AttnProcessor"}
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-8)  # float64


@pytest.mark.slow
@torch.no_grad()
def test_compiled_blocks_give_the_same_output():
    torch._dynamo.utils.counters.clear()
    plain, compiled = (with_rays(tiny(compile=choice)) for choice in (None, "eager"))
    torch.testing.assert_close(compiled(**inputs()), plain(**inputs()), rtol=0, atol=1e-10)  # float64
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 9  # shapes of blocks: beyond dynamo's own limit
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "checkpointing"), [("aot_eager", False), ("aot_eager", True), ("inductor", True)])
def test_compiled_blocks_give_the_same_gradients(backend, checkpointing):
    plain, compiled = (
        with_feedback(with_rays(tiny(feedback_maps=BOTH, compile=choice, gradient_checkpointing=checkpointing)))
        for choice in (None, backend)
    )
    assert plain.state_dict().keys() == compiled.state_dict().keys() == copy.deepcopy(compiled).state_dict().keys()
    x = {
        key: value.to(dtype=torch.float32) for key, value in inputs().items()
    }  # inductor's attention is not for float64
    shown = {kind: value.float() for kind, value in maps().items()}
    found = []
    for network in (plain, compiled):
        network.float().train()(**x, feedback=shown).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert (found[1] - found[0]).norm() < 1e-3 * found[0].norm()  # float32 sums in another order


def test_a_copy_has_hooks_of_its_own():
    """Averaged weights are a deep copy; its rays and feedback must come from its own parameters."""
    network, x = with_feedback(with_rays(tiny(feedback_maps=BOTH))), inputs()
    twin = copy.deepcopy(network)
    before = network(**x, feedback=maps())
    for name, parameter in twin.named_parameters():
        if "plucker" in name or "cond_encoder" in name:
            torch.nn.init.zeros_(parameter)
    assert torch.equal(network(**x, feedback=maps()), before)
    plain = twin.unet(x["sample"], x["c_noise"], x["image_embedding"], x["added_time_ids"]).sample
    assert torch.equal(twin(**x, feedback=maps()), plain)


def test_a_failed_pass_leaves_nothing_behind():
    network, x = with_rays(tiny()), inputs()
    plain = network.unet(x["sample"], x["c_noise"], x["image_embedding"], x["added_time_ids"]).sample
    with pytest.raises(RuntimeError, match="shape"):
        network(**{**x, "image_embedding": torch.zeros(2, 1, 5).double()})
    again = network.unet(x["sample"], x["c_noise"], x["image_embedding"], x["added_time_ids"]).sample
    assert torch.equal(again, plain)


def test_other_level_counts_and_odd_sizes():
    network = tiny(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        num_attention_heads=(1, 1, 2),
        feedback_maps=("coordinates",),
    )
    assert len(network.cond_encoder) == 1
    with_feedback(with_rays(network))
    x = inputs(batch=1, views=2, size=6)  # 6, 3, 2: rounded up on the way down
    output = network(**x, feedback={"coordinates": maps(1, 2, 12)["coordinates"]})
    assert output.shape == (1, 2, 2, 6, 6)
    assert difference(output, network(**x)) > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": (1,)}, "num_attention_heads: expected one for each of the 2"),
        ({"block_out_channels": (32, 48)}, "block_out_channels: expected multiples of 32"),
        ({"projection_class_embeddings_input_dim": 32}, "expected 3 \\* addition_time_embed_dim = 24"),
        ({"feedback_maps": ("colour", "colour")}, "feedback_maps: expected each kind once"),
        ({"compile": "nvcc"}, "compile: expected null or one of .*inductor.*, got 'nvcc'"),
        ({"compile": "aot_eager", "temporal_context": "published"}, "compile: expected null with temporal_context"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_inputs_that_do_not_fit():
    network, x = tiny(feedback_maps=BOTH), inputs()
    with pytest.raises(ValueError, match=r"sample: expected \[B, V, 4, h, w\]"):
        network(**{**x, "sample": x["sample"][:, :, :3]})
    with pytest.raises(ValueError, match=r"cameras: expected \[B, V\] = \[2, 3\], got \[2, 2\]"):
        network(**{**x, "cameras": x["cameras"][:, :2]})
    with pytest.raises(ValueError, match=r"feedback: expected maps .*'coordinates'.*, got \['colour'\]"):
        network(**x, feedback={"colour": maps()["colour"]})
    with pytest.raises(ValueError, match=r"feedback\['colour'\]: expected \[2, 3, 3, 16, 16\]"):
        network(**x, feedback=maps(size=8))


def test_yaml_configures_it_and_typos_die():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MultiviewUNet, "unet")
    sizes = {key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()}
    config = {"unet": {"class_path": "ouroboros3d.networks.multiview_unet.MultiviewUNet", "init_args": sizes}}
    network = parser.instantiate(parser.parse_string(yaml.safe_dump(config))).unet
    assert network.unet.config.block_out_channels == (32, 64)
    config["unet"]["init_args"] = {**sizes, "plucker_rays": "wrong"}
    with pytest.raises(ArgumentError, match=r"(?s)plucker_rays.*'correct', 'published'.*Got value: wrong"):
        parser.parse_string(yaml.safe_dump(config))


# The published code.

PUBLISHED = {
    "plucker_rays": "published",
    "plucker_skips": "published",
    "temporal_context": "published",
    "adapter_start": "published",
}


@pytest.fixture(scope="module")
def vectors() -> tuple[dict[str, Any], dict[str, Any]]:
    return read("mv_model_tiny_mixed")


def published_network(config: dict[str, Any], **changes: Any) -> MultiviewUNet:
    """The reference's network; a switch set to the right value keeps the published weights where it can."""
    names = (set(config) & set(MultiviewUNet.__init__.__annotations__)) - {"num_frames"}
    sizes = {name: tuple(config[name]) if isinstance(config[name], list) else config[name] for name in names}
    network = MultiviewUNet(**{**sizes, "feedback_maps": BOTH, **PUBLISHED, **changes})
    state = {from_published_key(k): v for k, v in published_state(network, to_published_key).items()}
    load_strict(network, state)
    return network.eval()


def published_inputs(vectors: dict[str, Any], guidance: bool = False) -> dict[str, Any]:
    k = float(vectors["k0"])
    x = {
        "sample": wave(vectors["sample_shape"], k),
        "c_noise": vectors["timestep"][None],
        "image_embedding": wave(vectors["context_shape"], k + 1),
        "added_time_ids": vectors["added_time_ids"],
        "cameras": Cameras(vectors["c2w"], vectors["intrinsics"]),
    }
    if not guidance:
        return x
    unconditional = x["sample"].clone()
    unconditional[:, :, 4:] = 0
    return {
        "sample": torch.cat([unconditional, x["sample"]]),
        "c_noise": x["c_noise"].repeat(2),
        "image_embedding": torch.cat([torch.zeros_like(x["image_embedding"]), x["image_embedding"]]),
        "added_time_ids": x["added_time_ids"].repeat(2, 1),
        "cameras": Cameras.cat([x["cameras"]] * 2, dim=0),
    }


def published_maps(vectors: dict[str, Any], batch: int = 1) -> dict[str, Tensor]:
    k, shape = float(vectors["k0"]), vectors["cond_shape"]
    pair = wave(shape, k + 2), wave(shape, k + 3, a=0.013)
    return {kind: value.repeat(batch, 1, 1, 1, 1) for kind, value in zip(BOTH, pair, strict=True)}


@torch.no_grad()
def test_published_denoiser(vectors):
    arrays, config = vectors
    network, x = published_network(config), published_inputs(arrays)
    assert_matches(network(**x, feedback=published_maps(arrays)), arrays["out_cond_plucker"])
    assert_matches(network(**x), arrays["out_zero_plucker"])  # no feedback = black maps through the adapters
    batch = network(**published_inputs(arrays, guidance=True), feedback=published_maps(arrays, 2))
    assert_matches(batch, arrays["out_guidance_batch"])


@torch.no_grad()
def test_published_denoiser_without_rays_or_feedback(vectors):
    arrays, config = vectors
    network, x = published_network(config), published_inputs(arrays)
    for name, parameter in network.named_parameters():
        if "plucker" in name:
            torch.nn.init.zeros_(parameter)
    assert_matches(network(**x, feedback=published_maps(arrays)), arrays["out_cond"])
    assert_matches(network(**x), arrays["out_zero"])
    assert_matches(network.unet(*list(x.values())[:4]).sample, arrays["out_none"])


@torch.no_grad()
def test_right_temporal_context_is_that_of_each_sample(vectors):
    arrays, config = vectors
    network = published_network(config, temporal_context="correct")
    batch = network(**published_inputs(arrays, guidance=True), feedback=published_maps(arrays, 2))
    assert_matches(batch, arrays["each_guidance_batch"])


@torch.no_grad()
@pytest.mark.parametrize(("switch", "right"), [("plucker_rays", "correct"), ("plucker_skips", "unchanged")])
def test_each_ray_switch_has_an_effect(vectors, switch, right):
    arrays, config = vectors
    network = published_network(config, **{switch: right})
    output = network(**published_inputs(arrays), feedback=published_maps(arrays))
    assert difference(output, arrays["out_cond_plucker"]) > 0.05  # 0.13 and more seen


@torch.no_grad()
def test_context_switch_has_an_effect_on_a_guidance_batch_alone(vectors):
    arrays, config = vectors
    assert difference(arrays["out_guidance_batch"], arrays["each_guidance_batch"]) > 0.05
    network = published_network(config, temporal_context="correct")
    output = network(**published_inputs(arrays), feedback=published_maps(arrays))
    assert_matches(output, arrays["out_cond_plucker"])


@torch.no_grad()
def test_adapter_start_switch_has_an_effect(vectors):
    """With published weights, absent feedback is not nothing; a mask then means black maps for that sample."""
    arrays, config = vectors
    network, x = published_network(config), published_inputs(arrays)
    masked = network(**x, feedback=published_maps(arrays), feedback_mask=torch.tensor([False]))
    assert_matches(masked, arrays["out_zero_plucker"])
    assert network.cond_encoder[0].head is None
    network.adapter_start = "zero_head"
    assert difference(network(**x), arrays["out_zero_plucker"]) > 0.05


@torch.no_grad()
def test_published_adapter():
    arrays, _ = read("t2i_adapter_mixed")
    channels = tuple(int(c) for c in arrays["channels"])
    adapter = FeedbackAdapter(channels, downscale=8, zero_head=False)
    prefix = "cond_encoder.0."
    named = torch.nn.ModuleDict({"cond_encoder": torch.nn.ModuleList([adapter])})
    state = published_state(named, lambda key: to_published_key(key).removeprefix(prefix))
    load_strict(adapter, {from_published_key(prefix + k).removeprefix(prefix): v for k, v in state.items()})
    shown = wave(arrays["cond_shape"], arrays["cond_k"]).flatten(0, 1)
    for stem, images in (("feature", shown), ("zero_image_feature", torch.zeros_like(shown))):
        for level, feature in enumerate(adapter(images)):
            # 3e-5 as all of the mixed files; feature maps of 1 px have few values to be the largest of.
            assert_matches(feature, arrays[f"{stem}_{level}"])


def test_published_rays():
    arrays, _ = read("diffusion_rays")
    cameras = Cameras(arrays["c2w"], arrays["intrinsics"])
    for size in (8, 16):
        plucker = published_plucker(cameras, size, size).permute(0, 1, 3, 4, 2)
        assert_matches(plucker[..., 3:], arrays[f"directions_{size}"], 1e-6)
    plucker = published_plucker(cameras, 8, 8).permute(0, 1, 3, 4, 2)
    assert_matches(harmonic_embedding(plucker), arrays["plucker78_8"], 1e-6)
    right = cameras.plucker(16, 16)[:, :, 3:]
    wrong = arrays["directions_16"].permute(0, 1, 4, 2, 3)
    angles = torch.rad2deg((right * wrong).sum(2).clamp(-1, 1).arccos())
    assert angles.mean().item() == pytest.approx(15.7, abs=0.3)  # the mean error stated for this rig, at 16 px


def test_full_size_has_the_published_names_and_shapes():
    count, expected = shapes("mv_model_full")
    with torch.device("meta"):
        network = MultiviewUNet(feedback_maps=BOTH, **PUBLISHED)
    found = {to_published_key(key): list(value.shape) for key, value in network.state_dict().items()}
    assert found == {**{k: list(v.shape) for k, v in diffusers_svd().items()}, **expected}
    assert sum(p.numel() for p in network.parameters()) == count == 1_765_033_322


def diffusers_svd() -> dict[str, Tensor]:
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(num_attention_heads=(5, 10, 20, 20))
    return {f"unet.{key}": value for key, value in unet.state_dict().items()}

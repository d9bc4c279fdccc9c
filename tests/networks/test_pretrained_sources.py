"""Strict loading: every layout of published weights, every key accounted for, nothing executed."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from published_vectors import assert_matches, published_state, read, shapes, wave
from safetensors.torch import save_file
from torch import nn

from ouroboros3d.cameras import Cameras
from ouroboros3d.networks.codecs import PixelCodec, SVDCodec
from ouroboros3d.networks.image_encoder import ImageEncoder
from ouroboros3d.networks.lgm import LGM
from ouroboros3d.networks.multiview_unet import MultiviewUNet
from ouroboros3d.networks.pretrained.base import load_base_weights, save_base_weights
from ouroboros3d.networks.pretrained.files import read_safetensors
from ouroboros3d.networks.pretrained.sources import (
    LGM_TIME_KEYS,
    NEW_UNET_KEYS,
    check_svd_scheduler,
    from_published_key,
    load_exported,
    load_lgm,
    load_published,
    load_svd_image_encoder,
    load_svd_unet,
    load_svd_vae,
    to_published_key,
)
from ouroboros3d.networks.pretrained.strict import check_strict, load_strict


def pair(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


SMALL = {
    "in_channels": 4,
    "out_channels": 2,
    "block_out_channels": (32, 32),
    "down_block_types": ("DownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
    "layers_per_block": 1,
    "num_attention_heads": (1, 1),
    "cross_attention_dim": 16,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
}


def unet(seed: int = 0, **changes) -> MultiviewUNet:
    torch.manual_seed(seed)
    return MultiviewUNet(**{**SMALL, **changes}).eval()


def lgm(seed: int = 0, **changes) -> LGM:
    torch.manual_seed(seed)
    sizes = {"input_size": 8, "down_channels": (8, 8), "down_attention": (False, True), "up_channels": (8,)}
    return LGM(**sizes, up_attention=(True,), layers_per_block=1, num_groups=4, num_heads=2, **changes).eval()


def encoder(seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    return ImageEncoder(hidden_size=16, num_layers=1, num_heads=2, image_size=8, patch_size=8, projection_dim=16)


def same(left: nn.Module, right: nn.Module) -> bool:
    states = left.state_dict(), right.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_a_fitting_state_is_loaded_and_reported():
    module, other = pair(0), pair(1)
    report = load_strict(module, other.state_dict())
    assert same(module, other)
    assert report.loaded == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert str(report) == "loaded 4 tensors"


def test_every_fault_is_named_at_once_and_nothing_is_loaded():
    module, untouched = pair(0), pair(0)
    state = pair(1).state_dict()
    state["2.weight"] = state.pop("0.bias")
    state["1.weight"] = torch.zeros(2, 5)
    with pytest.raises(ValueError, match="got 4") as caught:
        load_strict(module, state)
    for part in ("1 missing: 0.bias", "1 unexpected: 2.weight", r"1.weight [2, 5] instead of [2, 4]"):
        assert part in str(caught.value)
    assert same(module, untouched)


def test_only_allowed_keys_may_be_missing():
    module, other = pair(0), pair(1)
    state = {key: value for key, value in other.state_dict().items() if key.startswith("0.")}
    report = load_strict(module, state, allow_missing=(r"^1\.",))
    assert report.missing == ("1.weight", "1.bias")
    assert "2 keys not in the weights keep their initial values: 1" in str(report)
    assert torch.equal(module[0].weight, other[0].weight)
    assert torch.equal(module[1].weight, pair(0)[1].weight)
    with pytest.raises(ValueError, match=r"2 missing: 1\.weight, 1\.bias"):
        load_strict(module, state, allow_missing=(r"^2\.",))
    with pytest.raises(ValueError, match="unexpected"):  # allowing absence allows nothing else
        load_strict(module, {**state, "1.scale": torch.ones(1)}, allow_missing=(r"^1\.",))


def test_loading_keeps_the_modules_precision():
    module = pair(0).double()
    load_strict(module, pair(1).half().state_dict())
    assert module[0].weight.dtype == torch.float64


def test_the_report_says_what_became_of_every_key():
    module = pair(0)
    state = {"0.weight": pair(1)[0].weight, "lpips_loss.net.weight": torch.ones(2, 1)}
    report = load_strict(module, state, allow_missing=(r"bias$", r"^1\."), source="file")
    assert report.table().splitlines() == [
        "loaded: 0.weight [4, 3]",
        "kept, not in the weights: 0.bias [4]",
        "kept, not in the weights: 1.weight [2, 4]",
        "kept, not in the weights: 1.bias [2]",
        "left out, the network of a loss, not part of the model: lpips_loss.net.weight [2, 1]",
    ]
    assert (
        str(report)
        == "loaded 1 tensors from file, 3 keys not in the weights keep their initial values: 0, 1, 1 left out"
    )


# Stable Video Diffusion in diffusers layout.


def svd_folder(folder: Path, network: MultiviewUNet, **saving) -> Path:
    network.unet.save_pretrained(folder / "unet", **saving)
    return folder


def run(network: MultiviewUNet) -> torch.Tensor:
    torch.manual_seed(3)
    cameras = Cameras.orbit([[0.0, 120.0]], 10.0, 1.7, 45.0)
    with torch.no_grad():
        return network(torch.randn(1, 2, 4, 8, 8), torch.ones(1), torch.randn(1, 1, 16), torch.rand(1, 3), cameras)


@pytest.mark.parametrize(
    "saving", [{}, {"max_shard_size": "400KB"}, {"variant": "fp16"}], ids=["one", "shards", "fp16"]
)
def test_svd_unet(tmp_path, saving):
    """A U-Net saved as diffusers saves it gives the same output inside ours; what is new is named."""
    original = unet(0)
    folder = svd_folder(tmp_path, original, **saving)
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) == (1 if "max_shard_size" not in saving else 5)
    loaded = unet(1, feedback_maps=("colour", "coordinates"))
    report = load_svd_unet(loaded, folder)
    assert all(key.startswith("unet.") for key in report.loaded)
    assert {key.split(".")[0] for key in report.missing} == {
        "down_plucker",
        "mid_plucker",
        "up_plucker",
        "cond_encoder",
    }
    assert torch.equal(run(loaded), run(original))


def codec(seed: int = 0, **changes) -> SVDCodec:
    torch.manual_seed(seed)
    return SVDCodec(**{"block_out_channels": (32, 64), "layers_per_block": 1, **changes}).eval()


@torch.no_grad()
def test_svd_autoencoder_and_image_encoder(tmp_path):
    pictures = torch.rand(1, 2, 3, 8, 8)
    codec(0).vae.save_pretrained(tmp_path / "vae")
    encoder(0).clip.save_pretrained(tmp_path / "image_encoder")
    ours, clip = codec(1), encoder(1)
    assert load_svd_vae(ours, tmp_path).missing == ()
    assert load_svd_image_encoder(clip, tmp_path).missing == ()
    latents = ours.encode(pictures)
    assert torch.equal(latents, codec(0).encode(pictures))
    assert torch.equal(ours.decode(latents), codec(0).decode(latents))
    assert torch.equal(clip(pictures[0]), encoder(0)(pictures[0]))
    names = set(read_safetensors(tmp_path / "image_encoder/model.safetensors")[0])
    assert {"vision_model.embeddings.class_embedding", "visual_projection.weight"} <= names  # as SVD's are called
    half = codec(2, precision="bfloat16")
    load_svd_vae(half, tmp_path)
    assert half.vae.dtype == torch.bfloat16  # the codec's own precision


@pytest.mark.parametrize(
    ("make", "load", "message"),
    [
        (
            lambda: unet(0, block_out_channels=(32, 64)),
            load_svd_unet,
            r"expected model\.unet\.block_out_channels = \[32, 32\] as in these weights, got \[32, 64\]",
        ),
        (lambda: codec(0, scale=1.0), load_svd_vae, r"expected model\.codec\.scale = 0\.18215 .* got 1\.0"),
        (
            lambda: ImageEncoder(16, 2, 2, 8, 8, 16),
            load_svd_image_encoder,
            r"expected model\.image_encoder\.num_layers = 1 as in these weights, got 2",
        ),
        (PixelCodec, load_svd_vae, "codec: expected SVDCodec"),
    ],
    ids=["unet", "vae", "image_encoder", "another codec"],
)
def test_other_sizes_than_svds_are_named_before_any_tensor_is_read(tmp_path, make, load, message):
    unet(0).unet.save_config(tmp_path / "unet")
    codec(0).vae.save_config(tmp_path / "vae")
    encoder(0).clip.config.save_pretrained(tmp_path / "image_encoder")
    with pytest.raises(ValueError, match=message):
        load(make(), tmp_path)


def test_the_sampler_fits_svds_scheduler(tmp_path):
    _, svd = read("svd_scheduler")
    EulerDiscreteScheduler(**svd).save_pretrained(tmp_path / "scheduler")
    check_svd_scheduler(tmp_path, 0.002, 700.0)
    with pytest.raises(ValueError, match=r"expected sigma_max = 80\.0 .* got 700\.0; set model\.sampler\.sigma_max"):
        check_svd_scheduler(tmp_path, 0.002, 80.0)
    EulerDiscreteScheduler(**{**svd, "prediction_type": "epsilon"}).save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ValueError, match="expected prediction_type = v_prediction as in the sampler, got epsilon"):
        check_svd_scheduler(tmp_path, 0.002, 700.0)


def test_positions_that_older_versions_saved_are_left_out(tmp_path):
    encoder(0).clip.save_pretrained(tmp_path / "image_encoder")
    file = tmp_path / "image_encoder" / "model.safetensors"
    state, _ = read_safetensors(file)
    save_file({**state, "vision_model.embeddings.position_ids": torch.arange(2)[None]}, file)
    report = load_svd_image_encoder(encoder(1), tmp_path)
    assert report.left_out == ("vision_model.embeddings.position_ids",)


def test_full_size_weights_have_their_places():
    """Every published key of every published shape fits the full-size networks, on shapes alone."""

    def state(name: str) -> dict[str, torch.Tensor]:
        return {key: torch.empty(shape, device="meta") for key, shape in shapes(name)[1].items()}

    switches = {name: "published" for name in ("plucker_rays", "plucker_skips", "adapter_start")}
    with torch.device("meta"):
        network = MultiviewUNet(feedback_maps=("colour", "coordinates"), **switches)
        svd = UNetSpatioTemporalConditionModel(num_attention_heads=(5, 10, 20, 20)).state_dict()
        timed = LGM()
    published = {from_published_key(key): value for key, value in state("mv_model_full").items()}
    base = {f"unet.{key}": value for key, value in svd.items()}
    assert check_strict(network, {**base, **published}).missing == ()
    assert len(check_strict(network, base, allow_missing=NEW_UNET_KEYS).loaded) == len(svd)
    assert len(check_strict(timed, state("lgm_big_published")).loaded) == 438
    assert len(check_strict(timed, state("lgm_big_original"), allow_missing=LGM_TIME_KEYS).loaded) == 376
    with torch.device("meta"):
        small = LGM(up_channels=(1024, 1024, 512, 256), up_attention=(True, True, True, False), time_embedding=False)
    last = ("unet.up_blocks.4.", "unet.up_blocks.3.upsample.", "unet.norm_out.", "unet.conv_out.weight")
    shared = {key: value for key, value in state("lgm_big_original").items() if not key.startswith(last)}
    assert set(check_strict(small, shared, allow_missing=last).loaded) == set(shared)
    with pytest.raises(ValueError, match=r"unexpected: unet\.up_blocks\.3\.upsample"):
        check_strict(small, state("lgm_big_original"))


# LGM and the published checkpoint.


def gaussians(network: LGM) -> torch.Tensor:
    torch.manual_seed(3)
    images, cameras = torch.rand(1, 4, 3, 8, 8), Cameras.orbit([[0.0, 90, 180, 270]], 0.0, 1.5, 49.1)
    with torch.no_grad():
        g = network(images, cameras)
    return torch.cat([g.means, g.opacities, g.scales, g.quaternions, g.colours], dim=-1)


@pytest.mark.parametrize(
    ("release", "norm"), [("model_fp16_fixrot", "per_gaussian"), ("model_fp16", "published"), ("mine", "published")]
)
def test_lgm_weights(tmp_path, release, norm):
    """Without a time input in the file, with the same output; LPIPS weights that came along are left out."""
    original = lgm(0, time_embedding=False, rotation_norm=norm)
    state = {**original.state_dict(), "lpips_loss.net.slice1.0.weight": torch.ones(2)}
    file = tmp_path / f"{release}.safetensors"
    save_file(state, file)
    sources = [file] if release == "mine" else [file, tmp_path]  # of a folder, the release for the switch
    for source in sources:
        timed = lgm(1, rotation_norm=norm)
        report = load_lgm(timed, source)
        assert len(report.loaded) == len(original.state_dict())
        assert report.left_out == ("lpips_loss.net.slice1.0.weight",)
        assert torch.equal(gaussians(timed), gaussians(original))
    with pytest.raises(ValueError, match=r"weights of LGM as configured, .* missing: .*time_embed"):
        load_strict(lgm(1), original.state_dict())


def test_the_other_release_of_lgm_is_refused(tmp_path):
    for release, norm in (("model_fp16", "per_gaussian"), ("model_fp16_fixrot", "published")):
        file = tmp_path / f"{release}.safetensors"
        save_file(lgm(0).state_dict(), file)
        with pytest.raises(ValueError, match=rf"the release for rotation_norm = {norm}, got {release}\.safetensors"):
            load_lgm(lgm(0, rotation_norm=norm), file)
    with pytest.raises(ValueError, match=r"expected reconstructor\.position = pixel_aligned, got weights of absolute"):
        load_lgm(lgm(0, position="pixel_aligned"), tmp_path / "model_fp16_fixrot.safetensors")


LGM_SWITCHES = {"rotation_norm": "published", "time_shape": "published"}
SWITCHES = {
    "adapter_start": "published",
    "plucker_rays": "published",
    "plucker_skips": "published",
    "temporal_context": "published",
    "feedback_maps": ("colour", "coordinates"),
}


def test_published_checkpoint(tmp_path):
    """Written in the published layout and names, read back into both networks, which then give the same output."""
    network, reconstructor = unet(0, **SWITCHES), lgm(0, **LGM_SWITCHES)
    state = {to_published_key(key): value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "mv_model_unet.pth")
    torch.save(reconstructor.state_dict(), tmp_path / "recon_model.pth")
    other, other_reconstructor = unet(1, **SWITCHES), lgm(1, **LGM_SWITCHES)
    reports = load_published(other, other_reconstructor, tmp_path)
    assert [report.missing for report in reports] == [(), ()]
    assert torch.equal(run(other), run(network))
    assert torch.equal(gaussians(other_reconstructor), gaussians(reconstructor))
    with pytest.raises(ValueError, match=r"missing: cond_encoder\.0\.head\."):
        load_published(unet(1, **{**SWITCHES, "adapter_start": "zero_head"}), other_reconstructor, tmp_path)
    untouched = unet(1, **SWITCHES)
    with pytest.raises(ValueError, match="weights of LGM"):
        load_published(untouched, lgm(1, time_embedding=False, **LGM_SWITCHES), tmp_path)
    assert same(untouched, unet(1, **SWITCHES))  # both or none
    with pytest.raises(ValueError, match=r"expected unet\.plucker_rays = correct, got weights of published"):
        load_published(unet(1, **{**SWITCHES, "plucker_rays": "correct"}), other_reconstructor, tmp_path)
    with pytest.raises(ValueError, match=r"expected reconstructor\.rotation_norm = per_gaussian"):
        load_published(untouched, lgm(1), tmp_path)
    (tmp_path / "recon_model.pth").unlink()
    with pytest.raises(ValueError, match=r"expected recon_model\.pth .* `hf download huanngzh/Ouroboros3D-SVD-LGM"):
        load_published(untouched, other_reconstructor, tmp_path)


@torch.no_grad()
def test_the_published_checkpoint_gives_the_published_output(tmp_path):
    """Weights by formula in the published files, loaded as a user loads them: the reference vectors come out."""
    arrays, config = read("mv_model_tiny_mixed")
    names = (set(config) & set(MultiviewUNet.__init__.__annotations__)) - {"num_frames"}
    sizes = {name: tuple(config[name]) if isinstance(config[name], list) else config[name] for name in names}
    network = MultiviewUNet(**sizes, **SWITCHES).eval()
    lgm_arrays, config = read("lgm_forward_gaussians_mixed")
    names = ("down_channels", "down_attention", "up_channels", "up_attention", "layers_per_block")
    published = {"resize": "published", "rotation_norm": "published", "time_shape": "published"}
    reconstructor = LGM(32, **{name: tuple(config[name]) for name in names[:4]}, layers_per_block=2, **published).eval()
    torch.save(published_state(network, to_published_key), tmp_path / "mv_model_unet.pth")
    torch.save(published_state(reconstructor), tmp_path / "recon_model.pth")
    load_published(network, reconstructor, tmp_path)
    k, shape = float(arrays["k0"]), arrays["cond_shape"]
    output = network(
        wave(arrays["sample_shape"], k),
        arrays["timestep"][None],
        wave(arrays["context_shape"], k + 1),
        arrays["added_time_ids"],
        Cameras(arrays["c2w"], arrays["intrinsics"]),
        {"colour": wave(shape, k + 2), "coordinates": wave(shape, k + 3, a=0.013)},
    )
    assert_matches(output, arrays["out_cond_plucker"])
    images_01 = wave(lgm_arrays["images_shape"], lgm_arrays["images_k"]) / 2 + 0.5
    g = reconstructor(images_01, Cameras(lgm_arrays["c2w"], lgm_arrays["intrinsics"]), lgm_arrays["timestep"])
    columns = torch.cat([g.means, g.opacities, g.scales, g.quaternions, g.colours], dim=-1)
    assert_matches(columns, lgm_arrays["o3d_gaussians"])


def test_published_names_map_both_ways():
    _, published = shapes("mv_model_full")
    ours = [from_published_key(key) for key in published]
    assert [to_published_key(key) for key in ours] == list(published)
    assert len(set(ours)) == len(ours)
    assert from_published_key("cond_encoder.1.body.7.block2.bias") == "cond_encoder.1.body.2.resnets.1.block2.bias"
    assert from_published_key("cond_encoder.0.body.3.in_conv.weight") == "cond_encoder.0.body.1.in_conv.weight"
    assert from_published_key("unet.conv_in.weight") == "unet.conv_in.weight"


# Our base weights.


def test_base_weights_describe_themselves(tmp_path):
    path = tmp_path / "base.safetensors"
    parts = {"unet": unet(0), "reconstructor": lgm(0), "image_encoder": encoder(0)}
    save_base_weights(
        path,
        {k: m.state_dict() for k, m in parts.items()},
        config={"unet": {"in_channels": 4}},
        recipe={"steps": 7, "seed": 0},
    )
    assert not list(tmp_path.glob("*.part"))
    _, metadata = read_safetensors(path)
    assert json.loads(metadata["config"]) == {"unet": {"in_channels": 4}}
    assert json.loads(metadata["recipe"]) == {"steps": 7, "seed": 0}
    values = sum(value.numel() for part in parts.values() for value in part.state_dict().values())
    assert path.stat().st_size < 2.2 * values + 200_000  # two bytes a value, and the header
    new = {"unet": unet(1, feedback_maps=("colour",)), "reconstructor": lgm(1), "image_encoder": encoder(1)}
    reports = load_base_weights(path, new, allow_missing=(r"^cond_encoder\.",))
    assert {key.split(".")[0] for key in reports["unet"].missing} == {"cond_encoder"}
    assert same(new["reconstructor"], lgm(0).half().float())
    assert same(new["image_encoder"], encoder(0).half().float())


def test_base_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "base.safetensors"
    save_base_weights(path, {"unet": pair(0).state_dict(), "reconstructor": pair(1).state_dict()}, config={}, recipe={})
    with pytest.raises(ValueError, match=r"expected weights of \['unet'\], got \['reconstructor', 'unet'\]"):
        load_base_weights(path, {"unet": pair(2)})
    wider = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    first = pair(2)
    with pytest.raises(ValueError, match="of another shape"):
        load_base_weights(path, {"unet": first, "reconstructor": wider})
    assert same(first, pair(2))  # all parts or none
    save_file({"unet.0.weight": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match=r"expected base weights .* got another file"):
        load_base_weights(tmp_path / "foreign.safetensors", {"unet": pair(2)})


def test_weights_that_overflow_in_half_precision_are_not_saved(tmp_path):
    module = pair(0)
    with torch.no_grad():
        module[1].weight[0, 1] = 1e6
    with pytest.raises(ValueError, match=r"unet\.1\.weight: expected values that are finite in half precision"):
        save_base_weights(tmp_path / "base.safetensors", {"unet": module.state_dict()}, config={}, recipe={})
    assert not list(tmp_path.iterdir())


# Folders that `export` wrote: a sub-folder for each part, with the part's own names.


def exported(folder: Path, parts: dict[str, nn.Module], **settings) -> Path:
    for name, module in parts.items():
        (folder / name).mkdir(parents=True)
        save_file(module.state_dict(), folder / name / "diffusion_pytorch_model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(settings))
    return folder


def test_exported_folders_start_a_training(tmp_path):
    parts = {"unet": unet(0), "reconstructor": lgm(0), "image_encoder": encoder(0)}
    exported(tmp_path, parts)
    new = {"unet": unet(1, feedback_maps=("colour",)), "reconstructor": lgm(1), "image_encoder": encoder(1)}
    reports = load_exported({**new, "codec": PixelCodec()}, tmp_path, (r"^cond_encoder\.",))
    assert list(reports) == list(parts)  # pixels need no weights
    assert same(new["reconstructor"], lgm(0))
    assert torch.equal(run(new["unet"]), run(parts["unet"]))
    with pytest.raises(ValueError, match=r"expected codec/config\.json .* `python -m ouroboros3d export`"):
        load_exported({"codec": codec(0)}, tmp_path, ())


def test_exported_weights_of_another_meaning_are_refused(tmp_path):
    exported(tmp_path, {"reconstructor": lgm(0)}, rotation_norm="published")
    with pytest.raises(ValueError, match=r"expected reconstructor\.rotation_norm = per_gaussian, got weights of publ"):
        load_exported({"reconstructor": lgm(1)}, tmp_path, ())

"""Strict loading: every layout of published weights, every key accounted for, nothing executed."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from published_vectors import shapes
from safetensors.torch import save_file
from torch import nn

from ouroboros3d.cameras import Cameras
from ouroboros3d.networks.image_encoder import ImageEncoder
from ouroboros3d.networks.lgm import LGM
from ouroboros3d.networks.multiview_unet import MultiviewUNet
from ouroboros3d.networks.pretrained import (
    from_published_key,
    load_base_weights,
    load_lgm,
    load_published,
    load_strict,
    load_svd_unet,
    read_diffusers_folder,
    read_safetensors,
    read_torch,
    save_base_weights,
    to_published_key,
)


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


# Files.


def test_files_that_are_not_weights(tmp_path):
    with pytest.raises(ValueError, match="expected a safetensors file, got nothing"):
        read_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="got a folder"):
        read_safetensors(tmp_path)
    save_file({"a": torch.ones(100)}, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"cut\.safetensors: expected a safetensors file"):
        read_safetensors(tmp_path / "cut.safetensors")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ValueError, match=r"text\.pth: expected weights"):
        read_torch(tmp_path / "text.pth")
    with pytest.raises(ValueError, match="got nothing there"):
        read_torch(tmp_path / "none.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="expected a dict of tensors, got list"):
        read_torch(tmp_path / "list.pth")


class Trap:
    """Runs code when unpickled."""

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_in_a_file_is_executed(tmp_path):
    trap = Trap()
    trap.path = tmp_path / "executed"
    torch.save({"weight": trap}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="without executing code"):
        read_torch(tmp_path / "trap.pth")
    assert not trap.path.exists()


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


def test_svd_of_another_size(tmp_path):
    folder = svd_folder(tmp_path, unet(0))
    with pytest.raises(ValueError, match=r"unet\.conv_in\.weight \[32, 4, 3, 3\] instead of \[32, 8, 3, 3\]"):
        load_svd_unet(unet(0, in_channels=8), folder)


def test_missing_svd_files_are_named_with_the_way_to_get_them(tmp_path):
    with pytest.raises(ValueError, match=r"unet: expected diffusion_pytorch_model\.safetensors.*hf download"):
        read_diffusers_folder(tmp_path, "unet")
    with pytest.raises(ValueError, match="expected a folder in diffusers layout or a hub id"):
        read_diffusers_folder(tmp_path / "none" / "here", "unet")


def test_a_hub_id_that_cannot_be_reached():
    with pytest.raises(ValueError, match="expected a local folder or a reachable hub id"):
        read_diffusers_folder("nobody/has-this-model", "unet")


def test_a_missing_shard_is_named(tmp_path):
    svd_folder(tmp_path, unet(0), max_shard_size="400KB")
    next((tmp_path / "unet").glob("*-00002-of-*")).unlink()
    with pytest.raises(ValueError, match=r"00002-of-\d+\.safetensors: expected a safetensors file, got nothing"):
        read_diffusers_folder(tmp_path, "unet")


def test_positions_that_older_versions_saved_are_left_out(tmp_path):
    original = encoder(0)
    original.clip.save_pretrained(tmp_path / "image_encoder")
    file = tmp_path / "image_encoder" / "model.safetensors"
    state, _ = read_safetensors(file)
    save_file({**state, "vision_model.embeddings.position_ids": torch.arange(2)[None]}, file)
    load_strict(encoder(1).clip, read_diffusers_folder(tmp_path, "image_encoder"))


# LGM and the published checkpoint.


def test_lgm_weights(tmp_path):
    original = lgm(0, time_embedding=False)
    state = {**original.state_dict(), "lpips_loss.net.slice1.0.weight": torch.ones(2)}
    save_file(state, tmp_path / "model_fp16_fixrot.safetensors")
    timed = lgm(1)
    report = load_lgm(timed, tmp_path / "model_fp16_fixrot.safetensors")
    assert len(report.loaded) == len(original.state_dict())
    images = torch.rand(1, 4, 3, 8, 8)
    cameras = Cameras.orbit([[0.0, 90, 180, 270]], 0.0, 1.5, 49.1)
    with torch.no_grad():
        assert torch.equal(timed(images, cameras).means, original(images, cameras).means)
    with pytest.raises(ValueError, match=r"weights of LGM: .* missing: .*time_embed"):
        load_strict(lgm(1), original.state_dict())


def test_published_checkpoint(tmp_path):
    """Written in the published layout and names, read back into both networks."""
    switches = {"adapter_start": "published", "feedback_maps": ("colour", "coordinates")}
    network, reconstructor = unet(0, **switches), lgm(0)
    state = {to_published_key(key): value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "mv_model_unet.pth")
    torch.save(reconstructor.state_dict(), tmp_path / "recon_model.pth")
    other, other_reconstructor = unet(1, **switches), lgm(1)
    reports = load_published(other, other_reconstructor, tmp_path)
    assert [report.missing for report in reports] == [(), ()]
    assert same(other, network)
    assert same(other_reconstructor, reconstructor)
    with pytest.raises(ValueError, match=r"missing: cond_encoder\.0\.head\."):
        load_published(unet(1, feedback_maps=("colour", "coordinates")), other_reconstructor, tmp_path)
    untouched = unet(1, **switches)
    with pytest.raises(ValueError, match="weights of LGM"):
        load_published(untouched, lgm(1, time_embedding=False), tmp_path)
    assert same(untouched, unet(1, **switches))  # both or none


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


def test_disk_layout_is_diffusers_own(tmp_path):
    """What we read is what diffusers reads."""
    folder = svd_folder(tmp_path, unet(0), max_shard_size="400KB")
    theirs = UNetSpatioTemporalConditionModel.from_pretrained(folder / "unet").state_dict()
    ours = read_diffusers_folder(folder, "unet")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)

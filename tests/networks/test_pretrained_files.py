"""Files of weights: found or named, read without executing anything."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import save_file

from ouroboros3d.networks.pretrained.files import (
    LGM,
    SVD,
    find_file,
    lgm_file,
    read_json,
    read_safetensors,
    read_torch,
    read_weights,
    svd_files,
    weight_files,
)


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


def autoencoder() -> AutoencoderKLTemporalDecoder:
    return AutoencoderKLTemporalDecoder(block_out_channels=(32,), down_block_types=("DownEncoderBlock2D",))


def test_diffusers_layout_is_read_as_diffusers_reads_it(tmp_path):
    autoencoder().save_pretrained(tmp_path / "vae", max_shard_size="200KB")
    theirs = AutoencoderKLTemporalDecoder.from_pretrained(tmp_path / "vae").state_dict()
    ours = read_weights(tmp_path, "vae", SVD)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    next((tmp_path / "vae").glob("*-00002-of-*")).unlink()
    with pytest.raises(
        ValueError, match=r"expected vae/diffusion_pytorch_model-00002-of-\d+\.safetensors in this folder"
    ):
        read_weights(tmp_path, "vae", SVD)


def test_every_missing_file_of_svd_is_named_with_the_way_to_get_it(tmp_path):
    def named() -> str:
        with pytest.raises(
            ValueError, match=r"`hf download stabilityai/stable-video-diffusion-img2vid --local-dir"
        ) as e:
            svd_files(tmp_path, unet=True)
        return str(e.value)

    missing = ["scheduler/scheduler_config.json", *(f"{part}/config.json" for part in ("unet", "vae", "image_encoder"))]
    stem = "diffusion_pytorch_model.safetensors"
    missing += [f"unet/{stem}", f"vae/{stem}", "image_encoder/model.safetensors"]
    for name in missing:
        assert f"{tmp_path}: expected {name}" in named()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert [str(path.relative_to(tmp_path)) for path in svd_files(tmp_path, unet=True)] == missing
    (tmp_path / "unet" / stem).unlink()
    assert len(svd_files(tmp_path, unet=False)) == 5  # where the U-Net comes from elsewhere


def test_the_half_precision_variant_is_taken_where_there_is_no_other(tmp_path):
    for name in ("a.fp16.safetensors", "b.safetensors"):
        save_file({"x": torch.ones(1)}, tmp_path / name)
    assert find_file(tmp_path, ["a.safetensors", "a.fp16.safetensors"], SVD).name == "a.fp16.safetensors"
    assert find_file(tmp_path, ["b.safetensors", "a.fp16.safetensors"], SVD).name == "b.safetensors"


def test_a_hub_id_is_looked_up_in_the_cache_first(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--someone--weights"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123")
    (folder / "snapshots" / "0123").mkdir(parents=True)
    (folder / "snapshots" / "0123" / "model_fp16.safetensors").write_bytes(b"")
    names = ["model.safetensors", "model_fp16.safetensors"]
    assert find_file("someone/weights", names, LGM) == folder / "snapshots" / "0123" / names[1]


def test_what_is_nowhere_is_named():
    nothing = r"expected a, got no such folder, nothing in the hub's cache, and from the hub \w+; `hf download"
    with pytest.raises(ValueError, match=rf"nobody/has-this-model: {nothing} ashawkey/LGM"):
        find_file("nobody/has-this-model", ["a"], LGM)
    with pytest.raises(ValueError, match="a folder with a, or a hub id, got neither"):
        find_file("nowhere", ["a"], LGM)
    with pytest.raises(
        ValueError, match=r"lgm: expected LGM's model_fp16_fixrot\.safetensors.* got no file gone\.safe"
    ):
        lgm_file("gone.safetensors", "per_gaussian")


def test_configurations_that_are_none(tmp_path):
    for text, message in (("{", "expected JSON, got"), (json.dumps([1]), "expected a JSON object, got list")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_json(tmp_path, "config.json", SVD)


@pytest.mark.parametrize(("content", "message"), [("{", "expected JSON"), ("{}", "expected a weight_map from keys")])
def test_a_damaged_index_of_shards_is_named(tmp_path, content, message):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=rf"index\.json: {message}"):
        weight_files(tmp_path, "unet", "get it")

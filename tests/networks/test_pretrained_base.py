"""Files of a trained variant's weights: what is written is read, what is no such file is refused."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ouroboros3d.networks.pretrained.base import is_variant, read_variant, save_base_weights, save_variant

ABOUT = {
    "variant": "ouroboros3d.lightning_modules.staged.Staged",
    "config": {"model": {"init_args": {"base_weights": None}}},
    "meaning": {"position": "absolute"},
    "steps": 7,
    "seed": None,
    "moving_average": True,
    "recipe": {},
    "sources": {"bundled objects": "CC0-1.0"},
}


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {**nn.Linear(3, 4).state_dict(), "ids": torch.arange(3)}


def test_a_variant_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "staged.safetensors"
    save_variant(path, state(), ABOUT)
    assert is_variant(path)
    stored, about = read_variant(path)
    assert about == ABOUT
    assert stored["weight"].dtype == torch.float16
    assert all(torch.equal(stored[key], value.half() if key != "ids" else value) for key, value in state().items())
    assert [file.name for file in tmp_path.iterdir()] == ["staged.safetensors"]


def test_what_is_no_variant_is_refused(tmp_path):
    base, damaged = tmp_path / "base.safetensors", tmp_path / "damaged.safetensors"
    save_base_weights(base, {"unet": state()}, config={}, recipe={})
    assert not is_variant(base)
    assert not is_variant(tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match=r"got ouroboros3d-base-1; base weights are what --model\.base_weights takes"):
        read_variant(base)
    save_file(state(), damaged, metadata={"format": "ouroboros3d-variant-1", "variant": '"Staged"'})
    with pytest.raises(ValueError, match=r"got a damaged one .*make the file again from its run"):
        read_variant(damaged)
    with pytest.raises(ValueError, match=r"weight: expected .* finite in half precision, got up to 1e\+06"):
        save_variant(tmp_path / "large.safetensors", {"weight": torch.tensor([-1e6, 1.0])}, ABOUT)
    assert not (tmp_path / "large.safetensors").exists()

"""The image encoder sees what Stable Video Diffusion's pipeline shows it."""

import pytest
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import Tensor

from ouroboros3d.networks.image_encoder import ImageEncoder

TINY = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "projection_dim": 12,
}


def tiny(**changes) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(**{**TINY, **changes}).eval()


def photo(size: int) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 3, size, size)


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 16, 10])
def test_pixels_are_those_of_the_svd_pipeline(size):
    encoder, images = tiny(), photo(size)
    seen: list[Tensor] = []
    encoder.clip.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    embedding = encoder(images)
    resized = (_resize_with_antialiasing(2 * images - 1, (16, 16)) + 1) / 2
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    # 1e-4: two Gaussian blurs of the same sigma, summed in other orders.
    torch.testing.assert_close(seen[0], (resized - mean) / std, rtol=0, atol=1e-4)
    assert embedding.shape == (2, 1, 12)
    assert encoder.embedding_dim == 12


@torch.no_grad()
def test_each_image_has_its_own_embedding():
    encoder = tiny()
    both = encoder(photo(32))
    torch.testing.assert_close(both[1:], encoder(photo(32)[1:]), rtol=1e-4, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-3


def test_default_size_is_svds():
    with torch.device("meta"):
        encoder = ImageEncoder()
    # ViT-H/14's vision tower with its projection, as published with Stable Video Diffusion: 632,076,800 parameters.
    assert sum(p.numel() for p in encoder.parameters()) == 632_076_800


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"image_size": 20}, "multiple of patch_size = 8"), ({"hidden_size": 33}, "multiple of num_heads = 2")],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_inputs_that_do_not_fit():
    with pytest.raises(ValueError, match=r"images_01: expected \[B, 3, H, W\], got \[2, 1, 3, 16, 16\]"):
        tiny()(photo(16)[:, None])

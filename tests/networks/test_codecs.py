"""Codecs: exact pixels, Stable Video Diffusion's autoencoder in safe precision."""

import pytest
import torch
from torch import Tensor

from ouroboros3d.networks.codecs import PixelCodec, SVDCodec


def images(*leading: int, size: int = 8) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(*leading, 3, size, size)


def svd_codec(**changes) -> SVDCodec:
    torch.manual_seed(0)
    return SVDCodec(block_out_channels=(32, 64), layers_per_block=1, **changes).eval()


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)])
def test_pixels_survive_exactly(leading):
    codec = PixelCodec(downscale=4)
    latents = codec.encode(images(*leading, size=12))
    assert latents.shape == (*leading, codec.latent_channels, 3, 3)
    # 1e-6: 2x - 1 and back round once each in float32; the scale is a power of two.
    assert (codec.decode(latents) - images(*leading, size=12)).abs().max() < 1e-6


def test_pixels_keep_their_place():
    shown = torch.zeros(1, 3, 8, 8)
    shown[0, 1, 5, 6] = 1  # row 5 = latent row 1, row 1 within; column 6 = latent column 1, column 2 within
    latents = PixelCodec(downscale=4, scale=1).encode(shown)
    assert latents[0, 1 * 16 + 1 * 4 + 2, 1, 1] == 1
    assert (latents == 1).sum() == 1


def test_the_scale_is_on_latents_but_not_on_conditions():
    for codec in (PixelCodec(downscale=2, scale=3), svd_codec()):
        torch.testing.assert_close(codec.encode(images(2)), codec.scale * codec.condition(images(2)))
    assert PixelCodec().condition(torch.ones(1, 3, 4, 4)).unique() == 1  # white is 1, whatever the scale
    assert PixelCodec().encode(torch.ones(1, 3, 4, 4)).unique() == PixelCodec().scale


def test_decoded_pixels_are_not_clamped_and_pass_gradients():
    codec = PixelCodec(downscale=2, scale=2)
    latents = torch.full((1, 12, 2, 2), 6.0, requires_grad=True)
    decoded = codec.decode(latents)
    assert decoded.unique() == 2  # 6 / 2 = 3 in [-1, 1] units
    decoded.sum().backward()
    assert latents.grad.unique() == 0.25


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"multiples of 4, got \[1, 3, 8, 6\]"):
        PixelCodec(downscale=4).encode(torch.zeros(1, 3, 8, 6))
    with pytest.raises(ValueError, match=r"expected \[\.\.\., 3, H, W\]"):
        PixelCodec(downscale=4).encode(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="chunks: expected at least 1"):
        svd_codec(decode_chunk=0)


@torch.no_grad()
def test_svd_codec_is_the_autoencoder_in_its_own_units():
    codec = svd_codec()
    assert codec.downscale == 2
    shown = images(2, 3)
    moments = codec.vae.encode(2 * shown.flatten(0, 1) - 1).latent_dist
    latents = codec.encode(shown)
    torch.testing.assert_close(latents, 0.18215 * moments.mode().reshape(2, 3, 4, 4, 4))
    video = codec.vae.decode(moments.mode()[3:], num_frames=3).sample
    torch.testing.assert_close(codec.decode(latents)[1], video / 2 + 0.5)


@torch.no_grad()
def test_chunks_change_memory_and_the_reach_of_the_view_axis_alone():
    codec = svd_codec()
    for name, parameter in codec.vae.named_parameters():
        if "temporal" in name or "time_conv" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    whole, latents = codec.encode(images(1, 4)), codec.encode(images(1, 4))
    codec.encode_chunk = 3
    torch.testing.assert_close(codec.encode(images(1, 4)), whole)
    together = codec.decode(latents)
    codec.decode_chunk = 2
    pairs = codec.decode(latents)
    torch.testing.assert_close(pairs[:, :2], codec.decode(latents[:, :2]))
    assert (pairs - together).abs().max() > 1e-4  # view 1 no longer sees view 2
    alone = codec.decode(latents[0])  # four axes: images on their own
    torch.testing.assert_close(alone[2], codec.decode(latents[0, 2]))


@torch.no_grad()
def test_autocast_does_not_reach_the_autoencoder():
    codec = svd_codec()
    expected = codec.decode(codec.encode(images(1, 2)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.decode(codec.encode(images(1, 2))), expected)


@torch.no_grad()
def test_half_precision():
    with pytest.raises(ValueError, match="got float16"):
        svd_codec().half().decode(torch.zeros(1, 2, 4, 4, 4))
    latents = svd_codec(precision="bfloat16").encode(images(1, 2))
    assert latents.dtype == torch.float32  # as the images
    torch.testing.assert_close(latents, svd_codec().encode(images(1, 2)), rtol=0.1, atol=0.02)  # 8 bits of mantissa


@torch.no_grad()
def test_overflow_raises_but_what_came_in_broken_goes_out_broken():
    codec = svd_codec()
    codec.vae.decoder.conv_in.weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="expected finite decoded images"):
        codec.decode(torch.ones(1, 2, 4, 4, 4))
    assert codec.decode(torch.full((1, 2, 4, 4, 4), float("nan"))).isnan().any()

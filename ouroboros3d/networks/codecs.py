"""Image codecs: between images in [0, 1] and the latents that diffusion works on."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn
from torch.nn import functional


class ImageCodec(nn.Module, ABC):
    """Images in [0, 1] to latents and back.

    z = scale * E(x) is what diffusion sees, x = D(z / scale). Decoded images are not clamped, so that gradients pass
    everywhere; clamp where images are shown, measured or saved.

    Args:
        latent_channels: channels of a latent.
        downscale: pixels along one side of a latent pixel.
        scale: factor that brings the latents' variance near 1.
    """

    def __init__(self, latent_channels: int, downscale: int, scale: float) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.downscale = downscale
        self.scale = scale

    def encode(self, images_01: Tensor) -> Tensor:
        """Latents z [..., C, h, w], scaled, of images [..., 3, H, W]."""
        return self.scale * self.condition(images_01)

    def condition(self, images_01: Tensor) -> Tensor:
        """The conditioning latent E(x) [..., C, h, w], NOT scaled, of images [..., 3, H, W].

        The images may carry noise. Noise levels are in units of [-1, 1] images: add 0.5 * level * noise to images_01.
        """
        self._check_size(images_01)
        flat = images_01.reshape(-1, *images_01.shape[-3:])
        latents = self._encode(2 * flat - 1)
        return latents.reshape(*images_01.shape[:-3], *latents.shape[-3:])

    def decode(self, latents: Tensor) -> Tensor:
        """Images [..., 3, H, W], not clamped, of scaled latents [..., V, C, h, w]; of three or four axes: no views."""
        views = latents.shape[-4] if latents.ndim > 4 else 1
        images_pm1 = self._decode(latents.reshape(-1, *latents.shape[-3:]) / self.scale, views)
        return (images_pm1 / 2 + 0.5).reshape(*latents.shape[:-3], *images_pm1.shape[-3:])

    @abstractmethod
    def _encode(self, images_pm1: Tensor) -> Tensor:
        """E: [N, C, h, w] of images [N, 3, H, W] in [-1, 1]."""

    @abstractmethod
    def _decode(self, latents: Tensor, views: int) -> Tensor:
        """D: images [N, 3, H, W] in [-1, 1] of unscaled latents [N, C, h, w], N = objects times views."""

    def _check_size(self, images_01: Tensor) -> None:
        if images_01.shape[-3] != 3 or images_01.shape[-1] % self.downscale or images_01.shape[-2] % self.downscale:
            raise ValueError(
                f"images_01: expected [..., 3, H, W] with H and W multiples of {self.downscale}, "
                f"got {list(images_01.shape)}; resize the images."
            )


class PixelCodec(ImageCodec):
    """Pixels themselves, moved into channels: exactly invertible, without weights.

    Args:
        downscale: pixels along one side of a latent pixel.
        scale: factor on pixels in [-1, 1]. Renders of objects on white have a standard deviation of 0.47 about their
            mean there, the objects' own pixels 0.54 (64 views of 16 bundled objects), so 2 brings them near 1, the
            spread that the preconditioning assumes.
    """

    def __init__(self, downscale: int = 4, scale: float = 2.0) -> None:
        super().__init__(latent_channels=3 * downscale**2, downscale=downscale, scale=scale)

    def _encode(self, images_pm1: Tensor) -> Tensor:
        return functional.pixel_unshuffle(images_pm1, self.downscale)

    def _decode(self, latents: Tensor, views: int) -> Tensor:
        return functional.pixel_shuffle(latents, self.downscale)

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"downscale={self.downscale}, scale={self.scale}"


class SVDCodec(ImageCodec):
    """Stable Video Diffusion's autoencoder, whose decoder sees neighbouring views.

    It overflows in float16 (black or NaN images), so it runs outside autocast in the precision given here, and raises
    if it makes a value that is not finite out of finite ones.

    Args:
        block_out_channels: width of each level, multiples of 32.
        layers_per_block: residual blocks of each level.
        latent_channels: channels of a latent.
        scale: the scaling factor of the weights.
        encode_chunk: images encoded at a time; fewer = less memory.
        decode_chunk: views decoded at a time, and the reach of the decoder's view axis.
        precision: of the weights and of the computation.
        gradient_checkpointing: recompute the decoder's activations where a gradient passes through it.
    """

    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        scale: float = 0.18215,
        encode_chunk: int = 8,
        decode_chunk: int = 8,
        precision: Literal["float32", "bfloat16"] = "float32",
        gradient_checkpointing: bool = False,
    ) -> None:
        if encode_chunk < 1 or decode_chunk < 1:
            raise ValueError(f"chunks: expected at least 1, got {encode_chunk} (encode) and {decode_chunk} (decode).")
        super().__init__(latent_channels, 2 ** (len(block_out_channels) - 1), scale)
        self.encode_chunk = encode_chunk
        self.decode_chunk = decode_chunk
        vae = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * len(block_out_channels),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            scaling_factor=scale,
        )
        # diffusers decorates its classes in a way that hides their types.
        self.vae = cast(Any, vae)
        nn.Module.to(self.vae, getattr(torch, precision))  # diffusers' own `to` warns of an empty list of exceptions
        if gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()

    def _encode(self, images_pm1: Tensor) -> Tensor:
        with self._safe_precision(images_pm1) as inputs:
            latents = torch.cat(
                [self.vae.encode(chunk).latent_dist.mode() for chunk in inputs.split(self.encode_chunk)]
            )
        return self._checked(latents, "encoded latents", images_pm1)

    def _decode(self, latents: Tensor, views: int) -> Tensor:
        with self._safe_precision(latents) as inputs:
            chunks = [
                self.vae.decode(chunk, num_frames=chunk.shape[0]).sample
                for video in inputs.split(views)
                for chunk in video.split(self.decode_chunk)
            ]
            images_pm1 = torch.cat(chunks)  # in here: float16 autocast knows no bfloat16
        return self._checked(images_pm1, "decoded images", latents)

    @contextmanager
    def _safe_precision(self, inputs: Tensor) -> Iterator[Tensor]:
        dtype = self.vae.dtype
        if dtype == torch.float16:
            raise ValueError(
                "SVDCodec: expected float32 or bfloat16 weights, got float16, in which this autoencoder overflows; "
                "train with 16-mixed or bf16-mixed instead of 16-true."
            )
        with torch.autocast(inputs.device.type, enabled=False):
            yield inputs.to(dtype)

    @staticmethod
    def _checked(outputs: Tensor, name: str, inputs: Tensor) -> Tensor:
        # Values that were not finite before are the network's or the data's fault and are reported there.
        if not bool(torch.isfinite(outputs).all()) and bool(torch.isfinite(inputs).all()):
            raise ValueError(
                f"SVDCodec: expected finite {name}, got NaN or infinity in {outputs.dtype}; use precision: float32 and "
                "check the weights."
            )
        return outputs.to(inputs.dtype)

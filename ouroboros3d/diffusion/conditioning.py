"""Conditions of the denoiser: the input image (embedding, latent, micro-conditioning ids) and the cameras."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras

_FPS_ID = 6.0  # the ids that the published SVD weights are asked for a smooth orbit with
_MOTION_BUCKET_ID = 127.0


@dataclass(frozen=True)
class Conditions:
    """What the denoiser knows of B objects besides their noisy latents.

    Args:
        image_embedding: [B, 1, D] of the input image; zero = dropped.
        image_latents: [B, C, h, w] of the input image with noise, not divided by the codec's scale; zero = dropped.
        added_time_ids: [B, 3] fps id, motion bucket id, noise level added to the input image.
        cameras: [B, V].
    """

    image_embedding: Tensor
    image_latents: Tensor
    added_time_ids: Tensor
    cameras: Cameras

    def dropped(self, embedding: Tensor, latents: Tensor) -> "Conditions":
        """Conditions with the embedding and the latents of the samples marked in two masks [B] set to zero."""
        return Conditions(
            torch.where(embedding[:, None, None], 0.0, self.image_embedding),
            torch.where(latents[:, None, None, None], 0.0, self.image_latents),
            self.added_time_ids,
            self.cameras,
        )

    def with_unconditional(self) -> "Conditions":
        """[2B] conditions: the unconditional ones (embedding and latents zero), then these."""
        return Conditions(
            torch.cat([torch.zeros_like(self.image_embedding), self.image_embedding]),
            torch.cat([torch.zeros_like(self.image_latents), self.image_latents]),
            torch.cat([self.added_time_ids] * 2),
            Cameras.cat([self.cameras] * 2, dim=0),
        )


def added_time_ids(noise_level: Tensor) -> Tensor:
    """Micro-conditioning ids [B, 3] (fps id, motion bucket id, noise level) for noise levels [B], one a sample."""
    fixed = torch.tensor([_FPS_ID, _MOTION_BUCKET_ID], device=noise_level.device, dtype=noise_level.dtype)
    return torch.cat([fixed.expand(noise_level.shape[0], 2), noise_level[:, None]], dim=1)


def draw_condition_noise_levels(batch: int, stream: torch.Generator, mean: float = -3.0, std: float = 0.5) -> Tensor:
    """Levels [B] of the noise added to the input image in training, exp(N(mean, std^2)) (SVD's values)."""
    return (mean + std * torch.randn(batch, generator=stream)).exp()


def draw_guidance_dropout(batch: int, rate: float, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which conditions a training step drops, so that guidance has an unconditional branch.

    With one uniform r a sample: the embedding if r < 2 * rate, the latents if rate <= r < 3 * rate (instruct-pix2pix).

    Returns:
        masks [B] of dropped embeddings and dropped latents.
    """
    r = torch.rand(batch, generator=stream)
    return r < 2 * rate, (r >= rate) & (r < 3 * rate)

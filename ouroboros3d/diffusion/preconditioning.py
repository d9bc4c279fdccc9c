"""One preconditioning for training and sampling (EDM, Karras et al. 2022, with SVD's v-prediction, sigma_data = 1)."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.diffusion.conditioning import Conditions

Feedback = Mapping[str, Tensor]
"""Maps rendered from the 3D reconstructed so far: name -> [B, V, 3, H, W] in [0, 1]."""


class DenoisingNetwork(Protocol):
    """What the denoiser asks of a network (`networks.multiview_unet.MultiviewUNet`)."""

    def __call__(
        self,
        sample: Tensor,
        c_noise: Tensor,
        image_embedding: Tensor,
        added_time_ids: Tensor,
        cameras: Cameras,
        feedback: Feedback | None = None,
    ) -> Tensor:
        """[B, V, 2C, h, w] scaled noisy latents beside the input's latent -> [B, V, C, h, w].

        Feedback of fewer objects than B is repeated: guidance asks for two branches of the same objects.
        """


class Draw(NamedTuple):
    """The random part of one training step.

    latents: [B, V, C, h, w] clean z.
    noisy: [B, V, C, h, w] z + sigma * noise.
    sigma: [B].
    conditions: with guidance dropout.
    """

    latents: Tensor
    noisy: Tensor
    sigma: Tensor
    conditions: Conditions


class Scalings(NamedTuple):
    """EDM scalings, one value a sample: [B]."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def scalings(sigma: Tensor) -> Scalings:
    """Scalings of the noise levels sigma [B] (docs/method.md, section 1; c_out < 0 because SVD predicts v)."""
    root = (sigma**2 + 1).sqrt()
    return Scalings(1 / root**2, -sigma / root, 1 / root, sigma.log() / 4)


def loss_weight(sigma: Tensor) -> Tensor:
    """(1 + sigma^2) / sigma^2, which gives the network's own output unit weight at every noise level."""
    return (1 + sigma**2) / sigma**2


def draw_training_sigmas(batch: int, stream: torch.Generator, mean: float = 1.0, std: float = 1.6) -> Tensor:
    """Noise levels [B] of a training step from a stream of the CPU, ln sigma ~ N(mean, std^2) (SVD's values)."""
    return (mean + std * torch.randn(batch, generator=stream)).exp()


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Values [B] shaped to broadcast against a tensor [B, ...]."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def denoise(
    network: DenoisingNetwork, noisy: Tensor, sigma: Tensor, conditions: Conditions, feedback: Feedback | None = None
) -> Tensor:
    """Estimate the clean latents.

    Args:
        network: the raw network F.
        noisy: [B, V, C, h, w] z + sigma * noise.
        sigma: [B] noise levels, > 0.
        conditions: of the input image and the cameras.
        feedback: maps of the 3D reconstructed so far; None = none yet, which adds exactly nothing.

    Returns:
        [B, V, C, h, w] z0_hat.
    """
    scaling = scalings(sigma)
    beside = conditions.image_latents[:, None].expand(-1, noisy.shape[1], -1, -1, -1)
    sample = torch.cat([per_sample(scaling.c_in, noisy) * noisy, beside.to(noisy.dtype)], dim=2)
    output = network(
        sample, scaling.c_noise, conditions.image_embedding, conditions.added_time_ids, conditions.cameras, feedback
    )
    return per_sample(scaling.c_skip, noisy) * noisy + per_sample(scaling.c_out, noisy) * output


def diffusion_loss(estimate: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
    """Weighted squared error of z0_hat against z [B, V, C, h, w] at noise levels sigma [B]: a scalar."""
    return (per_sample(loss_weight(sigma), latents) * (estimate - latents) ** 2).mean()

"""Classifier-free guidance with a scale for each view."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ouroboros3d.diffusion.conditioning import Conditions
from ouroboros3d.diffusion.preconditioning import DenoisingNetwork, Feedback, denoise

GuidanceShape = Literal["triangle", "published"]


class Estimate(NamedTuple):
    """An estimate of the clean latents and the branches it was guided from.

    z0: [B, V, C, h, w] the guided estimate.
    branches: (unconditional, conditional) estimates, or only the conditional one where nothing is guided.
    guidance: [V] scales.
    """

    z0: Tensor
    branches: tuple[Tensor, ...]
    guidance: Tensor

    @classmethod
    def combine(cls, branches: tuple[Tensor, ...], guidance: Tensor) -> "Estimate":
        """Guide: unconditional + scale * (conditional - unconditional), per view."""
        if len(branches) == 1:
            return cls(branches[0], branches, guidance)
        unconditional, conditional = branches
        scale = guidance[:, None, None, None].to(conditional.dtype)
        return cls(unconditional + scale * (conditional - unconditional), branches, guidance)


def view_guidance(num_views: int, minimum: float, maximum: float, shape: GuidanceShape = "triangle") -> Tensor:
    """Guidance scale of each view of a closed, evenly spread orbit, [V].

    Args:
        num_views: V; view 0 is the input.
        minimum: scale at the input view.
        maximum: scale at the opposite view (`triangle`) or at the last one (`published`).
        shape: `triangle` as SV3D, up to the opposite view and back; `published` as Ouroboros3D's code, linear over the
            view's index although the orbit is closed.
    """
    index = torch.arange(num_views, dtype=torch.float32)
    if shape == "published":
        rise = index / max(num_views - 1, 1)
    else:
        rise = 1 - (1 - 2 * index / num_views).abs()
    return minimum + (maximum - minimum) * rise


class GuidedDenoiser:
    """The sampler's denoiser: both guidance branches in one batch; the network gives both the objects' one feedback.

    Args:
        network: the raw network F.
        conditions: of B objects.
        guidance: [V] scales; where all are 1 only the conditional branch runs.

    `evaluations` counts the network's evaluations of one object so far, two a call where it is guided.
    """

    def __init__(self, network: DenoisingNetwork, conditions: Conditions, guidance: Tensor) -> None:
        self.network = network
        self.guided = bool((guidance != 1).any())
        self.conditions = conditions.with_unconditional() if self.guided else conditions
        self.guidance = guidance.to(conditions.image_latents.device)
        self.evaluations = 0

    def __call__(self, noisy: Tensor, sigma: Tensor, feedback: Feedback | None) -> Estimate:
        """Estimate the clean latents of noisy [B, V, C, h, w] at one noise level sigma []."""
        self.evaluations += 2 if self.guided else 1
        if not self.guided:
            z0 = denoise(self.network, noisy, sigma.expand(noisy.shape[0]), self.conditions, feedback)
            return Estimate.combine((z0,), self.guidance)
        estimates = denoise(
            self.network, torch.cat([noisy, noisy]), sigma.expand(2 * noisy.shape[0]), self.conditions, feedback
        )
        unconditional, conditional = estimates.chunk(2)
        return Estimate.combine((unconditional, conditional), self.guidance)

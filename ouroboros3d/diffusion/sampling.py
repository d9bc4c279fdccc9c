"""The one sampler. The variants differ only in the function that they pass as `after_estimate`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ouroboros3d.diffusion.guidance import Estimate
from ouroboros3d.diffusion.preconditioning import Feedback


@dataclass(frozen=True)
class Step:
    """What an observer sees after each step: copies, so that looking cannot change the result.

    Args:
        index: 0-based.
        sigma: the noise level that was estimated at.
        estimate: [B, V, C, h, w] the guided z0_hat before the variant's hook.
        z0: [B, V, C, h, w] what the sampler goes on with.
        feedback: maps for the next step, or None.
    """

    index: int
    sigma: float
    estimate: Tensor
    z0: Tensor
    feedback: Feedback | None


class AfterEstimate(Protocol):
    """The hook in which the variants differ."""

    def __call__(self, index: int, sigma: Tensor, estimate: Estimate) -> tuple[Tensor, Feedback | None]:
        """z0 to go on with and the feedback of the next step, from step `index`'s estimate at noise level sigma []."""


Observer = Callable[[Step], None]


def unchanged(index: int, sigma: Tensor, estimate: Estimate) -> tuple[Tensor, Feedback | None]:
    """The staged variant's hook: the estimate passes, and there is no feedback."""
    return estimate.z0, None


def karras_sigmas(num_steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0) -> Tensor:
    """Noise levels from sigma_max down to sigma_min, then 0: [num_steps + 1] (Karras et al. 2022, eq. 5).

    The defaults are those of Stable Video Diffusion's scheduler.

    Raises:
        ValueError: fewer than 1 step, or levels that do not fall.
    """
    if num_steps < 1 or not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"num_steps, sigma_min, sigma_max: expected >= 1 and 0 < min < max, got "
            f"{num_steps}, {sigma_min}, {sigma_max}."
        )
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)]).float()


@torch.no_grad()
def sample(
    denoise: Callable[[Tensor, Tensor, Feedback | None], Estimate],
    noise: Tensor,
    sigmas: Tensor,
    *,
    after_estimate: AfterEstimate = unchanged,
    observers: Sequence[Observer] = (),
) -> Tensor:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 1 without churn).

    Args:
        denoise: (noisy [B, V, C, h, w], sigma [], feedback) -> Estimate.
        noise: [B, V, C, h, w] standard normal; scaled here to the first noise level.
        sigmas: [num_steps + 1] falling noise levels, the last one 0.
        after_estimate: the ONLY place where the variants differ: identity = staged, a projected estimate =
            inference-combined, feedback for the next step = recursive.
        observers: called with a `Step` after each one; they cannot change the result.

    Returns:
        [B, V, C, h, w] clean latents.
    """
    sigmas = sigmas.to(noise.device)
    # The start has the variance of data plus noise (sigma_data = 1), as SVD's scheduler scales it.
    x = noise * (sigmas[0] ** 2 + 1).sqrt()
    feedback: Feedback | None = None
    for index, sigma in enumerate(sigmas[:-1]):
        estimate = denoise(x, sigma, feedback)
        z0, feedback = after_estimate(index, sigma, estimate)
        for observe in observers:
            maps = None if feedback is None else {name: maps.clone() for name, maps in feedback.items()}
            observe(Step(index, sigma.item(), estimate.z0.clone(), z0.clone(), maps))
        x = z0 + sigmas[index + 1] / sigma * (x - z0)
    return x

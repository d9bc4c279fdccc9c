"""What a generation is asked for, and what comes of it."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ouroboros3d.diffusion.guidance import GuidanceShape
from ouroboros3d.gaussians import Gaussians

# What a generation counts of itself, besides the network's evaluations.
CALLS = ("vae_decodes", "vae_encodes", "recon_calls", "render_calls")


@dataclass(frozen=True)
class SamplerSettings:
    """The sampler's settings; the defaults are the published ones but for the shape of the guidance.

    Args:
        num_steps: Euler steps.
        sigma_min: last noise level above 0.
        sigma_max: first noise level.
        guidance_min: guidance at the input view.
        guidance_max: guidance at the opposite view.
        guidance_shape: over the views: `triangle`, or `published` (linear in the index).
        condition_noise: level of the noise added to the input image's latent.
        seed: of the noise; an object's noise follows from it and the object's name alone.
        feedback_every: the recursive variant reconstructs at every n-th step and keeps the feedback between; 0 = it
            samples without feedback, to tell what the feedback does from what the training did.
    """

    num_steps: int = 25
    sigma_min: float = 0.002
    sigma_max: float = 700.0
    guidance_min: float = 1.0
    guidance_max: float = 3.0
    guidance_shape: GuidanceShape = "triangle"
    condition_noise: float = 0.02
    seed: int = 0
    feedback_every: int = 1


class Generation(NamedTuple):
    """What `generate` returns.

    views_01: [B, V, 3, H, W] the generated views in [0, 1].
    gaussians: [B, N] their reconstruction, in the input-relative frame.
    cost: of one object by name: `nfe` evaluations of F (each of all V views; two a guided step), `vae_decodes` and
        `vae_encodes` images (the input's own among them), `recon_calls` of R, `render_calls` images, and `seconds` of
        the batch divided by B; `peak_memory_mib` is the whole batch's. What observers do is not in it.
    """

    views_01: Tensor
    gaussians: Gaussians
    cost: dict[str, float]

    def object(self, index: int) -> "Generation":
        """The generation of one object."""
        one = slice(index, index + 1)
        return Generation(self.views_01[one], self.gaussians[one], self.cost)


class Evaluation(NamedTuple):
    """What `evaluate` returns.

    generation: of the batch.
    renders_01: [B, V + T, 3, H, W] of its Gaussians at the input and the novel cameras.
    values: [B] by name, see `evaluate`.
    alignment: [B, 4, 4] of the reconstruction to the true surface in the object's frame, or None without one.
    truncated: [] the largest share of pixels that were cut off in any render on the way.
    """

    generation: Generation
    renders_01: Tensor
    values: dict[str, Tensor]
    alignment: Tensor | None
    truncated: Tensor

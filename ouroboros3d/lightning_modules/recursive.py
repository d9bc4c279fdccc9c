"""Recursive (Ouroboros3D): renders of the 3D so far condition the next step, and F and R train jointly."""

from typing import Any, Literal

import torch
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.diffusion.guidance import Estimate
from ouroboros3d.diffusion.preconditioning import Draw, Feedback, diffusion_loss, per_sample, scalings
from ouroboros3d.diffusion.sampling import AfterEstimate, karras_sigmas
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.renderers.rendering import Rendering, encode_coordinates, published_coordinates


class Recursive(ImageTo3D):
    """The joint training step and the recursive sampler of docs/method.md, section 4.

    Which maps are fed back is the network's own argument, `unet.init_args.feedback_maps`; with none, this is joint
    training without feedback.

    Args:
        feedback_probability: p of the coin toss; heads trains F with feedback, tails without.
        true_maps: share of the heads on which the maps are those of R(clean views) in place of R(estimate): what R
            could give, from which the adapters learn sooner what maps are for.
        feedback_level: noise level that the fed back estimate was made at: the `same` as its successor's, as the
            published training, or the one `before` it in the sampler, as in sampling.
        detach_feedback: maps reach F without a graph; False lets F's loss train R through them (published code).
        reconstruction_gradient: the reconstruction loss of the estimated views reaches F.
        coordinate_map: `canonical` feeds back the expected surface point; `published` the map that the published
            weights were trained with, see `published_coordinates`.
        base: the arguments of `ImageTo3D`.
    """

    # jsonargparse follows **base to ImageTo3D's own arguments, so the YAML stays typed and a typo dies when it is read.
    def __init__(
        self,
        feedback_probability: float = 0.5,
        true_maps: float = 0.0,
        feedback_level: Literal["same", "before"] = "same",
        detach_feedback: bool = True,
        reconstruction_gradient: bool = False,
        coordinate_map: Literal["canonical", "published"] = "canonical",
        **base: Any,  # noqa: ANN401
    ) -> None:
        self.coordinate_map = coordinate_map  # first: base weights are checked against it
        super().__init__(**base)
        if not 0 <= feedback_probability <= 1 or self.sampler.feedback_every < 0:
            raise ValueError(
                "feedback_probability, sampler.feedback_every: expected a probability and a count >= 0, got "
                f"{feedback_probability}, {self.sampler.feedback_every}."
            )
        if not 0 <= true_maps <= 1:
            raise ValueError(f"true_maps: expected a share in [0, 1], got {true_maps:g}.")
        if self.unet.trainable == "adapters" and not (self.unet.feedback_maps and feedback_probability == 1):
            raise ValueError(
                "unet.trainable: expected feedback_maps and feedback_probability 1 with `adapters`, as a step without "
                f"feedback trains nothing then, got {list(self.unet.feedback_maps)} and {feedback_probability:g}."
            )
        self.feedback_probability = feedback_probability
        self.true_maps = true_maps
        self.feedback_level = feedback_level
        self.detach_feedback = detach_feedback
        self.reconstruction_gradient = reconstruction_gradient

    def training_losses(self, batch: MultiviewBatch, coin: float, seed: int) -> dict[str, Tensor]:
        """Estimate, reconstruct the estimate and the clean views, and on heads estimate again with feedback."""
        draw = self.draw(batch, seed)
        heads = bool(self.unet.feedback_maps) and coin < self.feedback_probability
        first = self.before(draw) if heads and self.feedback_level == "before" else draw
        # On heads the first estimate's own loss is not used: unless the reconstruction's gradient is wanted through it,
        # it needs no graph, and the step costs one forward of F more than a staged step.
        with torch.set_grad_enabled(torch.is_grad_enabled() and (not heads or self.reconstruction_gradient)):
            estimate = self.denoise(first)
        latents = estimate if self.reconstruction_gradient else estimate.detach()
        rendering = self.render_all(self.reconstruct_latents(latents, batch.cameras, first.sigma), batch)
        clean = self.reconstruct_clean(batch, seed)
        if heads:
            shown = clean if coin < self.feedback_probability * self.true_maps else rendering
            feedback = self.feedback(shown, batch.cameras)
            if self.detach_feedback:
                feedback = {name: maps.detach() for name, maps in feedback.items()}
            estimate = self.denoise(draw, feedback)
        estimated = self.reconstruction_loss(rendering, batch)
        reconstruction = (estimated + self.reconstruction_loss(clean, batch)) / 2
        return {
            "diffusion": diffusion_loss(estimate, draw.latents, draw.sigma),
            "reconstruction": self.reconstruction_loss.settings.weight * reconstruction,
        }

    def before(self, draw: Draw) -> Draw:
        """The same objects and noise at the noise levels that the sampler comes from."""
        sigma, noise = self.level_before(draw.sigma), draw.noisy - draw.latents
        noisy = draw.latents + per_sample(sigma / draw.sigma, noise) * noise
        return draw._replace(noisy=noisy, sigma=sigma)

    def level_before(self, sigma: Tensor) -> Tensor:
        """Noise levels [B] as far above sigma [B] as the sampler's level before the nearest one is above that one."""
        settings = self.sampler
        levels = karras_sigmas(settings.num_steps, settings.sigma_min, settings.sigma_max)[:-1].to(sigma)
        nearest = (levels.log()[:, None] - sigma.log()).abs().argmin(0)
        before: Tensor = sigma * levels[(nearest - 1).clamp_min(0)] / levels[nearest]
        return before

    def after_estimate(self, cameras: Cameras, background: Tensor, size: tuple[int, int]) -> AfterEstimate:
        """Reconstruct the estimate at its noise level and hand its maps to the next step."""
        kept: list[Feedback | None] = [None]
        feedback_steps = self.feedback_steps()

        def hook(index: int, sigma: Tensor, estimate: Estimate) -> tuple[Tensor, Feedback | None]:
            if index in feedback_steps:
                gaussians = self.reconstruct_latents(estimate.z0, cameras, sigma)
                maps = self.feedback(self.render(gaussians, cameras, size, background), cameras)
                kept[0] = self.unet.adapt(maps)  # once for all steps that keep them, and for both guidance branches
            return estimate.z0, kept[0]

        return hook

    def noise_input(self, sigma: Tensor | None, objects: int) -> Tensor | None:
        """c_noise [B] of the noise levels: R is trained on estimates too."""
        return None if sigma is None else scalings(sigma.expand(objects)).c_noise

    def sampling_protocol(self) -> dict[str, Any]:
        """The steps whose estimates become feedback."""
        return {**super().sampling_protocol(), "feedback_steps": list(self.feedback_steps())}

    def feedback_steps(self) -> range:
        """The sampler's steps whose estimates become feedback; nothing follows the last one."""
        every = self.sampler.feedback_every
        return range(0, self.sampler.num_steps - 1, every) if self.unet.feedback_maps and every else range(0)

    def feedback(self, rendering: Rendering, cameras: Cameras) -> dict[str, Tensor]:
        """The maps [B, V, 3, H, W] in [0, 1] that the network wants, of a rendering whose first views are cameras'."""
        maps: dict[str, Tensor] = {}
        views = cameras.shape[1]
        if "colour" in self.unet.feedback_maps:
            maps["colour"] = rendering.colour[:, :views].clamp(0, 1)
        if "coordinates" in self.unet.feedback_maps and self.coordinate_map == "canonical":
            maps["coordinates"] = encode_coordinates(rendering.coordinates[:, :views], rendering.alpha[:, :views])
        elif "coordinates" in self.unet.feedback_maps:
            assert rendering.depth_sum is not None  # Gaussians
            maps["coordinates"] = published_coordinates(rendering.depth_sum[:, :views], cameras)
        return maps

"""Inference-combined: trained as staged; in sampling some estimates are replaced by their own re-encoded renders."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.diffusion.guidance import Estimate
from ouroboros3d.diffusion.preconditioning import Feedback
from ouroboros3d.diffusion.sampling import AfterEstimate
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D


@dataclass(frozen=True)
class ProjectionSettings:
    """When and how an estimate is projected on what a 3D object can look like (docs/method.md, section 6).

    The defaults are VideoMV's schedule: at 40, 60 and 80 % of the way, whole, per guidance branch (its renders are on
    grey, as its data). Gen-3Diffusion projects with `every: 1` and `per_branch: false`; its network also sees the time.

    Args:
        at: fractions of the sampler's steps.
        every: project at every n-th step instead of at the fractions; 0 = at the fractions.
        blend: share lambda of the projection in the result, in [0, 1].
        per_branch: project each guidance branch and guide the projections, or project the guided estimate.
        views: the views whose latents are replaced; `novel` leaves the input view.
        background: of the renders: the data's own, or mid grey (VideoMV's data).
    """

    at: tuple[float, ...] = (0.4, 0.6, 0.8)
    every: int = 0
    blend: float = 1.0
    per_branch: bool = True
    views: Literal["all", "novel"] = "all"
    background: Literal["data", "grey"] = "data"

    def steps(self, num_steps: int) -> frozenset[int]:
        """Indices of the steps that project."""
        if self.every:
            return frozenset(range(0, num_steps, self.every))
        return frozenset(round(fraction * num_steps) for fraction in self.at)


class InferenceCombined(ImageTo3D):
    """Staged training; sampling replaces z0_hat by the re-encoded renders of its reconstruction on chosen steps.

    The parameters are the staged ones, so a staged checkpoint loads as it is.

    Args:
        projection: when and how estimates are projected.
        train_on_estimates: train R on one-pass estimates of a frozen F at random noise levels, which it is not told,
            instead of clean views (VideoMV); with `train: [reconstructor]`.
        base: the arguments of `ImageTo3D`.
    """

    # jsonargparse follows **base to ImageTo3D's own arguments, so the YAML stays typed and a typo dies when it is read.
    def __init__(
        self,
        projection: ProjectionSettings = ProjectionSettings(),
        train_on_estimates: bool = False,
        **base: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**base)
        if not 0 <= projection.blend <= 1:
            raise ValueError(f"projection.blend: expected a share in [0, 1], got {projection.blend}.")
        if projection.every < 0 or not all(0 <= fraction < 1 for fraction in projection.at):
            raise ValueError(
                "projection.every, projection.at: expected a count >= 0 and fractions of the steps in [0, 1), "
                f"got {projection.every} and {list(projection.at)}."
            )
        if train_on_estimates and self.trained_parts != ("reconstructor",):
            raise ValueError(
                f"train: expected [reconstructor] with train_on_estimates, whose estimates come from a frozen F, got "
                f"{list(self.trained_parts)}."
            )
        self.projection = projection
        self.train_on_estimates = train_on_estimates

    def training_losses(self, batch: MultiviewBatch, coin: float, seed: int) -> dict[str, Tensor]:
        """As staged, or R's loss on the estimates of a frozen F."""
        if not self.train_on_estimates:
            return super().training_losses(batch, coin, seed)
        draw = self.draw(batch, seed)
        with torch.no_grad():
            estimate = self.denoise(draw)
        rendering = self.render_all(self.reconstruct_latents(estimate, batch.cameras), batch)
        settings = self.reconstruction_loss.settings
        return {"reconstruction": settings.weight * self.reconstruction_loss(rendering, batch)}

    def after_estimate(self, cameras: Cameras, background: Tensor, size: tuple[int, int]) -> AfterEstimate:
        """Pi(z0) = s * E(2 * render(R(D(z0 / s))) - 1) on the scheduled steps, blended into z0."""
        settings = self.projection
        steps = settings.steps(self.sampler.num_steps)
        if settings.background == "grey":
            background = torch.full_like(background, 0.5)

        def project(latents: Tensor) -> Tensor:
            gaussians = self.reconstruct_latents(latents, cameras)
            renders = self.render(gaussians, cameras, size, background).colour.clamp(0, 1)
            projected = torch.lerp(latents, self.encode(renders), settings.blend)
            if settings.views == "novel":
                projected[:, 0] = latents[:, 0]
            return projected

        def hook(index: int, sigma: Tensor, estimate: Estimate) -> tuple[Tensor, Feedback | None]:
            if index not in steps:
                return estimate.z0, None
            if not settings.per_branch:
                return project(estimate.z0), None
            branches = tuple(project(branch) for branch in estimate.branches)
            return Estimate.combine(branches, estimate.guidance).z0, None

        return hook

    def sampling_protocol(self) -> dict[str, Any]:
        """The steps that project, and how much."""
        steps = sorted(self.projection.steps(self.sampler.num_steps))
        return {**super().sampling_protocol(), "projection_steps": steps, "blend": self.projection.blend}

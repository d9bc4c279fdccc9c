"""Quality at every denoising step: where on the way recursion helps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.callbacks.step_frames import StepFrames, estimated
from ouroboros3d.diffusion.sampling import Step
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.metrics.images import psnr

CURVES = (
    "estimate_psnr",
    "estimate_psnr_foreground",
    "render_psnr",
    "render_psnr_foreground",
    "gap_psnr",
)


class StepCurves:
    """An observer of the sampler that measures each step's estimate and the 3D it would give.

    At every step the estimate z0_hat, before the variant's hook, is decoded, reconstructed as the variant reconstructs
    estimates, and rendered at the same cameras. `estimate_*` and `render_*` are against the true views without the
    input view, `gap_psnr` between estimate and render over all views. Nothing of it reaches the sampler, and none of it
    counts in the generation's cost.

    Args:
        module: whose sampler is observed.
        batch: B objects, the ground truth.
        frames: that are given the same estimates.
    """

    def __init__(self, module: ImageTo3D, batch: MultiviewBatch, frames: StepFrames) -> None:
        self.module = module
        self.batch = batch
        self.frames = frames
        self.sigmas: list[float] = []
        self._values: list[Tensor] = []  # [B, curves] a step

    @torch.no_grad()
    def __call__(self, step: Step) -> None:
        """Measure one step."""
        module, batch = self.module, self.batch
        views, gaussians = estimated(module, batch.cameras, step)
        self.frames.keep(step, views, gaussians)
        size = (batch.images_01.shape[-2], batch.images_01.shape[-1])
        renders = module.render(gaussians, batch.cameras, size, batch.background).colour.clamp(0, 1)
        views = views.clamp(0, 1)
        truth, mask = batch.images_01[:, 1:], batch.alpha[:, 1:] > 0.5
        values = {
            "estimate_psnr": psnr(views[:, 1:], truth).mean(1),
            "estimate_psnr_foreground": psnr(views[:, 1:], truth, mask).nanmean(1),
            "render_psnr": psnr(renders[:, 1:], truth).mean(1),
            "render_psnr_foreground": psnr(renders[:, 1:], truth, mask).nanmean(1),
            "gap_psnr": psnr(views, renders).mean(1),
        }
        self.sigmas.append(step.sigma)
        self._values.append(torch.stack([values[name] for name in CURVES], dim=-1).cpu())

    def of_object(self, index: int) -> list[dict[str, float]]:
        """The curves of one object, a row a step: `step`, `sigma` and the values of `CURVES`."""
        return [
            {"step": step, "sigma": sigma, **dict(zip(CURVES, values[index].tolist(), strict=True))}
            for step, (sigma, values) in enumerate(zip(self.sigmas, self._values, strict=True))
        ]


def mean_curves(curves: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Curves averaged over objects, step by step; a missing value does not count."""
    means = []
    for rows in zip(*curves, strict=True):
        table = torch.tensor([[row[name] for name in CURVES] for row in rows], dtype=torch.float64)
        values = dict(zip(CURVES, table.nanmean(0).tolist(), strict=True))
        means.append({"step": rows[0]["step"], "sigma": rows[0]["sigma"], **values})
    return means

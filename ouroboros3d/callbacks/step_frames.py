"""What the sampler's steps look like: the estimates and the 3D that they would give, for the viewer."""

import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.diffusion.sampling import Step
from ouroboros3d.gaussians import Gaussians
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.viewer.scene import MOST_GAUSSIANS, Frame, spread


def estimated(module: ImageTo3D, cameras: Cameras, step: Step) -> tuple[Tensor, Gaussians]:
    """A step's estimate as views [B, V, 3, H, W], and the Gaussians [B, N] that the variant makes of such an estimate.

    Args:
        module: the variant.
        cameras: [B, V].
        step: whose estimate, before the variant's hook, is taken.
    """
    sigma = torch.tensor(step.sigma, device=step.estimate.device)
    views = module.decode(step.estimate)
    return views, module.reconstruct(views, cameras, sigma)


class StepFrames:
    """An observer of the sampler that keeps some of its steps, evenly spread, as frames of a viewer's scene.

    Args:
        module: whose sampler is observed.
        cameras: [B, V] of the views.
        most: steps that are kept; fewer where a page could not hold their Gaussians.
    """

    def __init__(self, module: ImageTo3D, cameras: Cameras, most: int) -> None:
        self.module = module
        self.cameras = cameras
        self.most = most
        self._kept: list[tuple[Step, Tensor, Gaussians]] = []
        self._wanted: list[int] | None = None

    @torch.no_grad()
    def __call__(self, step: Step) -> None:
        """Keep one step."""
        if self._wanted is None or step.index in self._wanted:
            self.keep(step, *estimated(self.module, self.cameras, step))

    def keep(self, step: Step, views: Tensor, gaussians: Gaussians) -> None:
        """Keep one step of which somebody else has the views and Gaussians already.

        Args:
            step: of the sampler.
            views: [B, V, 3, H, W], see `estimated`.
            gaussians: [B, N].
        """
        if self._wanted is None:
            room = MOST_GAUSSIANS // gaussians.shape[1] - 1  # the result is a frame too
            self._wanted = spread(self.module.sampler.num_steps, min(self.most, room))
        if step.index in self._wanted:
            self._kept.append((step, views.clamp(0, 1).cpu(), gaussians.detach().to("cpu")))

    def of_object(self, index: int, cameras: Cameras, object_from_batch: Tensor) -> list[Frame]:
        """The kept steps of one object in its own frame, as the result is exported; those that are not finite are not.

        Args:
            index: of the object.
            cameras: [1, V] in the object's frame.
            object_from_batch: [1, 4, 4].
        """
        frames = []
        for step, views, gaussians in self._kept:
            own = gaussians[index : index + 1].transform(object_from_batch.cpu())
            own = self.module.renderer.filtered(own, cameras.to("cpu"), views.shape[-2], views.shape[-1])
            frame = Frame(views[index], own, step.index, step.sigma)
            if all(bool(torch.isfinite(value).all()) for value in (frame.views_01, *vars(own).values())):
                frames.append(frame)
        return frames

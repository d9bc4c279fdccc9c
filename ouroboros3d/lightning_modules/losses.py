"""The reconstruction loss: renders against images at input and novel views (docs/method.md, section 2)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.metrics.images import load_lpips
from ouroboros3d.renderers.rendering import Rendering


@dataclass(frozen=True)
class ReconstructionLossSettings:
    """Weights of the reconstruction loss.

    Args:
        colour: `l1` as the published Ouroboros3D code, `mse` as LGM.
        alpha_weight: of the squared error of alpha.
        lpips_weight: of LPIPS; above 0 its backbone's weights must be installed, as `make setup` does.
        lpips_net: backbone of LPIPS.
        weight: of the whole loss beside the diffusion loss.
    """

    colour: Literal["l1", "mse"] = "l1"
    alpha_weight: float = 1.0
    lpips_weight: float = 0.0
    lpips_net: Literal["vgg", "alex"] = "vgg"
    weight: float = 1.0


class ReconstructionLoss(nn.Module):
    """Colour error + alpha_weight * alpha error + lpips_weight * LPIPS, over all V + T views.

    Args:
        settings: its weights.

    Raises:
        FileNotFoundError: LPIPS is asked for and its backbone's weights are not there: a loss term is never dropped.
        ValueError: the file with them holds anything else.
    """

    def __init__(self, settings: ReconstructionLossSettings) -> None:
        super().__init__()
        self.settings = settings
        # Outside the module tree: its frozen backbone belongs in no checkpoint and no optimiser.
        self._lpips = [load_lpips(settings.lpips_net)] if settings.lpips_weight > 0 else []

    def forward(self, rendering: Rendering, batch: MultiviewBatch) -> Tensor:
        """The loss of a rendering, a scalar.

        Args:
            rendering: of the batch's objects at [cameras, target_cameras], [B, V + T, ...], on the batch's background.
            batch: holds the images to match.
        """
        images = torch.cat([batch.images_01, batch.target_images_01], dim=1)
        alpha = torch.cat([batch.alpha, batch.target_alpha], dim=1)
        error = rendering.colour - images
        loss = error.abs().mean() if self.settings.colour == "l1" else error.square().mean()
        loss = loss + self.settings.alpha_weight * (rendering.alpha - alpha).square().mean()
        for lpips in self._lpips:
            distance = lpips.to(images.device)(rendering.colour.flatten(0, 1) * 2 - 1, images.flatten(0, 1) * 2 - 1)
            loss = loss + self.settings.lpips_weight * distance.mean()
        return loss

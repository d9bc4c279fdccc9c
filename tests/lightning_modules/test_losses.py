"""The reconstruction loss against values worked out by hand."""

from typing import Literal

import pytest
import torch
from tiny_variants import two_objects

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.lightning_modules.losses import ReconstructionLoss, ReconstructionLossSettings
from ouroboros3d.metrics.images import LPIPS, load_lpips
from ouroboros3d.renderers.rendering import Rendering


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ReconstructionLossSettings(), 0.2 + 0.25),
        (ReconstructionLossSettings(colour="mse"), (2 * 0.01 + 0.16) / 3 + 0.25),
        (ReconstructionLossSettings(alpha_weight=3.0), 0.2 + 3 * 0.25),
        # The weight beside the diffusion loss is the module's business.
        (ReconstructionLossSettings(weight=5.0), 0.2 + 0.25),
    ],
)
def test_loss_counts_every_view_once(settings: ReconstructionLossSettings, expected: float) -> None:
    """Two input views are 0.1 off in colour, the one novel view 0.4; every alpha is 0.5 off."""
    cameras = Cameras.orbit([0.0, 120.0, 240.0], 10.0, 1.7, 40.0)
    cameras = Cameras(cameras.c2w_opencv[None], cameras.intrinsics_norm[None])
    images = torch.full((1, 3, 3, 4, 6), 0.3)
    alpha = torch.full((1, 3, 1, 4, 6), 1.0)
    batch = MultiviewBatch(
        ("a",),
        images[:, :2],
        alpha[:, :2],
        cameras[:, :2],
        images[:, 2:],
        alpha[:, 2:],
        cameras[:, 2:],
        torch.ones(1, 3),
        torch.eye(4)[None],
    )
    off = torch.tensor([0.1, -0.1, 0.4]).view(1, 3, 1, 1, 1)
    rendering = Rendering(images + off, alpha - 0.5, alpha, images, torch.zeros(()))
    loss = ReconstructionLoss(settings)(rendering, batch)
    torch.testing.assert_close(loss, torch.tensor(expected))


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_in_the_loss_is_that_of_the_metric(net: Literal["vgg", "alex"]) -> None:
    batch = two_objects(size=32)
    images = torch.cat([batch.images_01, batch.target_images_01], 1)
    alpha = torch.cat([batch.alpha, batch.target_alpha], 1)
    colour = torch.rand_like(images).requires_grad_()
    rendering = Rendering(colour, alpha, alpha, images, torch.zeros(()))
    plain = ReconstructionLoss(ReconstructionLossSettings())(rendering, batch)
    loss = ReconstructionLoss(ReconstructionLossSettings(lpips_weight=2.0, lpips_net=net))
    expected = LPIPS(load_lpips(net)).values(colour.detach(), images).mean()
    found = loss(rendering, batch) - plain
    torch.testing.assert_close(found, 2 * expected)
    [gradient] = torch.autograd.grad(found, colour)
    assert (gradient.flatten(2).abs().amax(2) > 0).all(), "every view of every object is asked to change"
    assert not list(loss.parameters())
    assert not loss.state_dict()

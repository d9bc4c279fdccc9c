"""The parts of a variant at their smallest, real and seeded, and a batch for them."""

import torch

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.lightning_modules.generation import SamplerSettings
from ouroboros3d.networks.codecs import PixelCodec
from ouroboros3d.networks.image_encoder import ImageEncoder
from ouroboros3d.networks.lgm import LGM
from ouroboros3d.networks.multiview_unet import MultiviewUNet
from ouroboros3d.renderers.gaussians import GaussianRenderer


def parts(feedback_maps: tuple[str, ...] = ()) -> dict[str, object]:
    """Tiny real components; the same weights whatever the feedback."""
    torch.manual_seed(0)
    reconstructor = LGM(16, (32, 32), (False, True), True, (32,), (False,), 1, 8, 1, time_embedding=True)
    with torch.no_grad():
        reconstructor.conv.bias[4:7] -= 1.0  # smaller Gaussians than at random, as a trained one has
    encoder = ImageEncoder(32, 1, 1, 16, 8, 32)
    unet = MultiviewUNet(
        96,
        48,
        (32, 32),
        ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        1,
        (1, 1),
        32,
        1,
        32,
        96,
        feedback_maps,
        4,
    )
    return {
        "unet": unet,
        "reconstructor": reconstructor,
        "codec": PixelCodec(4, scale=1.0),
        "image_encoder": encoder,
        "renderer": GaussianRenderer(),
        "sampler": SamplerSettings(num_steps=5, sigma_max=80.0),
        "base_weights": None,
    }


def two_objects(size: int = 16) -> MultiviewBatch:
    """Four views of each, and two novel ones, of random pixels, so many a side."""
    torch.manual_seed(1)
    views = Cameras.orbit(torch.arange(4) * 90.0, 10.0, 1.7417, 39.598)
    novel = Cameras.orbit([30.0, 200.0], [25.0, -5.0], 1.7417, 39.598)
    every, world = Cameras.cat([Cameras.cat([views, novel], 0)[None]] * 2, 0).relative_to_first()
    images, alpha = torch.rand(2, 6, 3, size, size), (torch.rand(2, 6, 1, size, size) > 0.5).float()
    return MultiviewBatch(
        ("a", "b"),
        images[:, :4],
        alpha[:, :4],
        every[:, :4],
        images[:, 4:],
        alpha[:, 4:],
        every[:, 4:],
        torch.ones(2, 3),
        world,
    ).validate()

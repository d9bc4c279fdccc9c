"""What recursive training hands back: whose maps, of which noise level, and where they enter the network."""

import pytest
import torch
from tiny_variants import parts, two_objects

from ouroboros3d.diffusion.preconditioning import diffusion_loss
from ouroboros3d.diffusion.sampling import karras_sigmas
from ouroboros3d.lightning_modules.generation import SamplerSettings
from ouroboros3d.lightning_modules.recursive import Recursive
from ouroboros3d.lightning_modules.seeding import named_seed

MAPS = ("colour", "coordinates")
SEED = named_seed("step")


def recursive(**other: object) -> Recursive:
    """A tiny variant whose feedback has an effect."""
    module = Recursive(**{**parts(MAPS), "augmentation": 0.0, **other})
    torch.manual_seed(2)
    for adapter in module.unet.cond_encoder:
        for head in adapter.head:
            torch.nn.init.normal_(head.weight, std=0.1)
    return module


def diffusion(module: Recursive, coin: float) -> torch.Tensor:
    batch = two_objects()
    return module.train().training_losses(batch, coin, SEED)["diffusion"].detach()


def test_a_share_of_the_heads_sees_the_maps_of_the_true_views():
    module, batch = recursive(feedback_probability=0.8, true_maps=0.25), two_objects()
    draw = module.train().draw(batch, SEED)
    clean = module.reconstruct_clean(batch, SEED)
    expected = diffusion_loss(module.denoise(draw, module.feedback(clean, batch.cameras)), draw.latents, draw.sigma)
    assert torch.equal(diffusion(module, coin=0.19), expected)  # below 0.8 * 0.25
    own, tails = diffusion(module, coin=0.21), diffusion(module, coin=0.81)
    assert len({float(loss.detach()) for loss in (expected, own, tails)}) == 3


def test_the_level_before_is_the_samplers():
    module = recursive()
    levels = karras_sigmas(5, module.sampler.sigma_min, 80.0)[:-1]
    before = module.level_before(levels)
    torch.testing.assert_close(before[1:], levels[:-1])
    assert before[0] == levels[0]  # sampling begins there, without feedback
    between = levels[2] * 1.01
    torch.testing.assert_close(module.level_before(between[None])[0], levels[1] * 1.01)


def test_estimates_of_the_level_before_have_the_same_objects_and_noise():
    module, batch = recursive(feedback_level="before"), two_objects()
    draw = module.train().draw(batch, SEED)
    before = module.before(draw)
    assert bool((before.sigma > draw.sigma).all())

    def noise(of: object) -> torch.Tensor:
        return (of.noisy - of.latents) / of.sigma[:, None, None, None, None]

    torch.testing.assert_close(noise(before), noise(draw))
    same, other = diffusion(recursive(), coin=0.0), diffusion(module, coin=0.0)
    assert float(same) != float(other)
    assert torch.equal(diffusion(recursive(), coin=0.9), diffusion(module, coin=0.9))  # tails have no estimate before


def test_feedback_switched_off_samples_as_the_same_weights_without_adapters():
    def views(module: Recursive) -> torch.Tensor:
        batch = two_objects()
        return module.eval().generate(batch.input_images_01, batch.cameras, batch.background, batch.uids).views_01

    off, on = (recursive(sampler=SamplerSettings(4, sigma_max=80.0, feedback_every=every)) for every in (0, 1))
    without = Recursive(**{**parts(), "sampler": off.sampler})
    assert torch.equal(views(off), views(without))
    assert not torch.equal(views(off), views(on))
    assert off.sampling_protocol()["feedback_steps"] == []
    assert on.sampling_protocol()["feedback_steps"] == [0, 1, 2]


@pytest.mark.parametrize(("option", "value"), [("true_maps", -0.1), ("true_maps", 1.5)])
def test_shares_out_of_range_are_one_line(option, value):
    with pytest.raises(ValueError, match=rf"{option}: expected a share in \[0, 1\], got {value}"):
        recursive(**{option: value})

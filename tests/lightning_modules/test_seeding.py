"""Random numbers follow from names, and are those of torch's own stream seeded alike."""

import torch
from tiny_variants import parts, two_objects

from ouroboros3d.lightning_modules.augmentation import augment_views
from ouroboros3d.lightning_modules.recursive import Recursive
from ouroboros3d.lightning_modules.seeding import named_noise, named_seed


def test_a_named_stream_has_the_numbers_of_torchs_own() -> None:
    assert named_seed("a") == 7304431660483791845  # of the first 8 bytes of SHA-256
    torch.manual_seed(7304431660483791845)
    assert torch.equal(named_noise((2, 3), "a"), torch.randn(2, 3))
    assert not torch.equal(named_noise((2, 3), "a"), named_noise((2, 3), "b"))


def test_a_step_draws_the_numbers_of_torchs_own_stream_and_leaves_that_alone() -> None:
    module, batch = Recursive(**parts(), log_sigma_mean=0.5, log_sigma_std=1.2, augmentation=1.0).train(), two_objects()
    before = torch.get_rng_state()
    draw = module.draw(batch, seed=7)
    clean = module.reconstruct_clean(batch, seed=7).colour
    module.training_losses(batch, coin=0.0, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    latents = module.codec.encode(batch.images_01)
    views, cameras = [], []
    for index, one in enumerate((batch.object(0), batch.object(1))):
        torch.manual_seed(named_seed(f"7/draw/{index}"))
        sigma = (0.5 + 1.2 * torch.randn(1)).exp()
        assert torch.equal(draw.sigma[index], sigma[0])
        assert torch.equal(draw.noisy[index], latents[index] + sigma * torch.randn(1, *latents.shape[1:])[0])
        level = (-3.0 + 0.5 * torch.randn(1)).exp()
        assert torch.equal(draw.conditions.added_time_ids[index, 2:], level)
        own = torch.default_generator.manual_seed(named_seed(f"7/augment/{index}"))
        images, turned = augment_views(one.images_01, one.cameras, own, 1.0, one.background)
        views.append(images)
        cameras.append(turned)
    gaussians = module.reconstructor(torch.cat(views), type(batch.cameras).cat(cameras, dim=0))
    assert torch.equal(module.render_all(gaussians, batch).colour, clean)

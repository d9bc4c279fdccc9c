"""EDM preconditioning: against the published code's numbers and in its own terms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ouroboros3d.cameras import Cameras
from ouroboros3d.diffusion.conditioning import Conditions, added_time_ids, draw_guidance_dropout
from ouroboros3d.diffusion.preconditioning import (
    denoise,
    diffusion_loss,
    draw_training_sigmas,
    loss_weight,
    per_sample,
    scalings,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "published" / "edm.npz"


@pytest.fixture(scope="module")
def edm() -> dict[str, Tensor]:
    with np.load(FIXTURE) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if file[name].dtype.kind == "f"}


def conditions(batch: int, views: int = 2) -> Conditions:
    cameras = Cameras.orbit(torch.arange(views) * 360 / views, 10.0, 1.7, 40.0)
    cameras = Cameras.cat([cameras[None]] * batch, dim=0)
    return Conditions(torch.ones(batch, 1, 5), torch.ones(batch, 4, 3, 3), torch.zeros(batch, 3), cameras)


def test_scalings_and_loss_are_the_published_ones(edm: dict[str, Tensor]) -> None:
    scaling = scalings(edm["sigmas"])
    for name in ("c_skip", "c_out", "c_noise"):
        torch.testing.assert_close(getattr(scaling, name), edm[name], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(loss_weight(edm["sigmas"]), edm["weight"], rtol=1e-6, atol=0)
    # The published loss of the fixture takes each sample's weight, as here.
    loss = diffusion_loss(edm["denoised"], edm["latents"], edm["sigmas"])
    torch.testing.assert_close(loss, edm["diffusion_loss"], rtol=1e-5, atol=0)


def test_denoise_is_the_published_one(edm: dict[str, Tensor]) -> None:
    seen: list[Tensor] = []

    def network(sample: Tensor, *_: object) -> Tensor:
        seen.append(sample)
        return edm["network_output"]

    noisy = edm["latents"] + per_sample(edm["sigmas"], edm["latents"]) * edm["noise"]
    torch.testing.assert_close(noisy, edm["noisy_latents"], rtol=1e-6, atol=1e-6)
    estimate = denoise(network, noisy, edm["sigmas"], conditions(10))
    torch.testing.assert_close(estimate, edm["denoised"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen[0][:, :, :4], edm["model_input"], rtol=1e-6, atol=1e-6)
    assert torch.equal(seen[0][:, :, 4:], torch.ones(10, 2, 4, 3, 3)), "the input's latent stands beside every view's"


def test_a_perfect_network_gives_the_clean_latents() -> None:
    torch.manual_seed(0)
    latents, noise = torch.randn(3, 2, 4, 3, 3), torch.randn(3, 2, 4, 3, 3)
    sigma = torch.tensor([0.01, 1.0, 100.0])
    noisy = latents + per_sample(sigma, noise) * noise

    def network(sample: Tensor, c_noise: Tensor, *_: object) -> Tensor:
        # v = alpha * noise - beta * z with alpha = 1 / sqrt(sigma^2 + 1), the target of SVD's v-prediction.
        alpha = per_sample(1 / ((4 * c_noise).exp() ** 2 + 1).sqrt(), sample)
        return alpha * noise - per_sample((4 * c_noise).exp(), sample) * alpha * latents

    # Rounding of the noisy input of size 100 is what remains.
    torch.testing.assert_close(denoise(network, noisy, sigma, conditions(3)), latents, rtol=0, atol=5e-5)


def test_training_sigmas_are_log_normal() -> None:
    logs = draw_training_sigmas(200_000, torch.Generator().manual_seed(0)).log()
    assert logs.mean().item() == pytest.approx(1.0, abs=0.02)  # five standard errors
    assert logs.std().item() == pytest.approx(1.6, abs=0.02)


def test_guidance_dropout_is_the_published_rule(edm: dict[str, Tensor]) -> None:
    r = torch.rand(50, generator=torch.Generator().manual_seed(3))
    embedding, latents = draw_guidance_dropout(50, 0.1, torch.Generator().manual_seed(3))
    assert torch.equal(embedding, r < 0.2)
    assert torch.equal(latents, (r >= 0.1) & (r < 0.3))
    # The fixture's masks are 1 where dropped (text) and 1 where kept (image).
    p = edm["dropout_p"]
    assert torch.equal((p < 0.2).float(), edm["drop_text"])
    assert torch.equal(1 - ((p >= 0.1) & (p < 0.3)).float(), edm["keep_image"])


def test_dropping_and_the_unconditional_half_are_zeros() -> None:
    one = conditions(2)
    dropped = one.dropped(torch.tensor([True, False]), torch.tensor([False, True]))
    assert dropped.image_embedding[0].abs().sum() == 0
    assert dropped.image_embedding[1].abs().sum() > 0
    assert dropped.image_latents[1].abs().sum() == 0
    assert dropped.image_latents[0].abs().sum() > 0
    both = one.with_unconditional()
    assert both.image_embedding[:2].abs().sum() == 0
    assert torch.equal(both.image_latents[2:], one.image_latents)
    assert both.cameras.shape == (4, 2)


def test_time_ids_are_per_sample(edm: dict[str, Tensor]) -> None:
    ids = added_time_ids(edm["cond_sigmas_batch3"])
    assert torch.equal(ids[:, 2], edm["cond_sigmas_batch3"])
    assert torch.equal(ids[:, :2], edm["added_time_ids_batch3"][:, :2])
    # The published code gives sample 0's level to the whole batch.
    assert torch.equal(added_time_ids(edm["cond_sigmas_batch3"][:1].expand(3)), edm["added_time_ids_batch3"])

"""The sampler: an oracle gives the clean latents, observers change nothing, and the published scheduler agrees."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ouroboros3d.diffusion.guidance import Estimate, view_guidance
from ouroboros3d.diffusion.preconditioning import Feedback
from ouroboros3d.diffusion.sampling import Step, karras_sigmas, sample

FIXTURES = Path(__file__).parents[1] / "fixtures" / "published"
ONES = torch.ones(2)


def wave(shape: tuple[int, ...], k: float, a: float = 0.11) -> Tensor:
    index = torch.arange(int(np.prod(shape)), dtype=torch.float64)
    return torch.sin(a * index + k).float().reshape(shape)


def test_an_oracle_gives_the_clean_latents() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 2, 4, 3, 3), torch.randn(2, 2, 4, 3, 3)
    result = sample(lambda x, sigma, feedback: Estimate.combine((clean,), ONES), noise, karras_sigmas(25))
    assert torch.equal(result, clean), "the last step goes to noise level 0, so it is the estimate itself"


@pytest.mark.parametrize("steps", [25, 50])
def test_the_published_scheduler_agrees(steps: int) -> None:
    with np.load(FIXTURES / "svd_scheduler.npz") as file:
        stored = {name: file[name] for name in file.files}
    sigmas = karras_sigmas(steps)
    assert np.array_equal(sigmas.numpy(), stored[f"sigmas_{steps}"])
    shape = (1, 2, 4, 6, 6)
    inputs: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor, feedback: Feedback | None) -> Estimate:
        scaled = x / (sigma**2 + 1).sqrt()
        output = torch.tanh(0.7 * scaled) + 0.3 * wave(shape, 0.05 * len(inputs), a=0.23)
        inputs.append(scaled)
        return Estimate.combine((x / (sigma**2 + 1) - sigma / (sigma**2 + 1).sqrt() * output,), ONES)

    seen: list[Step] = []
    sample(denoise, wave(shape, 0.8), sigmas, observers=[seen.append])
    for row, index in enumerate(stored[f"step_indices_{steps}"]):
        # diffusers goes on in its own order of operations: rounding of values near 700 relative to 1.
        expected = torch.from_numpy(stored[f"model_inputs_{steps}"][row])
        torch.testing.assert_close(inputs[index], expected, rtol=1e-5, atol=1e-5)
        expected = torch.from_numpy(stored[f"pred_originals_{steps}"][row])
        torch.testing.assert_close(seen[index].estimate, expected, rtol=1e-4, atol=1e-4)


def test_feedback_reaches_the_next_step_and_no_other() -> None:
    noise = torch.zeros(1, 2, 4, 3, 3)
    received: list[float | None] = []

    def denoise(x: Tensor, sigma: Tensor, feedback: Feedback | None) -> Estimate:
        received.append(None if feedback is None else feedback["colour"].item())
        return Estimate.combine((x,), ONES)

    def hook(index: int, sigma: Tensor, estimate: Estimate) -> tuple[Tensor, Feedback | None]:
        return estimate.z0, None if index == 1 else {"colour": torch.tensor(float(index))}

    sample(denoise, noise, karras_sigmas(4), after_estimate=hook)
    assert received == [None, 0.0, None, 2.0]


def test_observers_cannot_change_the_result() -> None:
    torch.manual_seed(0)
    noise = torch.randn(1, 2, 4, 3, 3)

    def denoise(x: Tensor, sigma: Tensor, feedback: Feedback | None) -> Estimate:
        pushed = 0.0 if feedback is None else feedback["colour"]
        return Estimate.combine((torch.tanh(x) + 0.1 * pushed,), ONES)

    def hook(index: int, sigma: Tensor, estimate: Estimate) -> tuple[Tensor, Feedback | None]:
        return estimate.z0, {"colour": estimate.z0 * 0.5}

    def vandal(step: Step) -> None:
        step.z0.zero_()
        step.estimate.zero_()
        assert step.feedback is not None
        step.feedback["colour"].zero_()
        torch.randn(3)

    alone = sample(denoise, noise, karras_sigmas(6), after_estimate=hook)
    watched = sample(denoise, noise, karras_sigmas(6), after_estimate=hook, observers=[vandal])
    assert torch.equal(alone, watched)


def test_guidance_rises_to_the_opposite_view_and_falls_back() -> None:
    assert view_guidance(8, 1.0, 3.0).tolist() == [1.0, 1.5, 2.0, 2.5, 3.0, 2.5, 2.0, 1.5]
    with np.load(FIXTURES / "edm.npz") as file:
        for views in (4, 8):
            published = view_guidance(views, 1.0, 3.0, "published")
            torch.testing.assert_close(published, torch.from_numpy(file[f"guidance_{views}"]), rtol=1e-6, atol=0)


def test_guidance_combines_per_view() -> None:
    low, high = torch.zeros(1, 2, 1, 1, 1), torch.ones(1, 2, 1, 1, 1)
    guided = Estimate.combine((low, high), torch.tensor([1.0, 3.0])).z0
    assert guided.flatten().tolist() == [1.0, 3.0]


@pytest.mark.parametrize(("steps", "low", "high"), [(0, 0.1, 1.0), (3, 1.0, 0.1), (3, 0.0, 1.0)])
def test_wrong_noise_levels_are_refused(steps: int, low: float, high: float) -> None:
    with pytest.raises(ValueError, match="num_steps, sigma_min, sigma_max: expected"):
        karras_sigmas(steps, low, high)

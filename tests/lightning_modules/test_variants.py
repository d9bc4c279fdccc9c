"""The three variants against docs/method.md, section 4: what they exchange, and what they do not."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_variants import parts, two_objects
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.callbacks.step_curves import CURVES, StepCurves, mean_curves
from ouroboros3d.callbacks.step_frames import StepFrames
from ouroboros3d.cameras import Cameras
from ouroboros3d.diffusion.guidance import Estimate
from ouroboros3d.diffusion.preconditioning import denoise
from ouroboros3d.diffusion.sampling import Step
from ouroboros3d.lightning_modules.generation import SamplerSettings
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.lightning_modules.inference_combined import InferenceCombined, ProjectionSettings
from ouroboros3d.lightning_modules.learning_rates import learning_rate_factor
from ouroboros3d.lightning_modules.recursive import Recursive
from ouroboros3d.lightning_modules.seeding import named_seed
from ouroboros3d.lightning_modules.sharding import repeats
from ouroboros3d.lightning_modules.staged import Staged
from ouroboros3d.lightning_modules.weights import adapted
from ouroboros3d.networks.pretrained.base import WITHOUT_EFFECT
from ouroboros3d.renderers.gaussians import GaussianRenderer
from ouroboros3d.renderers.rendering import encode_coordinates

MAPS = ("colour", "coordinates")
SEED = named_seed("step")
F = {"unet", "rays"}  # parts of the diffusion network that every variant has


def staged(**other: object) -> Staged:
    return Staged(**{**parts(), **other})


def recursive(maps: tuple[str, ...] = MAPS, **other: object) -> Recursive:
    return Recursive(**{**parts(maps), **other})


@pytest.fixture
def batch() -> MultiviewBatch:
    return two_objects()


def generate(module: ImageTo3D, batch: MultiviewBatch, **other: object) -> tuple[Tensor, Tensor]:
    made = module.eval().generate(batch.input_images_01, batch.cameras, batch.background, batch.uids, **other)
    return made.views_01, made.gaussians.means


def losses(module: ImageTo3D, batch: MultiviewBatch, coin: float = 0.0) -> dict[str, Tensor]:
    return module.train().training_losses(batch, coin, SEED)


def with_gradient(module: ImageTo3D) -> set[str]:
    """Names of the parts that a backward pass has reached with anything but zeros."""
    names = {
        "adapters": module.unet.cond_encoder,
        "unet": module.unet.unet,
        "rays": torch.nn.ModuleList([module.unet.down_plucker, module.unet.mid_plucker, module.unet.up_plucker]),
        "reconstructor": module.reconstructor,
        "image_encoder": module.image_encoder,
    }
    return {
        name
        for name, part in names.items()
        if any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part.parameters())
    }


def test_at_the_start_recursive_equals_staged_bit_for_bit(batch: MultiviewBatch) -> None:
    one, other = generate(staged(), batch), generate(recursive(), batch)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    # ... and no longer once the adapters have learned something.
    module = recursive()
    for adapter in module.unet.cond_encoder:
        torch.nn.init.normal_(adapter.head[0].weight, std=0.5)
    assert not torch.equal(one[0], generate(module, batch)[0])


def test_an_object_does_not_depend_on_its_batch(batch: MultiviewBatch) -> None:
    both = generate(recursive(), batch)[0]
    module = recursive()
    second = module.generate(batch.images_01[1:, 0], batch.cameras[1:], batch.background[1:], ("b",)).views_01
    # Convolutions of other batch sizes add in another order.
    torch.testing.assert_close(second, both[1:], rtol=0, atol=1e-4)


def test_observers_change_nothing(batch: MultiviewBatch) -> None:
    module = recursive()
    for adapter in module.unet.cond_encoder:
        torch.nn.init.normal_(adapter.head[0].weight, std=0.5)
    steps = []
    watched = generate(module, batch, observers=[steps.append])
    assert [step.index for step in steps] == list(range(5))
    assert all(set(step.feedback) == set(MAPS) for step in steps[:-1])  # after the last step nothing wants any
    assert torch.equal(watched[0], generate(module, batch)[0])


def test_the_same_seed_gives_the_same_loss(batch: MultiviewBatch) -> None:
    module = recursive()
    one, two = losses(module, batch), losses(module, batch)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(module.training_losses(batch, 0.0, seed=SEED + 1)["diffusion"], one["diffusion"])


@pytest.mark.parametrize("heads", [True, False])
def test_recursive_losses_are_those_of_the_method(batch: MultiviewBatch, heads: bool) -> None:
    module = recursive(augmentation=0.0).train()
    for adapter in module.unet.cond_encoder:
        torch.nn.init.normal_(adapter.head[0].weight, std=0.5)
    found = losses(module, batch, coin=0.49 if heads else 0.51)

    draw = module.draw(batch, SEED)
    first = denoise(module.unet, draw.noisy, draw.sigma, draw.conditions, None)
    views = torch.nn.functional.pixel_shuffle(first, 4).div(2).add(0.5)
    everywhere = Cameras.cat([batch.cameras, batch.target_cameras])
    estimated = module.reconstructor(views, batch.cameras, draw.sigma.log() / 4)
    clean = module.reconstructor(batch.images_01, batch.cameras)
    truth = torch.cat([batch.images_01, batch.target_images_01], 1)
    alpha = torch.cat([batch.alpha, batch.target_alpha], 1)
    total = torch.zeros(())
    for gaussians in (estimated, clean):
        rendering = module.renderer(gaussians, everywhere, 16, 16, batch.background)
        total = total + (rendering.colour - truth).abs().mean() + ((rendering.alpha - alpha) ** 2).mean()
    rendering = module.renderer(estimated, batch.cameras, 16, 16, batch.background)
    maps = {"colour": rendering.colour, "coordinates": encode_coordinates(rendering.coordinates, rendering.alpha)}
    last = denoise(module.unet, draw.noisy, draw.sigma, draw.conditions, maps if heads else None)
    weight = (1 + draw.sigma**2) / draw.sigma**2
    expected = (weight[:, None, None, None, None] * (last - draw.latents) ** 2).mean()
    # The same float32 operations in another grouping of the views.
    torch.testing.assert_close(found["diffusion"], expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(found["reconstruction"], total / 2, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("coin", "settings", "diffusion", "reconstruction"),
    [
        (0.0, {}, {"adapters", *F}, {"reconstructor"}),
        (0.9, {}, F, {"reconstructor"}),
        (0.0, {"detach_feedback": False}, {"adapters", *F, "reconstructor"}, {"reconstructor"}),
        (0.0, {"reconstruction_gradient": True}, {"adapters", *F}, {"reconstructor", *F}),
        (0.9, {"reconstruction_gradient": True}, F, {"reconstructor", *F}),
    ],
)
def test_gradients_reach_what_the_table_says(
    batch: MultiviewBatch, coin: float, settings: dict[str, bool], diffusion: set[str], reconstruction: set[str]
) -> None:
    for name, expected in (("diffusion", diffusion), ("reconstruction", reconstruction)):
        module = recursive(**settings)
        for adapter in module.unet.cond_encoder:
            torch.nn.init.normal_(adapter.head[0].weight, std=0.5)  # a zero head passes no gradient on
        losses(module, batch, coin)[name].backward()
        assert with_gradient(module) == expected


def test_staged_networks_exchange_no_gradient(batch: MultiviewBatch) -> None:
    for name, expected in (("diffusion", F), ("reconstruction", {"reconstructor"})):
        module = staged()
        losses(module, batch)[name].backward()
        assert with_gradient(module) == expected
    module = staged(train=("unet", "reconstructor", "image_encoder"))
    losses(module, batch)["diffusion"].backward()
    assert with_gradient(module) == {*F, "image_encoder"}
    module = staged(train=("image_encoder",))
    losses(module, batch)["diffusion"].backward()
    assert with_gradient(module) == {"image_encoder"}


def test_the_learning_rate_rises_then_falls() -> None:
    factors = [learning_rate_factor(step, warmup=3, total=11, decay="cosine") for step in range(12)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[7] == pytest.approx(0.5)  # half of the way down
    assert factors[11] == pytest.approx(0, abs=1e-7)
    assert factors[3:] == sorted(factors[3:], reverse=True)
    assert [learning_rate_factor(step, 3, 11, "constant") for step in (0, 3, 11)] == [0.25, 1, 1]


def test_a_zero_head_learns_at_once(batch: MultiviewBatch) -> None:
    module = recursive()
    losses(module, batch)["diffusion"].backward()
    assert all(adapter.head[0].weight.grad.abs().sum() > 0 for adapter in module.unet.cond_encoder)


def test_joint_only_has_no_feedback(batch: MultiviewBatch) -> None:
    module = recursive(())
    losses(module, batch, coin=0.0)["diffusion"].backward()
    assert with_gradient(module) == F
    assert torch.equal(generate(module, batch)[0], generate(staged(), batch)[0])


def test_feedback_every_n_steps_keeps_the_maps_between(batch: MultiviewBatch) -> None:
    module = recursive(sampler=SamplerSettings(5, sigma_max=80.0, feedback_every=2)).eval()
    hook = module.after_estimate(batch.cameras, batch.background, (16, 16))
    calls: list[int] = []
    module.reconstructor.register_forward_hook(lambda *_: calls.append(1))
    maps = []
    for index in range(4):
        latents = torch.full((2, 4, 48, 4, 4), index / 4)
        maps.append(hook(index, torch.tensor(1.0), Estimate.combine((latents,), torch.ones(4)))[1])
    assert len(calls) == 2, "a step that keeps its feedback does not reconstruct"
    assert maps[0] is maps[1]
    assert maps[1] is not maps[2]


def test_video_mv_projects_at_its_steps() -> None:
    assert ProjectionSettings().steps(50) == {20, 30, 40}
    assert ProjectionSettings().steps(25) == {10, 15, 20}
    assert ProjectionSettings(every=2).steps(5) == {0, 2, 4}


def test_a_reconstructor_can_be_trained_on_the_estimates_of_a_frozen_network(batch: MultiviewBatch) -> None:
    module = InferenceCombined(train_on_estimates=True, train=("reconstructor",), augmentation=0.0, **parts())
    found = losses(module, batch)
    assert found.keys() == {"reconstruction"}
    found["reconstruction"].backward()
    assert with_gradient(module) == {"reconstructor"}
    with torch.no_grad():
        draw = module.draw(batch, SEED)
        estimate = module.denoise(draw)
        # R is not told the noise level: it sees what it would see of clean views.
        rendering = module.render_all(module.reconstructor(module.codec.decode(estimate), batch.cameras), batch)
    torch.testing.assert_close(found["reconstruction"], module.reconstruction_loss(rendering, batch))
    clean = losses(InferenceCombined(train=("reconstructor",), augmentation=0.0, **parts()), batch)
    assert not torch.equal(found["reconstruction"], clean["reconstruction"])


def test_a_projection_of_no_weight_is_staged(batch: MultiviewBatch) -> None:
    module = InferenceCombined(projection=ProjectionSettings(blend=0.0), **parts())
    # lerp with weight 0 gives the estimate itself.
    assert torch.equal(generate(module, batch)[0], generate(staged(), batch)[0])
    assert not torch.equal(generate(InferenceCombined(**parts()), batch)[0], generate(staged(), batch)[0]), (
        "at full weight it is not"
    )


@pytest.mark.parametrize("per_branch", [True, False])
@pytest.mark.parametrize("views", ["all", "novel"])
def test_the_projection_is_the_formula(batch: MultiviewBatch, per_branch: bool, views: str) -> None:
    settings = ProjectionSettings(every=1, blend=0.5, per_branch=per_branch, views=views, background="grey")
    module = InferenceCombined(projection=settings, **parts()).eval()
    torch.manual_seed(2)
    branches = (torch.randn(2, 4, 48, 4, 4), torch.randn(2, 4, 48, 4, 4))
    guidance = torch.tensor([1.0, 2.0, 3.0, 2.0])
    with torch.no_grad():
        found, feedback = module.after_estimate(batch.cameras, batch.background, (16, 16))(
            0, torch.tensor(1.0), Estimate.combine(branches, guidance)
        )

        def project(latents: Tensor) -> Tensor:
            images = torch.nn.functional.pixel_shuffle(latents, 4).div(2).add(0.5)
            gaussians = module.reconstructor(images, batch.cameras)
            grey = torch.full((2, 3), 0.5)
            renders = module.renderer(gaussians, batch.cameras, 16, 16, grey).colour.clamp(0, 1)
            result = (latents + torch.nn.functional.pixel_unshuffle(renders * 2 - 1, 4)) / 2
            return torch.cat([latents[:, :1], result[:, 1:]], 1) if views == "novel" else result

        scale = guidance[:, None, None, None]
        if per_branch:
            low, high = project(branches[0]), project(branches[1])
            expected = low + scale * (high - low)
        else:
            expected = project(branches[0] + scale * (branches[1] - branches[0]))
    assert feedback is None
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)  # float32 sums in another order


@pytest.mark.parametrize(
    "make",
    [
        lambda: InferenceCombined(projection=ProjectionSettings(blend=1.5), **parts()),
        lambda: InferenceCombined(projection=ProjectionSettings(at=(40.0,)), **parts()),
        lambda: InferenceCombined(projection=ProjectionSettings(every=-1), **parts()),
        lambda: InferenceCombined(train_on_estimates=True, **parts()),
        lambda: staged(train=()),
        lambda: recursive(feedback_probability=2.0),
        lambda: recursive(sampler=SamplerSettings(feedback_every=-1)),
        lambda: staged(base_weights="/nowhere.safetensors"),
    ],
)
def test_wrong_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()  # type: ignore[operator]


def test_states_of_other_variants() -> None:
    state = staged().state_dict()
    adapted(InferenceCombined(**parts()), {"state_dict": state}, "Staged")
    module = recursive()
    started, report = adapted(module, {"state_dict": state}, "Staged")
    module.load_state_dict(started)
    assert {key.rpartition(".cond_encoder.")[0] for key in report.missing} == {"unet"}
    with pytest.raises(ValueError, match=r"unexpected: unet.cond_encoder"):
        adapted(staged(), {"state_dict": recursive().state_dict()}, "Recursive")
    wrong = {**state, "reconstructor.conv.bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"1 of another shape: reconstructor.conv.bias \[3\] instead of \[14\]"):
        adapted(staged(), {"state_dict": wrong}, "Staged")
    # Shapes fit, meanings do not: the k-th adapter belongs to the k-th map.
    coordinates: dict[str, Any] = {}
    other = recursive(("coordinates",))
    other.on_save_checkpoint(coordinates)
    with pytest.raises(ValueError, match=r"feedback_maps = \['colour'\], got .* trained with \['coordinates'\]"):
        adapted(recursive(("colour",)), {**coordinates, "state_dict": other.state_dict()}, "Recursive")


def test_another_seed_gives_other_views(batch: MultiviewBatch) -> None:
    views = [generate(staged(sampler=SamplerSettings(5, sigma_max=80.0, seed=seed)), batch)[0] for seed in (0, 0, 1)]
    assert torch.equal(views[0], views[1])
    assert (views[0] - views[2]).abs().mean() > 1e-3


def test_weights_that_base_weights_leave_out_have_no_effect(batch: MultiviewBatch) -> None:
    module = staged()
    before = generate(module, batch)
    left_out = {name: p for name, p in module.unet.named_parameters() if re.search(WITHOUT_EFFECT, name)}
    assert left_out
    with torch.no_grad():
        for parameter in left_out.values():
            parameter.normal_()
    after = generate(module, batch)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_published_noise_ids_are_those_of_the_first_sample(batch: MultiviewBatch) -> None:
    level = torch.tensor([0.1, 0.2])
    noise = torch.zeros_like(batch.input_images_01)
    right = staged().conditions(batch.input_images_01, batch.cameras, level, noise).added_time_ids
    published = staged(condition_noise_ids="published")
    wrong = published.conditions(batch.input_images_01, batch.cameras, level, noise).added_time_ids
    assert torch.equal(right[:, 2], level)
    assert torch.equal(wrong[:, 2], level[[0, 0]])


def test_quality_is_measured_against_the_truth(batch: MultiviewBatch) -> None:
    module = staged().eval()
    values = module.evaluate(batch).values
    assert values["mv_psnr"].shape == (2,)
    made = module.generate(batch.input_images_01, batch.cameras, batch.background, batch.uids)
    perfect = replace(batch, images_01=torch.cat([batch.images_01[:, :1], made.views_01[:, 1:]], 1))
    assert (module.evaluate(perfect).values["mv_psnr"] > 60).all()
    assert (values["mv_psnr"] < 20).all()
    # Each other value against its own render: nothing is swapped.
    renders = module.render_all(made.gaussians, batch).colour.clamp(0, 1)
    for name, truth in (
        ("render", replace(batch, images_01=torch.cat([batch.images_01[:, :1], renders[:, 1:4]], 1))),
        ("novel", replace(batch, target_images_01=renders[:, 4:])),
    ):
        found = module.evaluate(truth).values
        assert (found[f"{name}_psnr"] > 60).all()
        assert (found[f"{name}_psnr_foreground"] > 60).all()
        assert (found[f"{name}_ssim"] > 0.999).all()
        for other in {"mv", "render", "novel"} - {name}:
            assert (found[f"{other}_psnr"] < 40).all()
    gap = -10 * (made.views_01 - renders[:, :4]).square().mean((2, 3, 4)).log10().mean(1)
    torch.testing.assert_close(values["gap_psnr"], gap)
    assert module.evaluate(batch).truncated == 0


def test_true_coordinates_alone_are_compared_without_a_true_surface(batch: MultiviewBatch) -> None:
    module = staged().eval()
    rendering = module.render_all(
        module.generate(batch.input_images_01, batch.cameras, batch.background, batch.uids).gaussians, batch
    )
    shown = replace(batch, alpha=torch.ones_like(batch.alpha), coordinates=rendering.coordinates[:, :4] + 0.01)
    values = module.evaluate(shown).values
    assert "chamfer" not in values
    torch.testing.assert_close(values["coordinate_error"], torch.full((2,), 0.01 * 3**0.5), atol=1e-5, rtol=0)
    assert "coordinate_error" not in module.evaluate(batch).values


def test_pixels_that_are_cut_off_count_in_the_generation_that_they_are_in(batch: MultiviewBatch) -> None:
    module = staged(renderer=GaussianRenderer(backend="pytorch3d", points_per_pixel=1, max_points_per_pixel=1))
    assert module.eval().evaluate(batch).truncated > 0
    module.renderer = GaussianRenderer()
    assert module.evaluate(batch).truncated == 0


def test_a_generation_counts_its_own_cost(batch: MultiviewBatch) -> None:
    """Five guided steps of four views; every count follows from docs/method.md, sections 4 to 6."""

    def cost(module: ImageTo3D) -> dict[str, float]:
        made = module.eval().generate(batch.input_images_01, batch.cameras, batch.background, batch.uids)
        assert made.cost["seconds"] > 0
        assert 100 < made.cost["peak_memory_mib"] < 20_000  # Python and torch alone take some hundred
        return {name: value for name, value in made.cost.items() if name not in ("seconds", "peak_memory_mib")}

    once = {"nfe": 10, "vae_decodes": 4, "vae_encodes": 1, "recon_calls": 1, "render_calls": 0}
    assert cost(staged()) == once
    assert cost(staged(sampler=SamplerSettings(num_steps=3, guidance_min=1.0, guidance_max=1.0))) == {**once, "nfe": 3}
    # Feedback after all steps but the last, renders at the four cameras.
    assert cost(recursive()) == {**once, "vae_decodes": 20, "recon_calls": 5, "render_calls": 16}
    every_other = {**once, "vae_decodes": 12, "recon_calls": 3, "render_calls": 8}
    kept = recursive(sampler=SamplerSettings(5, sigma_max=80.0, feedback_every=2))
    assert cost(kept) == every_other
    assert kept.sampling_protocol()["feedback_steps"] == [0, 2]
    # Three projections of both guidance branches.
    combined = InferenceCombined(**parts())
    assert cost(combined) == {**once, "vae_decodes": 28, "vae_encodes": 25, "recon_calls": 7, "render_calls": 24}
    assert combined.sampling_protocol() == {"projection_steps": [2, 3, 4], "feedback_steps": [], "blend": 1.0}


def test_step_curves_end_at_the_values_of_the_result_and_cost_nothing(batch: MultiviewBatch) -> None:
    for module in (staged().eval(), recursive().eval()):
        plain = module.evaluate(batch)
        curves = StepCurves(module, batch, StepFrames(module, batch.cameras, most=2))
        module.observers = [curves]
        watched = module.evaluate(batch)
        assert torch.equal(watched.generation.views_01, plain.generation.views_01)
        assert torch.equal(watched.renders_01, plain.renders_01)
        for name in ("nfe", "vae_decodes", "vae_encodes", "recon_calls", "render_calls"):
            assert watched.generation.cost[name] == plain.generation.cost[name]
        for item in range(len(batch)):
            steps = curves.of_object(item)
            assert [point["step"] for point in steps] == list(range(5))
            sigmas = [point["sigma"] for point in steps]
            assert sigmas[0] == 80
            assert sigmas == sorted(sigmas, reverse=True)
            # At the last step's noise level, 0.002, the estimate is all but the result, which is decoded from it.
            assert steps[-1]["estimate_psnr"] == pytest.approx(plain.values["mv_psnr"][item].item(), abs=0.02)
            foreground = plain.values["mv_psnr_foreground"][item].item()
            assert steps[-1]["estimate_psnr_foreground"] == pytest.approx(foreground, abs=0.02)
            if isinstance(module, Staged):
                # Its R is told nothing of noise, so the last step's 3D is the result's, but for views that are clamped
                # before R in the result and not in an estimate: 0.05 dB with these weights.
                assert steps[-1]["render_psnr"] == pytest.approx(plain.values["render_psnr"][item].item(), abs=0.1)
                assert steps[-1]["gap_psnr"] == pytest.approx(plain.values["gap_psnr"][item].item(), abs=0.1)


def test_curves_of_a_sampler_that_knows_the_answer_rise_to_it(batch: MultiviewBatch) -> None:
    """An estimate that nears the truth by half a step: its PSNR rises by 6 dB a step, a closed form."""
    module = staged().eval()
    curves = StepCurves(module, batch, StepFrames(module, batch.cameras, most=2))
    truth = module.codec.encode(batch.images_01)
    far = module.codec.encode(torch.full_like(batch.images_01, 0.5))
    for index, share in enumerate((1.0, 0.5, 0.25)):
        estimate = torch.lerp(truth, far, share)
        curves(Step(index, 1.0, estimate, estimate, None))
    values = [point["estimate_psnr"] for point in curves.of_object(0)]
    assert values[1] - values[0] == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert values[2] - values[1] == pytest.approx(20 * math.log10(2), abs=1e-3)
    gap = [point["gap_psnr"] for point in curves.of_object(0)]
    assert gap[0] != pytest.approx(gap[2], abs=0.1)


@pytest.mark.parametrize(("objects", "batch_size", "world_size"), [(3, 1, 2), (4, 2, 2), (5, 2, 3), (1, 4, 2)])
def test_repeats_are_what_the_sampler_fills_up_with(objects: int, batch_size: int, world_size: int) -> None:
    counted: list[int] = []
    for rank in range(world_size):
        sampler = DistributedSampler(list(range(objects)), world_size, rank, shuffle=False)
        loader = DataLoader(list(range(objects)), batch_size=batch_size, sampler=sampler)
        for batch_idx, items in enumerate(loader):
            mask = repeats(batch_idx, len(items), loader, rank, world_size)
            counted += items[~mask].tolist()
    assert sorted(counted) == list(range(objects))


def test_mean_curves_leave_out_what_is_missing() -> None:
    def row(step: int, value: float) -> dict[str, float]:
        return {"step": step, "sigma": 1.0, **dict.fromkeys(CURVES, value)}

    means = mean_curves([[row(0, 1.0), row(1, 4.0)], [row(0, 3.0), row(1, math.nan)]])
    assert [point["gap_psnr"] for point in means] == [2.0, 4.0]
    assert mean_curves([]) == []

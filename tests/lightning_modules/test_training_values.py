"""Values of a training's configuration, each with the effect that it has."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from tiny_variants import parts, two_objects

from ouroboros3d.lightning_modules.learning_rates import LearningRateFactors, learning_rate_factor
from ouroboros3d.lightning_modules.recursive import Recursive
from ouroboros3d.lightning_modules.staged import Staged

ROOT = Path(__file__).parents[2]


def test_noise_levels_have_the_mean_and_the_deviation_that_are_asked_for():
    module, batch = Staged(**parts(), log_sigma_mean=-0.2, log_sigma_std=0.5).train(), two_objects()
    draws = []
    for index in range(400):
        draws.append(module.draw(batch, seed=index).sigma)
    levels = torch.cat(draws).log()
    # 800 draws: standard errors of 0.5 / sqrt(800) = 0.018 and 0.5 / sqrt(1600) = 0.0125; four of them
    assert levels.mean().item() == pytest.approx(-0.2, abs=0.07)
    assert levels.std().item() == pytest.approx(0.5, abs=0.05)


def test_each_scale_says_its_own_noise_levels():
    def levels(path: str) -> tuple[float, float]:
        arguments = yaml.safe_load((ROOT / path).read_text())["model"]["init_args"]
        return arguments["log_sigma_mean"], arguments["log_sigma_std"]

    assert levels("ouroboros3d/defaults.yaml") == (-0.2, 1.4)
    assert levels("ablations/scales/lab.yaml") == levels("ablations/scales/paper.yaml") == (1.0, 1.6)  # SVD's


@pytest.mark.parametrize(("mean", "std"), [(math.nan, 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, math.inf)])
def test_noise_levels_out_of_range_are_one_line(mean, std):
    with pytest.raises(ValueError, match="log_sigma_mean, log_sigma_std: expected a finite mean and a deviation > 0"):
        Staged(**parts(), log_sigma_mean=mean, log_sigma_std=std)


def test_new_parts_have_rates_of_their_own_and_every_parameter_has_one():
    module = Recursive(**parts(("colour", "coordinates")))
    factors = LearningRateFactors(adapters=5.0, rays=2.0)
    optimizer = factors.optimizer(module, lambda groups: torch.optim.AdamW(groups, lr=1e-3))
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in rate_of
            continue
        new = 5e-3 if "cond_encoder" in name else 2e-3 if "plucker" in name else 1e-3
        assert rate_of[id(parameter)] == pytest.approx(new), name
    plain = LearningRateFactors().optimizer(module, lambda groups: torch.optim.AdamW(groups, lr=1e-3))
    assert len(plain.param_groups) == 1  # as before there were factors


def test_a_factor_of_zero_leaves_a_part_as_it_is():
    module, batch = Recursive(**parts(("colour",))).train(), two_objects()
    optimizer = LearningRateFactors(adapters=0.0).optimizer(module, lambda groups: torch.optim.SGD(groups, lr=1e-2))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    torch.stack(list(module.training_losses(batch, 0.0, seed=0).values())).sum().backward()
    optimizer.step()
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert not any("cond_encoder" in name for name in moved)
    assert module.unet.cond_encoder[0].head[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("factor", [-1.0, math.inf, math.nan])
def test_factors_out_of_range_are_one_line(factor):
    with pytest.raises(ValueError, match=r"learning_rates.adapters: expected a finite factor >= 0, got"):
        LearningRateFactors(adapters=factor)


def test_the_rate_falls_in_a_line_over_the_last_40_percent():
    rates = [learning_rate_factor(step, 10, 1000, "last_40_percent") for step in (0, 9, 10, 600, 800, 999, 1000, 1001)]
    assert rates == pytest.approx([1 / 11, 10 / 11, 1, 1, 0.5, 0.0025, 0, 0])

"""Training steps in bfloat16 on CPUs that have it: what is computed, what is said, and what stays in float32."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_variants import parts, two_objects
from torch import Tensor

from ouroboros3d.cli import main
from ouroboros3d.lightning_modules.precision import computes_bfloat16, training_precision
from ouroboros3d.lightning_modules.recursive import Recursive
from ouroboros3d.lightning_modules.seeding import named_seed

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture
def instructions(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bool]]:
    """What this CPU says that it has, whatever it is: bfloat16 is then computed by other instructions."""
    found: dict[str, bool] = {}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    computes_bfloat16.cache_clear()
    yield found
    computes_bfloat16.cache_clear()


def computed_in(device: torch.device = CPU, wanted: bool = True) -> torch.dtype:
    with training_precision(device, wanted):
        return (torch.ones(1, 1) @ torch.ones(1, 1)).dtype


@pytest.mark.parametrize(("flag", "name"), [("avx512_bf16", "AVX512-BF16"), ("amx_bf16", "AMX-BF16")])
def test_a_cpu_with_the_instructions_computes_in_bfloat16_and_says_so_once(
    flag: str, name: str, instructions: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    instructions[flag] = True
    with caplog.at_level(logging.INFO, "ouroboros3d"):
        assert computed_in() == computed_in() == torch.bfloat16
    assert [record.getMessage() for record in caplog.records] == [
        f"bfloat16_on_cpu: training steps compute in bfloat16 ({name}), all else in float32."
    ]
    assert computed_in(wanted=False) == torch.float32
    assert computed_in(torch.device("cuda")) == torch.float32  # of a GPU `trainer.precision` decides


def test_another_cpu_stays_in_float32_and_says_so_once(
    instructions: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    instructions["avx512_bf16"] = False
    with caplog.at_level(logging.INFO, "ouroboros3d"):
        assert computed_in() == computed_in() == torch.float32
    assert [record.getMessage() for record in caplog.records] == [
        "bfloat16_on_cpu: this CPU has no AVX512-BF16 or AMX-BF16: training steps compute in float32."
    ]


def test_losses_and_gradients_are_those_of_float32(instructions: dict[str, bool]) -> None:
    instructions["avx512_bf16"] = True
    module, batch = Recursive(**parts(("colour", "coordinates")), augmentation=0.0).train(), two_objects()
    for adapter in module.unet.cond_encoder:
        torch.nn.init.normal_(adapter.head[0].weight, std=0.5)

    def step(wanted: bool) -> tuple[dict[str, float], dict[str, Tensor]]:
        module.zero_grad()
        with training_precision(CPU, wanted):
            losses = module.training_losses(batch, coin=0.0, seed=named_seed("step"))
        torch.stack(list(losses.values())).sum().backward()
        gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        return {name: loss.item() for name, loss in losses.items()}, gradients

    (exact, right), (rounded, found) = step(False), step(True)
    for name, loss in exact.items():
        assert rounded[name] == pytest.approx(loss, rel=0.004), name  # 8 bits a number; worst seen 0.0004
        assert rounded[name] != loss
    # The weight of a single token is 1 whatever is asked for: no gradient of the question, where float32 has rounding.
    without = right.keys() - found.keys()
    largest = max(gradient.abs().max() for gradient in right.values())
    assert without
    assert all(right[name].abs().max() < 1e-6 * largest for name in without)  # worst seen 3e-9
    one, other = (torch.cat([gradients[name].flatten() for name in sorted(found)]) for gradients in (right, found))
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0)
    assert cosine > 0.98  # seen: 0.994, of weights that are random
    # A pass without gradients comes before the one with them, and takes them from no weight.
    assert all(found[name].any() for name in found if right[name].abs().max() > 1e-6 * largest)


def test_all_but_training_is_in_float32(instructions: dict[str, bool]) -> None:
    instructions["avx512_bf16"] = True
    batch, views = two_objects(), []
    for wanted in (False, True):
        module = Recursive(**parts(("colour",)), bfloat16_on_cpu=wanted).eval()
        views.append(module.generate(batch.input_images_01, batch.cameras, batch.background, batch.uids).views_01)
    assert torch.equal(*views)


def test_a_run_in_bfloat16_trains(here: Path, instructions: dict[str, bool]) -> None:
    instructions["avx512_bf16"] = True
    curves = []
    for wanted in ("false", "true"):
        main(
            [
                *("fit", f"--config={ROOT / 'ablations' / 'recursive.yaml'}", f"--config={ROOT / 'tests/tiny.yaml'}"),
                *("--trainer.max_steps=3", "--trainer.limit_val_batches=0", f"--version={wanted}"),
                f"--model.bfloat16_on_cpu={wanted}",
            ]
        )
        events = EventAccumulator(str(here / "runs" / "recursive" / wanted))
        events.Reload()
        curves.append([event.value for event in events.Scalars("train/loss")])
        assert events.Scalars("train/skipped_steps")[-1].value == 0
    assert curves[0] != curves[1]
    assert curves[1] == pytest.approx(curves[0], rel=0.05)  # three steps apart; worst seen 0.01

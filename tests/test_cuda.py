"""The whole on a GPU: the same losses, views and checkpoints as on the CPU, and mixed precision that stays finite."""

import csv
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tiny_variants import parts, two_objects
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cli import main
from ouroboros3d.lightning_modules.generation import SamplerSettings
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.lightning_modules.inference_combined import InferenceCombined
from ouroboros3d.lightning_modules.recursive import Recursive
from ouroboros3d.lightning_modules.staged import Staged

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[1]
TINY = f"--config={ROOT / 'tests' / 'tiny.yaml'}"
VARIANTS = [Staged, InferenceCombined, Recursive]


def variant(kind: type[ImageTo3D]) -> ImageTo3D:
    maps = ("colour", "coordinates") if kind is Recursive else ()
    return kind(**{**parts(maps), "sampler": SamplerSettings()})


def batch(device: str) -> MultiviewBatch:
    return two_objects().to(device)


def losses(module: ImageTo3D, device: str) -> dict[str, Tensor]:
    return module.to(device).train().training_losses(batch(device), coin=0.0, seed=0)


@pytest.mark.parametrize("kind", VARIANTS)
def test_a_training_step_has_the_losses_and_gradients_of_the_cpu(kind: type[ImageTo3D]) -> None:
    on_cpu, on_cuda = variant(kind), variant(kind)
    expected, found = losses(on_cpu, "cpu"), losses(on_cuda, "cuda")
    for name, loss in expected.items():
        torch.testing.assert_close(found[name].cpu(), loss, rtol=1e-3, atol=1e-5)
    torch.stack(list(expected.values())).sum().backward()
    torch.stack(list(found.values())).sum().backward()
    for (name, one), other in zip(on_cpu.named_parameters(), on_cuda.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            difference = (other.grad.cpu() - one.grad).norm() / one.grad.norm().clamp(min=1e-3)
            assert difference < 0.02, f"{name}: {difference:.3f}"


@pytest.mark.parametrize("kind", VARIANTS)
def test_a_generation_has_the_views_of_the_cpu(kind: type[ImageTo3D]) -> None:
    module = variant(kind).eval()
    made = {}
    for device in ("cpu", "cuda"):
        on = batch(device)
        made[device] = deepcopy(module).to(device).generate(on.input_images_01, on.cameras, on.background, on.uids)
    # Twenty-five steps amplify rounding; a wrong device or a lost condition shows at once.
    assert (made["cuda"].views_01.cpu() - made["cpu"].views_01).abs().mean() < 5e-3
    assert made["cuda"].cost["peak_memory_mib"] > 0
    assert {k: v for k, v in made["cuda"].cost.items() if "calls" in k or k == "nfe"} == {
        k: v for k, v in made["cpu"].cost.items() if "calls" in k or k == "nfe"
    }


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_run_on_the_gpu_is_tested_on_the_cpu(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OUROBOROS3D_RUN_VERSION", raising=False)
    recursive = f"--config={ROOT / 'ablations' / 'recursive.yaml'}"
    main(["fit", recursive, TINY, "--trainer.accelerator=gpu", f"--trainer.precision={precision}"])
    main(["test", "--trainer.accelerator=cpu", "--trainer.precision=32-true"])
    with (tmp_path / "runs/recursive/version_0/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["ok"] * len(rows)
    assert all(float(row["mv_psnr"]) > 0 for row in rows)

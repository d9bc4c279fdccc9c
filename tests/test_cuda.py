"""The whole on a GPU: the same losses, views and checkpoints as on the CPU, and mixed precision that stays finite."""

import csv
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.cameras import Cameras
from ouroboros3d.cli import main
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.lightning_modules.inference_combined import InferenceCombined
from ouroboros3d.lightning_modules.recursive import Recursive
from ouroboros3d.lightning_modules.seeding import seeded
from ouroboros3d.lightning_modules.staged import Staged
from ouroboros3d.networks.codecs import PixelCodec
from ouroboros3d.networks.image_encoder import ImageEncoder
from ouroboros3d.networks.lgm import LGM
from ouroboros3d.networks.multiview_unet import MultiviewUNet
from ouroboros3d.renderers.gaussians import GaussianRenderer

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[1]
TINY = f"--config={ROOT / 'tests' / 'tiny.yaml'}"
VARIANTS = [Staged, InferenceCombined, Recursive]


def variant(kind: type[ImageTo3D]) -> ImageTo3D:
    """A tiny one with real components; its weights depend on nothing but their seed."""
    torch.manual_seed(0)
    unet = MultiviewUNet(
        in_channels=96,
        out_channels=48,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        num_attention_heads=(1, 1),
        cross_attention_dim=32,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        feedback_maps=("colour", "coordinates") if kind is Recursive else (),
        feedback_downscale=4,
    )
    return kind(
        unet=unet,
        reconstructor=LGM(16, (32, 32), (False, True), True, (32,), (False,), 1, 8, 1),
        codec=PixelCodec(4, scale=1.0),
        image_encoder=ImageEncoder(32, 1, 1, 16, 8, 32),
        renderer=GaussianRenderer(),
        base_weights=None,
    )


def batch(device: str) -> MultiviewBatch:
    torch.manual_seed(1)
    orbit = Cameras.orbit(torch.arange(4) * 90.0, 10.0, 1.7417, 39.598)
    novel = Cameras.orbit([30.0, 200.0], [25.0, -5.0], 1.7417, 39.598)
    cameras, world = Cameras.cat([Cameras.cat([orbit, novel], 0)[None]] * 2, 0).relative_to_first()
    images, alpha = torch.rand(2, 6, 3, 16, 16), (torch.rand(2, 6, 1, 16, 16) > 0.5).float()
    whole = (images[:, :4], alpha[:, :4], cameras[:, :4], images[:, 4:], alpha[:, 4:], cameras[:, 4:])
    return MultiviewBatch(("a", "b"), *whole, torch.ones(2, 3), world).to(device)


def losses(module: ImageTo3D, device: str) -> dict[str, Tensor]:
    with seeded("step"):
        return module.to(device).train().training_losses(batch(device), 0.0)


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

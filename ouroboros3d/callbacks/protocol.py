"""What a test's values were measured under: the columns of a result row (docs/formats.md, section 4.1)."""

from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from ouroboros3d.batch import ListedData
from ouroboros3d.files import git_commit
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D

_PACKAGES = ("torch", "lightning", "diffusers", "easypytorch3d", "ouroboros3d")
# What differs between two tests that must give the same values.
VOLATILE = ("timestamp", "world_size")


def listed_data(trainer: Trainer) -> ListedData:
    """The data module that a test runs on.

    Raises:
        ValueError: it is one that cannot say what it tests.
    """
    data = getattr(trainer, "datamodule", None)  # set at run time
    if not isinstance(data, ListedData):
        raise ValueError(
            f"data: expected a data module that says which objects it tests (ouroboros3d.batch.ListedData), got "
            f"{type(data).__name__}; name ouroboros3d.datamodules.objaverse.ObjaverseDataModule."
        )
    return data


def protocol(trainer: Trainer, module: ImageTo3D, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Identity, protocols of images and geometry, and sampling: the same for every row of a test.

    Args:
        trainer: after the set-up of a test.
        module: that is tested.
        folder: of the run.
        settings: further fields, which only the command line knows.
    """
    sampler, evaluation = module.sampler, module.evaluator.settings
    data = listed_data(trainer).test_protocol()
    geometry = {
        "point_source": "depth",
        "depth_size": evaluation.depth_size,
        "volume": "64^3 cells of [-0.6, 0.6]^3, carved by depth from 26 views",
        "squared": False,
        "reduction": "unsquared_mean",
        "normalization": "ours_1.1",
        "alignment": evaluation.alignment,
        "yaw_step_deg": None if evaluation.alignment == "none" else evaluation.yaw_step_deg,
        "align_scale": evaluation.align_scale,
        "fscore_thresholds": list(evaluation.fscore_thresholds),
    }
    return {
        "run_id": "/".join(folder.parts[-2:]),
        "experiment": folder.parent.name,
        "method": type(module).__name__,
        "git_commit": git_commit(),
        **settings,
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "package_versions": " ".join(f"{name}={metadata.version(name)}" for name in _PACKAGES),
        "seed": sampler.seed,
        **data,
        "lpips_net": module.reconstruction_loss.settings.lpips_net if module.evaluator.measures_lpips else None,
        "ssim_data_range": 1.0,
        **(geometry if data["num_points"] else dict.fromkeys(geometry)),
        "sampler": "euler",
        "steps": sampler.num_steps,
        "sigma_min": sampler.sigma_min,
        "sigma_max": sampler.sigma_max,
        "condition_noise": sampler.condition_noise,
        "guidance_min": sampler.guidance_min,
        "guidance_max": sampler.guidance_max,
        "guidance_shape": sampler.guidance_shape,
        **module.sampling_protocol(),
        "feedback_maps": list(module.unet.feedback_maps),
        "published_switches": sorted(published_switches(module, data)),
        "device": _device_name(trainer.strategy.root_device),
        "dtype": str(trainer.precision),
        "world_size": trainer.world_size,
    }


def published_switches(module: ImageTo3D, data: dict[str, Any]) -> Iterator[str]:
    """Names of the switches that stand on the published code's behaviour.

    Args:
        module: that is tested.
        data: protocol of its data.
    """
    if getattr(module, "detach_feedback", True) is False:
        yield "detach_feedback"
    yield from (f"data.{name}" for name, value in data.items() if value == "published")
    yield from (name for name, value in vars(module).items() if value == "published")
    yield from (f"sampler.{name}" for name, value in vars(module.sampler).items() if value == "published")
    for part, child in module.named_children():
        yield from (f"{part}.{name}" for name, value in vars(child).items() if value == "published")


def _device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

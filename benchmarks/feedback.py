"""Does a recursive network use its feedback? The error of its estimates with several maps, over that without.

    python benchmarks/feedback.py --ckpt_path CKPT [--root TREE] [--objects N] [--sigmas 1 3 10 80] [--json FILE]

For each held-out object and noise level the same noisy views are denoised with

- `none`: no feedback;
- `own`: maps of R(the estimate without feedback at the SAME level), as training has them;
- `previous`: maps of R(the estimate at the sampler's level before, without feedback), as sampling has them;
- `true`: maps of R(the true views), the best that R could give;
- `other`: maps of R(the true views) of ANOTHER object, seen by this one's cameras.

A network that ignores its feedback has the same error in all columns. One that uses it is better with `true` and worse
with `other`; it gains from feedback as far as `own` and `previous` are better than `none`. Errors are root mean squares
of z0_hat - z over the generated views (not the input view) of all objects, in the latents' units.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from fake_run import built, configuration
from torch import Tensor

from ouroboros3d.batch import MultiviewBatch
from ouroboros3d.commands.trainer import load
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.diffusion.preconditioning import Feedback, denoise
from ouroboros3d.lightning_modules.recursive import Recursive
from ouroboros3d.lightning_modules.seeding import named_noise

MAPS = ("none", "own", "previous", "true", "other")


@torch.no_grad()
def squared_errors(variant: Recursive, batch: MultiviewBatch, sigma: float) -> dict[str, Tensor]:
    """Mean squared errors [B] of z0_hat over the generated views, by what is fed back.

    Args:
        variant: with feedback maps, in evaluation mode.
        batch: B >= 2 objects.
        sigma: noise level.
    """
    count, cameras = len(batch), batch.cameras
    latents = variant.codec.encode(batch.images_01)
    noise = torch.stack([named_noise(tuple(latents.shape[1:]), f"probe/{uid}") for uid in batch.uids]).to(latents)
    input_noise = torch.stack(
        [named_noise(tuple(batch.input_images_01.shape[1:]), f"probe/{uid}/input") for uid in batch.uids]
    ).to(latents)
    condition_level = torch.full((count,), variant.sampler.condition_noise, device=latents.device)
    conditions = variant.conditions(batch.input_images_01, cameras, condition_level, input_noise)

    def estimate(level: float, feedback: Feedback | None = None) -> Tensor:
        levels = torch.full((count,), level, device=latents.device)
        return denoise(variant.unet, latents + level * noise, levels, conditions, feedback)

    def maps(views: Tensor, level: float | None) -> dict[str, Tensor]:
        known = None if level is None else torch.full((count,), level, device=latents.device)
        gaussians = variant.reconstruct_latents(views, cameras, known)
        size = (batch.images_01.shape[-2], batch.images_01.shape[-1])
        return variant.feedback(variant.render(gaussians, cameras, size, batch.background), cameras)

    without = estimate(sigma)
    before = float(variant.level_before(torch.tensor([sigma]))[0])
    true = maps(latents, None)
    estimates = {
        "none": without,
        "own": estimate(sigma, maps(without, sigma)),
        "previous": estimate(sigma, maps(estimate(before), before)),
        "true": estimate(sigma, true),
        "other": estimate(sigma, {kind: shown.roll(1, 0) for kind, shown in true.items()}),
    }
    return {name: (z0 - latents)[:, 1:].square().flatten(1).mean(1) for name, z0 in estimates.items()}


def probe(variant: Recursive, data: ObjaverseDataModule, sigmas: list[float]) -> dict[str, Any]:
    """Errors by what is fed back, one a noise level, over the test objects of `data`."""
    found: dict[str, list[list[Tensor]]] = {name: [[] for _ in sigmas] for name in MAPS}
    for batch in data.test_dataloader():
        assert isinstance(batch, MultiviewBatch)
        if len(batch) < 2:  # there is no other object
            continue
        for place, sigma in enumerate(sigmas):
            for name, errors in squared_errors(variant, batch, sigma).items():
                found[name][place].append(errors)
    rows = {name: [torch.cat(errors).mean().sqrt().item() for errors in levels] for name, levels in found.items()}
    return {"sigma": sigmas, **rows, "objects": sum(errors.numel() for errors in found["none"][0])}


def held_out(checkpoint: Path, root: str | None, objects: int | None) -> ObjaverseDataModule:
    """The data of a checkpoint's run, or the defaults', perhaps from another tree."""
    own = checkpoint.resolve().parents[1] / "config.yaml"
    config = yaml.safe_load(own.read_text()) if own.is_file() else configuration()
    arguments = config["data"]["init_args"] | {"batch_size": 16, "max_objects": objects}
    config["data"]["init_args"] = arguments if root is None else arguments | {"root": root}
    config["model"]["init_args"]["base_weights"] = None
    data = built(config)[1]
    assert isinstance(data, ObjaverseDataModule)
    data.prepare_data()
    data.setup("test")
    return data


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint of a recursive run, or bundled:recursive")
    parser.add_argument("--root", help="tree whose test objects are taken; the run's own by default")
    parser.add_argument("--objects", type=int, help="at most so many")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.3, 1.0, 3.0, 10.0, 30.0, 80.0])
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    arguments = parser.parse_args()
    try:
        if min(arguments.sigmas) <= 0:
            raise ValueError(f"sigmas: expected noise levels above 0, got {min(arguments.sigmas):g}.")
        loaded = load("export", [f"--ckpt_path={arguments.ckpt_path}"])
        if not (isinstance(loaded.variant, Recursive) and loaded.variant.unet.feedback_maps):
            raise ValueError(
                f"ckpt_path: expected a recursive variant with feedback, got {arguments.ckpt_path} without."
            )
        data = held_out(loaded.checkpoint, arguments.root, arguments.objects)
    except (ValueError, OSError) as error:
        sys.exit(f"feedback.py: error: {' '.join(str(error).split())}")
    variant = loaded.variant.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    result = probe(variant, data, arguments.sigmas)
    print(f"RMSE of z0_hat on generated views of {result['objects']} held-out objects, and its change by feedback")
    print("  sigma    none" + "".join(f"{name:>18}" for name in MAPS[1:]))
    for place, sigma in enumerate(result["sigma"]):
        without = result["none"][place]
        cells = "".join(f"{result[name][place]:>8.4f} ({result[name][place] / without - 1:+.1%})" for name in MAPS[1:])
        print(f"{sigma:7g}  {without:.4f}  {cells}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + os.linesep)


if __name__ == "__main__":
    main()

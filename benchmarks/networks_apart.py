"""How good are the two networks apart, on objects that neither has seen?

    python benchmarks/networks_apart.py --weights WEIGHTS [--root TREE] [--objects N] [--json FILE]

WEIGHTS is whatever `--model.base_weights` takes. Of the test objects:

- `rmse`: root mean square of z0_hat - z over the generated views, from true views with noise of each level `sigma`;
- `generated`: foreground PSNR in dB of the generated views, at each guidance of `guidance` (opposite the input view);
- `novel`: foreground PSNR of renders of their reconstruction at the novel cameras;
- `reconstructor`: foreground PSNR at the novel cameras of the reconstruction of the TRUE views.

PSNR is averaged over the views of an object, then over objects.
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fake_run import built, configuration
from torch import Tensor

from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.diffusion.preconditioning import denoise
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.lightning_modules.seeding import named_noise
from ouroboros3d.metrics.images import PSNR


@torch.no_grad()
def quality(model: ImageTo3D, data: ObjaverseDataModule, sigmas: list[float], guidances: list[float]) -> dict[str, Any]:
    """The numbers of this benchmark over the test objects of `data`."""
    metric = PSNR(foreground=True)
    squares: dict[float, list[Tensor]] = {sigma: [] for sigma in sigmas}
    generated: dict[float, list[Tensor]] = {guidance: [] for guidance in guidances}
    novel: dict[float, list[Tensor]] = {guidance: [] for guidance in guidances}
    true: list[Tensor] = []
    sampler = model.sampler
    for batch in data.test_dataloader():
        views, mask, novel_mask = batch.cameras.shape[1], batch.alpha > 0.5, batch.target_alpha > 0.5
        latents = model.codec.encode(batch.images_01)
        noise = torch.stack([named_noise(tuple(latents.shape[1:]), f"quality/{uid}") for uid in batch.uids])
        level = torch.full((len(batch),), sampler.condition_noise)
        images = batch.input_images_01
        conditions = model.conditions(images, batch.cameras, level, torch.zeros_like(images))
        for sigma in sigmas:
            z0 = denoise(model.unet, latents + sigma * noise, torch.full((len(batch),), sigma), conditions)
            squares[sigma].append((z0 - latents)[:, 1:].square().flatten(1).mean(1))
        for guidance in guidances:
            model.sampler = replace(sampler, guidance_max=guidance)
            made = model.generate(images, batch.cameras, batch.background, batch.uids)
            renders = model.render_all(made.gaussians, batch).colour.clamp(0, 1)
            generated[guidance].append(metric.values(made.views_01[:, 1:], batch.images_01[:, 1:], mask[:, 1:]))
            novel[guidance].append(metric.values(renders[:, views:], batch.target_images_01, novel_mask))
        renders = model.render_all(model.reconstruct(batch.images_01, batch.cameras), batch).colour.clamp(0, 1)
        true.append(metric.values(renders[:, views:], batch.target_images_01, novel_mask))
    return {
        "objects": sum(len(values) for values in true),
        "sigma": sigmas,
        "rmse": [torch.cat(squares[sigma]).mean().sqrt().item() for sigma in sigmas],
        "guidance": guidances,
        "generated": [torch.cat(generated[guidance]).nanmean().item() for guidance in guidances],
        "novel": [torch.cat(novel[guidance]).nanmean().item() for guidance in guidances],
        "reconstructor": torch.cat(true).nanmean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--weights", required=True, help="as --model.base_weights")
    parser.add_argument("--root", help="tree whose test objects are taken; the bundled ones by default")
    parser.add_argument("--objects", type=int, help="at most so many")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.1, 1.0, 10.0, 80.0])
    parser.add_argument("--guidances", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    arguments = parser.parse_args()
    options = [f"--model.base_weights={arguments.weights}", "--data.batch_size=16", "--data.num_target_views=4"]
    options += [f"--data.root={arguments.root}"] if arguments.root else []
    options += [f"--data.max_objects={arguments.objects}"] if arguments.objects else []
    staged = Path(__file__).parents[1] / "ablations" / "staged.yaml"
    try:
        model, data = built(configuration(f"--config={staged}", *options))
    except (ValueError, OSError) as error:
        sys.exit(f"networks_apart.py: error: {' '.join(str(error).split())}")
    assert isinstance(data, ObjaverseDataModule)
    data.prepare_data()
    data.setup("test")
    result = quality(model.eval(), data, arguments.sigmas, arguments.guidances)
    print(f"{result['objects']} held-out objects")
    for sigma, rmse in zip(result["sigma"], result["rmse"], strict=True):
        print(f"RMSE of z0_hat at sigma {sigma:g}: {rmse:.4f}")
    for guidance, views, renders in zip(result["guidance"], result["generated"], result["novel"], strict=True):
        print(f"guidance {guidance:g}: generated views {views:.2f} dB, renders at novel cameras {renders:.2f} dB")
    print(f"reconstructor on true views, novel cameras: {result['reconstructor']:.2f} dB")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + os.linesep)


if __name__ == "__main__":
    main()

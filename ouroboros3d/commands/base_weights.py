"""Turn runs into files of weights.

Base weights, of pre-training runs:

`python -m ouroboros3d.commands.base_weights OUT --diffusion CKPT --reconstructor CKPT`

A trained variant, which `test`, `predict` and `export` use like a run's checkpoint:

`python -m ouroboros3d.commands.base_weights OUT --variant CKPT --sources JSON`
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ouroboros3d.commands.earlier_configurations import brought_up_to_date
from ouroboros3d.configurations import read_configuration
from ouroboros3d.lightning_modules.weights import read_checkpoint
from ouroboros3d.networks.pretrained.base import WITHOUT_EFFECT, save_base_weights, save_variant

# What the networks see of the data. Where it lay, which objects were taken and how fast they came is the run's own.
_SEEN = ("num_views", "input_radius", "view_selection", "background")
_SEEN_OF_THE_RIG = ("image_size", "radius", "fov_deg", "light")


def write_base_weights(out: Path, diffusion: Path, reconstructor: Path, recipe: dict[str, Any]) -> None:
    """Write networks in half precision, with their sizes and the recipe in the file's metadata.

    Parameters without any effect are left out.

    Args:
        out: the safetensors file.
        diffusion: checkpoint that the U-Net and the image encoder are taken from.
        reconstructor: checkpoint that the reconstructor is taken from; the same one where they trained in one run.
        recipe: how the weights were made; the steps of both checkpoints are added.

    Raises:
        ValueError: a file that is no checkpoint of this project.
        FileNotFoundError: a checkpoint, or the `config.yaml` of its run two folders up, is missing.
    """
    states: dict[str, dict[str, Tensor]] = {}
    sizes: dict[str, Any] = {}
    steps: dict[str, int] = {}
    sources = {"unet": diffusion, "image_encoder": diffusion, "reconstructor": reconstructor}
    for name, path in sources.items():
        checkpoint, config = _read_run(path)
        states[name] = {
            key.removeprefix(f"{name}."): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith(f"{name}.") and not re.search(WITHOUT_EFFECT, key)
        }
        sizes[name] = config["model"]["init_args"][name]
        steps[name] = checkpoint["global_step"]
    save_base_weights(out, states, config=sizes, recipe={**recipe, "steps": steps})


def write_variant(out: Path, checkpoint: Path, sources: dict[str, str], recipe: dict[str, Any]) -> None:
    """Write a trained variant in half precision, with all that is needed to use it in the file's metadata.

    Where training averaged the weights, it is the average that a checkpoint has as its weights. Parameters without any
    effect are left out.

    Args:
        out: the safetensors file.
        checkpoint: of the run.
        sources: of the training data, each with its licences.
        recipe: how the weights were made.

    Raises:
        ValueError: a file that is no checkpoint of a run, one with LoRA's additions, or no sources.
        FileNotFoundError: the checkpoint, or the `config.yaml` of its run two folders up, is missing.
    """
    content, config = _read_run(checkpoint)
    lacks = [key for key in ("ouroboros3d_meaning", "ouroboros3d_seed") if key not in content]
    if lacks or any(".lora_A." in key for key in content["state_dict"]):
        raise ValueError(
            f"variant: expected a checkpoint of a run that trained whole networks, got {checkpoint} "
            + (f"without {', '.join(lacks)}." if lacks else "with LoRA beside them.")
        )
    if not sources:
        raise ValueError("sources: expected the training data with their licences, got none; weights are made of them.")
    model, data = config["model"], config["data"]
    seen = {name: data["init_args"][name] for name in _SEEN if name in data["init_args"]}
    seen["rig"] = {name: data["init_args"]["rig"][name] for name in _SEEN_OF_THE_RIG}
    save_variant(
        out,
        {key: value for key, value in content["state_dict"].items() if not re.search(WITHOUT_EFFECT, key)},
        {
            "variant": model["class_path"],
            "config": {
                "model": {
                    **model,
                    "init_args": {**model["init_args"], "base_weights": None},
                },
                "data": {"class_path": data["class_path"], "init_args": seen},
            },
            "meaning": content["ouroboros3d_meaning"],
            "steps": content["global_step"],
            "seed": content["ouroboros3d_seed"],
            "moving_average": "current_model_state" in content,  # Lightning's name for the weights themselves
            "recipe": recipe,
            "sources": sources,
        },
    )


def _read_run(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's checkpoint and its configuration."""
    config = checkpoint.resolve().parents[1] / "config.yaml"
    return read_checkpoint(checkpoint), brought_up_to_date(read_configuration(config))


def main() -> None:
    """Run the command that the module is."""
    parser = argparse.ArgumentParser(
        prog="python -m ouroboros3d.commands.base_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--diffusion", type=Path, help="checkpoint of the U-Net and the image encoder")
    parser.add_argument("--reconstructor", type=Path, help="checkpoint of the reconstructor")
    parser.add_argument("--variant", type=Path, help="checkpoint of a trained variant, in place of these two")
    parser.add_argument("--recipe", type=json.loads, default={}, help="how the weights were made, as JSON")
    parser.add_argument(
        "--sources", type=json.loads, default={}, help="of the training data, as JSON: each source with its licences"
    )
    arguments = parser.parse_args()
    if [arguments.diffusion, arguments.reconstructor].count(None) != (0 if arguments.variant is None else 2):
        parser.error("expected --diffusion and --reconstructor, or --variant in place of both")
    if arguments.variant is None:
        sources = {"sources": arguments.sources} if arguments.sources else {}
        recipe = {**arguments.recipe, **sources}
        write_base_weights(arguments.out, arguments.diffusion, arguments.reconstructor, recipe)
    else:
        write_variant(arguments.out, arguments.variant, arguments.sources, arguments.recipe)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Turn pre-training runs into base weights.

`python -m ouroboros3d.base_weights OUT --diffusion CKPT --reconstructor CKPT`
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from ouroboros3d.lightning_modules.weights import read_checkpoint
from ouroboros3d.networks.pretrained import WITHOUT_EFFECT, save_base_weights


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
        checkpoint = read_checkpoint(path)
        states[name] = {
            key.removeprefix(f"{name}."): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith(f"{name}.") and not re.search(WITHOUT_EFFECT, key)
        }
        config = yaml.safe_load((path.resolve().parents[1] / "config.yaml").read_text())
        sizes[name] = config["model"]["init_args"][name]
        steps[name] = checkpoint["global_step"]
    save_base_weights(out, states, config=sizes, recipe={**recipe, "steps": steps})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ouroboros3d.base_weights", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--diffusion", type=Path, required=True, help="checkpoint of the U-Net and the image encoder")
    parser.add_argument("--reconstructor", type=Path, required=True, help="checkpoint of the reconstructor")
    parser.add_argument("--recipe", type=json.loads, default={}, help="how the weights were made, as JSON")
    arguments = parser.parse_args()
    write_base_weights(arguments.out, arguments.diffusion, arguments.reconstructor, arguments.recipe)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Turn a pre-training run into base weights: `python -m ouroboros3d.base_weights CHECKPOINT OUT.safetensors`."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import yaml

from ouroboros3d.networks.pretrained import save_base_weights

PARTS = ("unet", "reconstructor", "image_encoder")


def write_base_weights(checkpoint: Path, out: Path, recipe: dict[str, Any]) -> None:
    """Write a checkpoint's networks in half precision, with their sizes and the recipe in the metadata.

    Args:
        checkpoint: of a run, with the run's `config.yaml` two folders up.
        out: the safetensors file.
        recipe: how the weights were made, kept beside the step count.

    Raises:
        FileNotFoundError: the checkpoint or its configuration is missing.
    """
    config = yaml.safe_load((checkpoint.resolve().parents[1] / "config.yaml").read_text())
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    sizes = {name: config["model"]["init_args"][name] for name in PARTS}
    parts = {name: _Tensors(stored["state_dict"], f"{name}.") for name in PARTS}
    save_base_weights(out, parts, config=sizes, recipe={**recipe, "steps": stored["global_step"]})


class _Tensors(torch.nn.Module):
    """The tensors under a prefix, with their own names, as a module to save."""

    def __init__(self, state: dict[str, torch.Tensor], prefix: str) -> None:
        super().__init__()
        self._state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    def state_dict(self, *_: Any, **__: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]  # noqa: ANN401
        """The tensors."""
        return self._state


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", type=json.loads, default={}, help="how the weights were made, as JSON")
    arguments = parser.parse_args()
    write_base_weights(arguments.checkpoint, arguments.out, arguments.recipe)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""`python -m ouroboros3d export`: from a checkpoint to a folder that diffusers loads."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ouroboros3d.commands.arguments import parse_run_options
from ouroboros3d.commands.trainer import load
from ouroboros3d.export.card import model_card
from ouroboros3d.export.pipeline import COMPONENTS, VARIANTS, OuroborosPipeline
from ouroboros3d.files import NO_ROOM, atomic_folder, refuse_taken
from ouroboros3d.lightning_modules.loaded import Loaded
from ouroboros3d.weight_names import SHIPPED

# Arguments of a variant that only training uses, besides its parts.
_OF_TRAINING = {
    *("renderer", "optimizer", "base_weights", "reconstruction_loss", "evaluation", "train", "warmup_steps", "decay"),
    *("guidance_dropout", "augmentation", "feedback_probability", "detach_feedback", "reconstruction_gradient"),
    "train_on_estimates",
}
# Arguments of a network that only training uses, or one machine: the exported weights are plain and whole.
_OF_TRAINED_NETWORK = {"trainable", "lora_rank", "gradient_checkpointing", "compile"}
_OF_PHOTOS = ("num_views", "background", "removal")
_OF_RIG = ("image_size", "radius", "fov_deg")


def run(arguments: Sequence[str], shipped: Path = SHIPPED) -> None:
    """Export a checkpoint.

    Args:
        arguments: the command line after `export`.
        shipped: the folder of the weights that are exported where no run is.

    Raises:
        ValueError: a wrong argument, or a checkpoint that cannot be exported; one line.
        OSError: no such file, a folder that is not empty, or no room.
    """
    loaded = load("export", arguments, shipped)
    single = parse_run_options("export", arguments).single
    out, dtype = Path(single["out"]) if "out" in single else _own_folder(loaded), single.get("dtype", "float32")
    refuse_taken(out)
    pipeline = to_pipeline(loaded, getattr(torch, dtype))
    with atomic_folder(out) as folder:
        try:
            pipeline.save_pretrained(folder)
        except SafetensorError as error:  # its writer's words for what the system refuses
            number = re.search(r"os error (\d+)", str(error))
            if number and int(number[1]) in NO_ROOM:
                raise OSError(int(number[1]), os.strerror(int(number[1])), str(out)) from error
            raise OSError(f"{out}: {error}") from error
        (folder / "README.md").write_text(model_card(loaded, pipeline, dtype), encoding="utf-8")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"export: {type(loaded.variant).__name__} in {dtype}, {size / 1e6:.1f} MB, in {out}")
    print(f'load it with: OuroborosPipeline.from_pretrained("{out}")  (from ouroboros3d.export)')


def to_pipeline(loaded: Loaded, dtype: torch.dtype) -> OuroborosPipeline:
    """A pipeline to be saved, with the weights and the settings of a variant; LoRA's additions are in the weights.

    Args:
        loaded: the variant and its configuration; its tensors are shared where their precision stays.
        dtype: of the weights; an autoencoder keeps its own.

    Raises:
        ValueError: a class that does not come with this package, or weights that are not finite in this precision.
    """
    variant, model, data = loaded.variant, loaded.config["model"], loaded.config["data"]["init_args"]
    _check_class("model", type(variant), list(VARIANTS.values()))
    parts = {}
    for name, classes in COMPONENTS.items():
        part: nn.Module = getattr(variant, name)
        networks = {known.__mro__[1]: known for known in classes}
        _check_class(name, type(part), list(networks))
        arguments = model["init_args"][name].get("init_args", {})
        arguments = {key: value for key, value in arguments.items() if key not in _OF_TRAINED_NETWORK}
        with torch.device("meta"):  # no second copy of the weights
            parts[name] = networks[type(part)](**arguments)
        state: dict[str, Tensor] = variant.unet.merged_state_dict() if name == "unet" else part.state_dict()
        if name != "codec":
            state = _converted(name, state, dtype)
        parts[name].load_state_dict(state, assign=True)
    settings = model["init_args"].items()
    precision = str(loaded.config["trainer"]["precision"] or "32-true")
    return OuroborosPipeline(
        **parts,
        variant=type(variant).__name__,
        settings={key: value for key, value in settings if key not in _OF_TRAINING | set(COMPONENTS)},
        renderer=model["init_args"]["renderer"].get("init_args", {}),
        photo={key: data[key] for key in _OF_PHOTOS}
        | {key: data["rig"][key] for key in _OF_RIG}
        | ({} if data["input_radius"] is None else {"radius": data["input_radius"]}),
        autocast="bfloat16" if precision.startswith("bf16") else "float16" if precision.startswith("16") else None,
    )


def _converted(name: str, state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    converted = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    for key, value in converted.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name}.{key}: expected finite values in {dtype}, got others; export in float32.")
    return converted


def _check_class(name: str, own: type, known: list[type]) -> None:
    if own not in known:
        raise ValueError(
            f"{name}: expected a class of this package, {', '.join(one.__name__ for one in known)}, got "
            f"{own.__name__}; a pipeline with other code could not be loaded elsewhere."
        )


def _own_folder(loaded: Loaded) -> Path:
    """The default: in the run, or for weights that describe themselves, which are in none, beside the runs."""
    if "ouroboros3d_config" in loaded.content:
        return Path(loaded.config["runs"], "export", loaded.checkpoint.stem)
    run = loaded.checkpoint.parent.parent
    if loaded.checkpoint.parent.name != "checkpoints" or not (run / "config.yaml").is_file():
        raise ValueError(f"out: expected --out FOLDER, since {loaded.checkpoint} is in no run's folder.")
    return run / "export"

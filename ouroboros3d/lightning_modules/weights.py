"""Where a variant's weights come from: base weights, the paper's, or a checkpoint of it or of the staged variant.

A checkpoint is what a run wrote, or the file of a trained variant that `save_variant` wrote, such as the shipped ones.
"""

import logging
import pickle
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ouroboros3d.lightning_modules.generation import SamplerSettings
from ouroboros3d.networks.pretrained.base import WITHOUT_EFFECT, is_variant, load_base_weights, read_variant
from ouroboros3d.networks.pretrained.files import lgm_file, published_files, svd_files
from ouroboros3d.networks.pretrained.sources import (
    check_svd_scheduler,
    load_exported,
    load_lgm,
    load_published,
    load_svd_image_encoder,
    load_svd_unet,
    load_svd_vae,
)
from ouroboros3d.networks.pretrained.strict import MEANING, LoadReport, check_meaning, check_strict
from ouroboros3d.weight_names import BASE, SHIPPED, checkpoint_file

_log = logging.getLogger(__name__)
# Parameters that a variant adds to the staged ones; a staged checkpoint leaves them as they start.
_ADAPTERS = "unet.cond_encoder."
# What everything that reads a checkpoint takes for granted.
_TYPES: dict[str, type] = {
    **dict.fromkeys(("state_dict", "current_model_state", "averaging_state", "callbacks", "loops"), dict),
    **dict.fromkeys([f"ouroboros3d_{name}" for name in ("meaning", "optimizer", "config", "sources")], dict),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
    **dict.fromkeys(("global_step", "epoch", "ouroboros3d_seed"), int),
    **dict.fromkeys(("pytorch-lightning_version", "ouroboros3d_variant"), str),
}
# What Lightning keeps there says which class to import and make; ours says that in a run's config.yaml.
_NAMES_CLASSES = ("hyper_parameters", "datamodule_hyper_parameters")
_NEW = (r"^cond_encoder\.", WITHOUT_EFFECT)


@dataclass(frozen=True)
class PaperWeights:
    """The weights that the paper starts from, or its own; each a local path or a hub id.

    Args:
        svd: Stable Video Diffusion in diffusers layout: U-Net, autoencoder, CLIP image encoder and scheduler.
        lgm: LGM's safetensors file, or a folder or hub id with its releases, of which the one for the reconstructor's
            `rotation_norm` is taken; null for a reconstructor with random weights.
        published: folder with the published Ouroboros3D checkpoint, `mv_model_unet.pth` and `recon_model.pth`. It then
            gives U-Net and reconstructor, and of SVD only the autoencoder and the image encoder are read.
        own_sampler: keep noise levels of the sampler that differ from those of SVD's scheduler.
    """

    svd: str
    lgm: str | None = None
    published: str | None = None
    own_sampler: bool = False


def check_files(source: str | PaperWeights, rotation_norm: str) -> None:
    """Look for every file that training starts from, before any network is built; downloads what is on the hub.

    Args:
        source: as in `initialise`.
        rotation_norm: the reconstructor's, which says which of LGM's releases is wanted.

    Raises:
        ValueError: one is missing; the message says which, and how to get it.
    """
    if isinstance(source, PaperWeights):
        svd_files(source.svd, unet=source.published is None)
        if source.published is not None:
            published_files(source.published)
        elif source.lgm is not None:
            lgm_file(source.lgm, rotation_norm)
    else:
        _own_path(source)


def _own_path(source: str) -> Path:
    path = SHIPPED / f"{BASE}.safetensors" if source == "bundled" else checkpoint_file(source)
    if not path.exists():
        raise ValueError(
            "base_weights: expected 'bundled', a .safetensors or .ckpt file, a folder that `export` wrote, the paper's "
            f"weights (svd: FOLDER, lgm: FILE), or null for random weights, got {source!r} and nothing at {path}."
        )
    return path


def initialise(module: nn.Module, source: str | PaperWeights) -> dict[str, LoadReport]:
    """Start a variant from given weights; a line for each part goes to the log.

    Args:
        module: a variant.
        source: `bundled`, a .safetensors file of base weights or of a trained variant (`bundled:NAME` for a shipped
            one), a .ckpt file of this project, a folder that `export` wrote, or the paper's weights.

    Returns:
        what became of every key, by part.

    Raises:
        ValueError: no such file, a file with code in it, or weights that do not fit.
    """
    if isinstance(source, PaperWeights):
        reports = _load_paper(module, source)
    else:
        path = _own_path(source)
        names = ("unet", "reconstructor", "image_encoder")
        parts = {name: cast(nn.Module, getattr(module, name)) for name in names}
        if path.is_dir():
            reports = load_exported({**parts, "codec": cast(nn.Module, module.codec)}, path, _NEW)
        elif path.suffix == ".ckpt" or is_variant(path):
            content = read_checkpoint(path)
            if any(".lora_A." in key for key in content["state_dict"]):
                raise ValueError(
                    f"base_weights: expected plain weights, got {path} with LoRA beside them; export the run, which "
                    "merges them, and name that folder."
                )
            state, report = adapted(module, content, str(path))
            module.load_state_dict(state)
            reports = {"checkpoint": report}
        else:
            reports = load_base_weights(path, parts, allow_missing=_NEW)
    for name, report in reports.items():
        _log.info("%s: %s", name, report)
    return reports


def _load_paper(module: nn.Module, weights: PaperWeights) -> dict[str, LoadReport]:
    names = ("unet", "reconstructor", "image_encoder", "codec")
    unet, reconstructor, encoder, codec = (cast(nn.Module, getattr(module, name)) for name in names)
    if not weights.own_sampler:
        sampler = cast(SamplerSettings, module.sampler)
        check_svd_scheduler(weights.svd, sampler.sigma_min, sampler.sigma_max)
    # The small parts first: what does not fit is found early.
    reports = {"codec": load_svd_vae(codec, weights.svd), "image_encoder": load_svd_image_encoder(encoder, weights.svd)}
    if weights.published is not None:
        check_meaning("", module, {"coordinate_map": "published"}, weights.published)
        reports["unet"], reports["reconstructor"] = load_published(unet, reconstructor, weights.published)
        return reports
    if weights.lgm is not None:
        reports["reconstructor"] = load_lgm(reconstructor, weights.lgm)
    reports["unet"] = load_svd_unet(unet, weights.svd)
    return reports


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, by the names that a run's has; a run's tensors stay on disk until they are used.

    A trained variant's file has no state to resume from. It adds `ouroboros3d_config`, its `model` and `data`, and
    `ouroboros3d_sources`, of its training data.

    Raises:
        ValueError: a truncated file, one of another kind, or one with code in it.
    """
    if path.suffix == ".safetensors":
        state, about = read_variant(path)
        described = {
            "state_dict": state,
            "global_step": about["steps"],
            "pytorch-lightning_version": metadata.version("lightning"),  # nothing in it is Lightning's to migrate
            "ouroboros3d_variant": about["variant"].rpartition(".")[2],
            "ouroboros3d_meaning": about["meaning"],
            "ouroboros3d_seed": about["seed"],
            "ouroboros3d_config": about["config"],
            "ouroboros3d_sources": about["sources"],
        }
        _check_types(described, path)
        return described
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: expected a checkpoint of this project, got a file with code in it, which is never executed."
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:  # torch's answers to a file that is no whole archive
        raise ValueError(
            f"{path}: expected a checkpoint of this project, got a truncated file or one of another kind."
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{path}: expected a checkpoint of this project, got a file without a state_dict.")
    _check_types(content, path)
    if named := [name for name in _NAMES_CLASSES if name in content]:
        raise ValueError(
            f"{path}: expected a checkpoint of this project, without {named[0]}, which name classes, got some."
        )
    return content


def _check_types(content: dict[str, Any], path: Path) -> None:
    """Whether what a checkpoint holds is of the kinds that everything which reads it takes for granted."""
    for name, value in content.items():
        kind = _TYPES.get(name, object)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(
                f"{path}: expected a checkpoint of this project, whose {name} is of type {kind.__name__}, got "
                f"{type(value).__name__}; it is damaged or of another kind."
            )
    for name, kind in (("state_dict", Tensor), ("current_model_state", Tensor), ("callbacks", dict)):
        for key, value in content.get(name, {}).items():
            if not isinstance(value, kind):
                raise ValueError(
                    f"{path}: expected a checkpoint of this project, whose {name} holds {kind.__name__}s, got "
                    f"{type(value).__name__} for {key!r}; it is damaged or of another kind."
                )


def meaning(module: nn.Module) -> dict[str, Any]:
    """Settings that a variant's weights are trained for, although their shapes do not show it."""
    parts = (module, *module.children())
    found = {key: getattr(part, key) for part in parts for key in MEANING if hasattr(part, key)}
    return {**found, "feedback_maps": list(module.unet.feedback_maps)}  # type: ignore[union-attr, arg-type]


def adapted(module: nn.Module, checkpoint: dict[str, Any], source: str) -> tuple[dict[str, Tensor], LoadReport]:
    """A variant's state dict from another's: adapters that it lacks stay as they start, said in the log.

    So do parameters without any effect, which files of our own leave out.

    Args:
        module: the variant.
        checkpoint: of a variant.
        source: names that checkpoint in messages.

    Returns:
        the state dict, and what became of every key.

    Raises:
        ValueError: missing or unexpected keys other than missing adapters, other shapes, or weights of another meaning.
    """
    state: dict[str, Tensor] = checkpoint["state_dict"]
    wanted = meaning(module)
    for key, trained in checkpoint.get("ouroboros3d_meaning", {}).items():
        fits = trained == wanted.get(key, trained) or (key == "feedback_maps" and not (trained and wanted[key]))
        if not fits:
            raise ValueError(
                f"checkpoint: expected {key} = {wanted[key]}, got the weights of {source} trained with {trained}; "
                "use the configuration that it was trained with (config.yaml in its run)."
            )
    new = (rf"^{_ADAPTERS}", WITHOUT_EFFECT)
    way_out = "Use the configuration that it was trained with (config.yaml in its run)."
    report = check_strict(module, state, allow_missing=new, source=source, way_out=way_out)
    fresh = [key for key in report.missing if key.startswith(_ADAPTERS)]
    if fresh:
        _log.info("%d adapter tensors are new: %s has none; they start at zero output.", len(fresh), source)
    return {key: state.get(key, own) for key, own in module.state_dict().items()}, report

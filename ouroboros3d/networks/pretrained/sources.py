"""Weights of others, and folders that `export` wrote, loaded strictly.

Sources: Stable Video Diffusion in diffusers layout, LGM safetensors, the published Ouroboros3D checkpoint. Files of our
own are in `base.py`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ouroboros3d.networks.pretrained.files import (
    EXPORT,
    LGM_RELEASES,
    SVD,
    FolderPart,
    lgm_file,
    published_files,
    read_json,
    read_safetensors,
    read_torch,
    read_weights,
    svd_stem,
)
from ouroboros3d.networks.pretrained.strict import LoadReport, check_meaning, check_strict, load_strict

LGM_TIME_KEYS = (r"unet\.time_embed\.", r"\.emb_layers\.")
"""Keys that LGM's own weights lack in a reconstructor with a time input."""

NEW_UNET_KEYS = (r"(down|up)_plucker\.", r"mid_plucker\.", r"cond_encoder\.")
"""Keys that Stable Video Diffusion's weights lack in a `MultiviewUNet`."""

_RAYS_PUBLISHED = {"plucker_rays": "published", "plucker_skips": "published"}
_LGM_PUBLISHED = {"position": "absolute", "rotation_norm": "published", "time_shape": "published"}
# Sizes in the configurations of Stable Video Diffusion's parts, and our names for them.
_SIZES: dict[FolderPart, dict[str, str]] = {
    "unet": {
        name: name
        for name in (
            *("in_channels", "out_channels", "block_out_channels", "down_block_types", "up_block_types"),
            *("layers_per_block", "num_attention_heads", "cross_attention_dim", "transformer_layers_per_block"),
            *("addition_time_embed_dim", "projection_class_embeddings_input_dim"),
        )
    },
    "vae": {
        "block_out_channels": "block_out_channels",
        "layers_per_block": "layers_per_block",
        "latent_channels": "latent_channels",
        "scaling_factor": "scale",
    },
    "image_encoder": {
        "hidden_size": "hidden_size",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "image_size": "image_size",
        "patch_size": "patch_size",
        "projection_dim": "projection_dim",
        "hidden_act": "hidden_act",
    },
}


def load_svd_unet(network: nn.Module, folder: Path | str) -> LoadReport:
    """Load Stable Video Diffusion's U-Net into a `MultiviewUNet`; rays and adapters keep their initial values.

    Args:
        network: the `MultiviewUNet`.
        folder: local folder in diffusers layout, or a hub id.

    Raises:
        ValueError: a missing file, or weights of other sizes.
    """
    _check_sizes("unet", folder, network.unet.config, "unet")  # type: ignore[union-attr, arg-type]
    state = {f"unet.{key}": value for key, value in read_weights(folder, "unet", SVD).items()}
    return load_strict(network, state, allow_missing=NEW_UNET_KEYS, source=f"{folder}/unet")


def load_svd_vae(codec: nn.Module, folder: Path | str) -> LoadReport:
    """Load Stable Video Diffusion's autoencoder into an `SVDCodec`; arguments and errors as `load_svd_unet`."""
    if not hasattr(codec, "vae"):
        raise ValueError(
            f"codec: expected SVDCodec, which Stable Video Diffusion's latents are of, got {type(codec).__name__}; "
            "use --config ablations/scales/paper.yaml or other base weights."
        )
    vae = codec.vae
    assert isinstance(vae, nn.Module)
    _check_sizes("vae", folder, vae.config, "codec")  # type: ignore[arg-type]
    return load_strict(vae, read_weights(folder, "vae", SVD), source=f"{folder}/vae")


def load_svd_image_encoder(encoder: nn.Module, folder: Path | str) -> LoadReport:
    """Load Stable Video Diffusion's CLIP tower into an `ImageEncoder`; arguments and errors as `load_svd_unet`."""
    clip = encoder.clip
    assert isinstance(clip, nn.Module)
    _check_sizes("image_encoder", folder, clip.config.to_dict(), "image_encoder")  # type: ignore[union-attr, operator]
    state = read_weights(folder, "image_encoder", SVD, svd_stem("image_encoder"))
    return load_strict(clip, state, source=f"{folder}/image_encoder")


def _check_sizes(part: FolderPart, folder: Path | str, own: Mapping[str, Any], name: str) -> None:
    """Compare sizes before any tensor is read: one line names what differs."""
    stored = read_json(folder, f"{part}/config.json", SVD)
    for key, ours in _SIZES[part].items():
        if key in stored and _plain(stored[key]) != _plain(own[key]):
            raise ValueError(
                f"{folder}/{part}/config.json: expected model.{name}.{ours} = {_plain(stored[key])} as in these "
                f"weights, got {_plain(own[key])}; set it so, or start from other weights."
            )


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON values
    return list(value) if isinstance(value, tuple) else value


def check_svd_scheduler(folder: Path | str, sigma_min: float, sigma_max: float) -> None:
    """Compare a sampler with the scheduler that Stable Video Diffusion's weights come with.

    Args:
        folder: local folder in diffusers layout, or a hub id.
        sigma_min: the sampler's last noise level above 0.
        sigma_max: its first noise level.

    Raises:
        ValueError: another range of noise levels, or weights that predict something else than v at Karras' levels.
    """
    stored = read_json(folder, "scheduler/scheduler_config.json", SVD)
    fixed = {"prediction_type": "v_prediction", "use_karras_sigmas": True, "timestep_type": "continuous"}
    for key, value in {**fixed, "sigma_min": sigma_min, "sigma_max": sigma_max}.items():
        if stored.get(key) == value:
            continue
        way_out = (
            "the denoiser can be no other, start from other weights"
            if key in fixed
            else f"set model.sampler.{key} to it, or model.base_weights.own_sampler to true to keep yours"
        )
        raise ValueError(
            f"{folder}/scheduler/scheduler_config.json: expected {key} = {value} as in the sampler, got "
            f"{stored.get(key)}; {way_out}."
        )


def load_lgm(reconstructor: nn.Module, source: Path | str) -> LoadReport:
    """Load LGM's safetensors into an `LGM`; a time input, which those weights lack, keeps its (neutral) start.

    Args:
        reconstructor: the `LGM`.
        source: the file; or a folder or hub id, of which the release for the reconstructor's `rotation_norm` is taken.

    Raises:
        ValueError: no such file, the release for another `rotation_norm`, or weights of other sizes.
    """
    file = lgm_file(source, str(reconstructor.rotation_norm))
    norms = {release: norm for norm, release in LGM_RELEASES.items()}
    trained = {"position": "absolute", **({"rotation_norm": norms[file.name]} if file.name in norms else {})}
    check_meaning("reconstructor", reconstructor, trained, str(file))
    return load_strict(reconstructor, read_safetensors(file)[0], allow_missing=LGM_TIME_KEYS, source=str(file))


def load_published(network: nn.Module, reconstructor: nn.Module, folder: Path | str) -> tuple[LoadReport, LoadReport]:
    """Load the published Ouroboros3D checkpoint: `mv_model_unet.pth` and `recon_model.pth`, both or none.

    Args:
        network: a `MultiviewUNet` with every switch at `published` and `feedback_maps: [colour, coordinates]`.
        reconstructor: an `LGM` with a time input and `rotation_norm: published`.
        folder: holds both files; or a hub id.

    Raises:
        ValueError: a missing file, switches that the weights were not trained with, or weights of other sizes.
    """
    files = published_files(folder)
    check_meaning("unet", network, _RAYS_PUBLISHED, str(folder))
    check_meaning("reconstructor", reconstructor, _LGM_PUBLISHED, str(folder))
    state = {from_published_key(key): value for key, value in read_torch(files[0]).items()}
    recon = read_torch(files[1])
    check_strict(reconstructor, recon, source=str(files[1]))
    return (
        load_strict(network, state, source=str(files[0])),
        load_strict(reconstructor, recon, source=str(files[1])),
    )


def load_exported(
    parts: Mapping[str, nn.Module], folder: Path | str, allow_missing: tuple[str, ...]
) -> dict[str, LoadReport]:
    """Load a folder that `export` wrote: a sub-folder for each part, with the part's own names.

    Args:
        parts: modules by name, `unet`, `reconstructor`, `image_encoder` and `codec`; those without weights need none.
        folder: local folder, or a hub id.
        allow_missing: as in `load_strict`, for example new adapters.

    Returns:
        a report for each part.

    Raises:
        ValueError: a missing file, or weights that do not fit in shape or in what their output means.
    """
    reports = {}
    for name, module in parts.items():
        if not module.state_dict():
            continue
        check_meaning(name, module, read_json(folder, f"{name}/config.json", EXPORT), str(folder))
        state = read_weights(folder, name, EXPORT)  # type: ignore[arg-type]
        reports[name] = load_strict(module, state, allow_missing=allow_missing, source=f"{folder}/{name}")
    return reports


def from_published_key(key: str) -> str:
    """Our name of a published denoiser key: its adapters' flat residual blocks lie three to a stage in diffusers'."""
    if not key.startswith("cond_encoder."):
        return key
    stage = re.sub(r"\.body\.(\d+)\.in_conv\.", lambda m: f".body.{int(m[1]) // 3}.in_conv.", key)
    return re.sub(
        r"\.body\.(\d+)\.(block\d)\.", lambda m: f".body.{int(m[1]) // 3}.resnets.{int(m[1]) % 3}.{m[2]}.", stage
    )


def to_published_key(key: str) -> str:
    """The published name of one of our denoiser's keys: the inverse of `from_published_key`."""
    if not key.startswith("cond_encoder."):
        return key
    flat = re.sub(r"\.body\.(\d+)\.in_conv\.", lambda m: f".body.{3 * int(m[1])}.in_conv.", key)
    return re.sub(r"\.body\.(\d+)\.resnets\.(\d+)\.", lambda m: f".body.{3 * int(m[1]) + int(m[2])}.", flat)

"""Strict loading and saving of weights: every key is accounted for, nothing is executed from a file.

Sources: folders in diffusers layout (Stable Video Diffusion), LGM safetensors, the published Ouroboros3D checkpoint,
and our own base weights, which describe themselves.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ouroboros3d.files import whole

FolderPart = Literal["unet", "vae", "image_encoder"]

_FILE_STEMS: dict[FolderPart, str] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "image_encoder": "model",
}
_BASE_FORMAT = "ouroboros3d-base-1"
# Buffers that older transformers versions saved and newer ones recompute.
_RECOMPUTED = re.compile(r"(^|\.)embeddings\.position_ids$")

LGM_TIME_KEYS = (r"unet\.time_embed\.", r"\.emb_layers\.")
"""Keys that LGM's own weights lack in a reconstructor with a time input."""

NEW_UNET_KEYS = (r"(down|up)_plucker\.", r"mid_plucker\.", r"cond_encoder\.")
"""Keys that Stable Video Diffusion's weights lack in a `MultiviewUNet`."""

MEANING = ("position", "rotation_norm", "plucker_rays", "plucker_skips")
"""Settings of the networks that weights are trained for, although their shapes do not show it."""

WITHOUT_EFFECT = r"\.attn2\.to_[qk]\."
"""Queries and keys of the U-Net's cross-attention: over one image token the softmax is 1, whatever they are."""


@dataclass(frozen=True)
class LoadReport:
    """What a strict load did.

    Args:
        loaded: keys that were taken.
        missing: keys of the module that the weights lack, all of them allowed; they keep their values.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        """One line for the log."""
        groups = sorted({re.sub(r"\.\d+\..*|\.(weight|bias)$", "", key) for key in self.missing})
        new = f", {len(self.missing)} keys not in the weights keep their initial values: {', '.join(groups)}"
        return f"loaded {len(self.loaded)} tensors" + (new if self.missing else "")


def load_strict(module: nn.Module, state: Mapping[str, Tensor], *, allow_missing: tuple[str, ...] = ()) -> LoadReport:
    """Load weights into a module; every key on either side must be accounted for.

    Args:
        module: takes the values, in its own dtype and on its own device.
        state: names and tensors.
        allow_missing: regular expressions (searched in the key) for keys that `state` may lack.

    Returns:
        the report of every key.

    Raises:
        ValueError: missing keys, unexpected keys and other shapes, all in one message; the module is untouched.
    """
    report = check_strict(module, state, allow_missing=allow_missing)
    # Not a loose load: all that differs was checked and allowed above.
    module.load_state_dict({**module.state_dict(), **{key: state[key] for key in report.loaded}})
    return report


def check_strict(module: nn.Module, state: Mapping[str, Tensor], *, allow_missing: tuple[str, ...] = ()) -> LoadReport:
    """What `load_strict` would do, without doing it; raises where it would."""
    own = module.state_dict()
    absent = [key for key in own if key not in state]
    allowed = [key for key in absent if any(re.search(pattern, key) for pattern in allow_missing)]
    missing = [key for key in absent if key not in set(allowed)]
    unexpected = [key for key in state if key not in own]
    shared = [key for key in own if key in state]
    shapes = [
        f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in shared
        if state[key].shape != own[key].shape
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{len(keys)} {what}: {', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''}"
            for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if keys
        ]
        raise ValueError(
            f"weights of {type(module).__name__}: expected its {len(own)} keys, got {len(state)}; {'; '.join(parts)}. "
            "The sizes in the config must be those of the weights."
        )
    return LoadReport(tuple(shared), tuple(allowed))


def read_safetensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: no such file, or not a safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"{path}: expected a safetensors file, got {'a folder' if path.is_dir() else 'nothing there'}."
        )
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file, got {error}; truncated or of another kind.") from error


def read_torch(path: Path | str) -> dict[str, Tensor]:
    """State dict of a `.pth` file, read weights-only: no code in it is executed.

    Raises:
        ValueError: no such file, or anything in it but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a PyTorch weights file, got nothing there.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged or forbidden content raises many types, none of them documented.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: expected weights that can be read without executing code, got: {reason}") from error
    if isinstance(content, dict) and set(content) == {"state_dict"}:
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: expected a dict of tensors, got {type(content).__name__}.")
    return content


def read_diffusers_folder(folder: Path | str, part: FolderPart) -> dict[str, Tensor]:
    """Weights of one part of a model in diffusers layout: single file, shards, or the half-precision variant.

    Args:
        folder: local folder, or a hub id such as stabilityai/stable-video-diffusion-img2vid, which is downloaded.
        part: sub-folder.

    Raises:
        ValueError: no such folder or file (the message says which, and how to get it).
    """
    root = _local_folder(folder, part) / part
    for suffix in ("", ".fp16"):
        single = root / f"{_FILE_STEMS[part]}{suffix}.safetensors"
        index = root / f"{_FILE_STEMS[part]}.safetensors.index{suffix}.json"
        if single.is_file():
            state = read_safetensors(single)[0]
            break
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            state = {key: value for shard in shards for key, value in read_safetensors(root / shard)[0].items()}
            break
    else:
        raise ValueError(
            f"{root}: expected {_FILE_STEMS[part]}.safetensors (or shards, or .fp16), got none; download Stable Video "
            "Diffusion in diffusers layout, for example with `hf download stabilityai/stable-video-diffusion-img2vid`."
        )
    return {key: value for key, value in state.items() if not _RECOMPUTED.search(key)}


def _local_folder(folder: Path | str, part: FolderPart) -> Path:
    if Path(folder).is_dir():
        return Path(folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder)):
        raise ValueError(
            f"{folder}: expected a folder in diffusers layout or a hub id such as "
            "stabilityai/stable-video-diffusion-img2vid, got neither."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder), allow_patterns=[f"{part}/*"]))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder}: expected a local folder or a reachable hub id, got {type(error).__name__}: {error}; "
            "download it and give the folder."
        ) from error


def load_svd_unet(network: nn.Module, folder: Path | str) -> LoadReport:
    """Load Stable Video Diffusion's U-Net into a `MultiviewUNet`; rays and adapters keep their initial values."""
    state = {f"unet.{key}": value for key, value in read_diffusers_folder(folder, "unet").items()}
    return load_strict(network, state, allow_missing=NEW_UNET_KEYS)


def load_lgm(reconstructor: nn.Module, path: Path | str) -> LoadReport:
    """Load LGM's safetensors into an `LGM`; a time input, which those weights lack, keeps its (neutral) start.

    The legacy release needs `rotation_norm: published`, `model_fp16_fixrot` the default. LPIPS weights that some
    releases carry along are not part of the reconstructor and are left out.
    """
    state = {key: value for key, value in read_safetensors(path)[0].items() if not key.startswith("lpips_loss.")}
    return load_strict(reconstructor, state, allow_missing=LGM_TIME_KEYS)


def load_published(network: nn.Module, reconstructor: nn.Module, folder: Path | str) -> tuple[LoadReport, LoadReport]:
    """Load the published Ouroboros3D checkpoint: `mv_model_unet.pth` and `recon_model.pth` of a folder.

    Args:
        network: a `MultiviewUNet` with `adapter_start: published`, `feedback_maps: [colour, coordinates]`.
        reconstructor: an `LGM` with a time input.
        folder: holds both files.
    """
    state = {from_published_key(key): value for key, value in read_torch(Path(folder) / "mv_model_unet.pth").items()}
    recon = read_torch(Path(folder) / "recon_model.pth")
    recon = {key: value for key, value in recon.items() if not key.startswith("lpips_loss.")}
    check_strict(reconstructor, recon)
    return load_strict(network, state), load_strict(reconstructor, recon)


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


def save_base_weights(
    path: Path | str, parts: Mapping[str, Mapping[str, Tensor]], *, config: Mapping[str, Any], recipe: Mapping[str, Any]
) -> None:
    """Write the weights of several networks as one safetensors file in half precision that describes itself.

    Args:
        path: the file; written under a temporary name and renamed.
        parts: state dicts by network, for example of `unet`, `reconstructor`, `image_encoder`.
        config: sizes of the networks, as JSON.
        recipe: how they were trained (command, data, steps, seed, measured quality), as JSON.

    Raises:
        ValueError: a weight that is not finite in half precision.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    for name, state in parts.items():
        for key, value in state.items():
            half = value.detach().cpu().half() if value.is_floating_point() else value.detach().cpu()
            if not bool(torch.isfinite(half).all()):
                raise ValueError(f"{name}.{key}: expected values that are finite in half precision, got up to {value}.")
            tensors[f"{name}.{key}"] = half.contiguous()
    metadata = {
        "format": _BASE_FORMAT,
        "parts": json.dumps(sorted(parts)),
        "config": json.dumps(config, sort_keys=True),
        "recipe": json.dumps(recipe, sort_keys=True),
    }
    with whole(path) as part:
        save_file(tensors, part, metadata=metadata)


def load_base_weights(
    path: Path | str, parts: Mapping[str, nn.Module], *, allow_missing: tuple[str, ...] = ()
) -> dict[str, LoadReport]:
    """Load base weights written by `save_base_weights`, all parts or none.

    Args:
        path: the file.
        parts: networks by name; exactly those of the file.
        allow_missing: as in `load_strict`, for example new adapters.

    Returns:
        a report for each part.

    Raises:
        ValueError: another file, other parts, or weights that do not fit in shape or in what their output means.
    """
    tensors, metadata = read_safetensors(path)
    found = metadata.get("format")
    if found != _BASE_FORMAT:
        raise ValueError(f"{path}: expected base weights ({_BASE_FORMAT}), got {found or 'another file'}.")
    stored = json.loads(metadata["parts"])
    if sorted(parts) != stored:
        raise ValueError(f"{path}: expected weights of {sorted(parts)}, got {stored}.")
    states = {
        name: {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        for name in parts
    }
    config = json.loads(metadata["config"])
    for name, module in parts.items():
        for key in MEANING:
            trained = config.get(name, {}).get("init_args", {}).get(key)
            if trained is not None and trained != getattr(module, key, trained):
                raise ValueError(f"{path}: expected {name}.{key} = {getattr(module, key)}, got weights of {trained}.")
        check_strict(module, states[name], allow_missing=allow_missing)
    return {name: load_strict(module, states[name], allow_missing=allow_missing) for name, module in parts.items()}

"""Where published weights lie and how they are read: nothing in a file is executed, what is missing is named."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import file_exists, hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from torch import Tensor

SVD = "`hf download stabilityai/stable-video-diffusion-img2vid --local-dir FOLDER` gets it"
LGM = "`hf download ashawkey/LGM --local-dir FOLDER` gets it"
PUBLISHED = "`hf download huanngzh/Ouroboros3D-SVD-LGM --local-dir FOLDER` gets it"
EXPORT = "`python -m ouroboros3d export` writes such a folder"
"""How to get the weights that the paper starts from, its own, and ours."""

LGM_RELEASES = {"per_gaussian": "model_fp16_fixrot.safetensors", "published": "model_fp16.safetensors"}
"""LGM's release for each `rotation_norm`."""

FolderPart = Literal["unet", "vae", "image_encoder", "reconstructor", "codec"]
"""Sub-folders with weights in diffusers layout: of Stable Video Diffusion, or of one of our own exports."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


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


def find_file(source: Path | str, names: Sequence[str], get: str) -> Path:
    """The first of some files that a folder or a hub repository has, downloaded where it is not local.

    Args:
        source: local folder, or a hub id.
        names: of files, the preferred one first.
        get: how to get it, for the message.

    Raises:
        ValueError: it has none of them; the message says which, and how to get it.
    """
    wanted = names[0] + (f" (or {', '.join(names[1:])})" if len(names) > 1 else "")
    if Path(source).is_dir():
        for name in names:
            if Path(source, name).is_file():
                return Path(source, name)
        raise ValueError(f"{source}: expected {wanted} in this folder, got none; {get}.")
    if not _HUB_ID.fullmatch(str(source)):
        raise ValueError(f"{source}: expected a folder with {wanted}, or a hub id, got neither; {get}.")
    for name in names:
        if isinstance(cached := try_to_load_from_cache(str(source), name), str):
            return Path(cached)
    nowhere = f"{source}: expected {wanted}, got no such folder, nothing in the hub's cache, and from the hub"
    try:
        for name in names:
            if file_exists(str(source), name):
                return Path(hf_hub_download(str(source), name))
    except Exception as error:
        # Offline, out of reach, access not granted: a dozen types of several libraries.
        raise ValueError(f"{nowhere} {type(error).__name__}; {get}.") from error
    raise ValueError(f"{nowhere} no such file; {get}.")


def weight_files(source: Path | str, part: FolderPart, get: str, stem: str = "diffusion_pytorch_model") -> list[Path]:
    """Files of one part of a model in diffusers layout: one, shards, or those of the half-precision variant.

    Args:
        source: local folder, or a hub id.
        part: sub-folder.
        get: how to get it, for the message.
        stem: of the files' names.

    Raises:
        ValueError: one is missing.
    """
    single, index = f"{part}/{stem}{{}}.safetensors", f"{part}/{stem}.safetensors.index{{}}.json"
    names = [name.format(variant) for variant in ("", ".fp16") for name in (single, index)]
    found = find_file(source, names, get)
    if found.suffix == ".safetensors":
        return [found]
    placed = _json_object(found).get("weight_map")
    if not isinstance(placed, dict):
        raise ValueError(f"{found}: expected a weight_map from keys to files, got none; {get}.")
    shards = sorted(set(placed.values()))
    return [find_file(source, [f"{part}/{shard}"], get) for shard in shards]


def read_weights(
    source: Path | str, part: FolderPart, get: str, stem: str = "diffusion_pytorch_model"
) -> dict[str, Tensor]:
    """Tensors of one part of a model in diffusers layout; arguments and errors as `weight_files`."""
    files = weight_files(source, part, get, stem)
    return {key: value for file in files for key, value in read_safetensors(file)[0].items()}


def read_json(source: Path | str, name: str, get: str) -> dict[str, Any]:
    """A configuration of a folder or a hub repository; arguments and errors as `find_file`."""
    return _json_object(find_file(source, [name], get))


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}.")
    return content


def svd_files(source: Path | str, *, unet: bool) -> list[Path]:
    """Every file that Stable Video Diffusion in diffusers layout is loaded from.

    Args:
        source: local folder, or a hub id.
        unet: whether its U-Net is wanted too.

    Raises:
        ValueError: one is missing.
    """
    parts: list[FolderPart] = [*(["unet"] if unet else []), "vae", "image_encoder"]  # type: ignore[list-item]
    configs = ["scheduler/scheduler_config.json", *(f"{part}/config.json" for part in parts)]
    files = [find_file(source, [name], SVD) for name in configs]
    return files + [file for part in parts for file in weight_files(source, part, SVD, svd_stem(part))]


def svd_stem(part: FolderPart) -> str:
    """The stem of the names of a part's files: transformers and diffusers name theirs apart."""
    return "model" if part == "image_encoder" else "diffusion_pytorch_model"


def lgm_file(source: Path | str, rotation_norm: str) -> Path:
    """LGM's safetensors file.

    Args:
        source: the file; or a folder or hub id, of which the release for `rotation_norm` is taken.
        rotation_norm: the reconstructor's.

    Raises:
        ValueError: no such file, or one whose name says that it is the release for another `rotation_norm`.
    """
    fitting = LGM_RELEASES[rotation_norm]
    if Path(source).suffix != ".safetensors":
        return find_file(source, [fitting], LGM)
    name = Path(source).name
    if name != fitting and name in LGM_RELEASES.values():
        trained = next(norm for norm, release in LGM_RELEASES.items() if release == name)
        raise ValueError(
            f"lgm: expected {fitting}, the release for rotation_norm = {rotation_norm}, got {name}; "
            f"set model.reconstructor.rotation_norm to {trained} or name the other file."
        )
    if not Path(source).is_file():
        raise ValueError(f"lgm: expected LGM's {fitting}, a folder with it, or a hub id, got no file {source}; {LGM}.")
    return Path(source)


def published_files(source: Path | str) -> tuple[Path, Path]:
    """Files of the published denoiser and reconstructor.

    Args:
        source: local folder, or a hub id.

    Raises:
        ValueError: one is missing.
    """
    network, reconstructor = (find_file(source, [name], PUBLISHED) for name in ("mv_model_unet.pth", "recon_model.pth"))
    return network, reconstructor

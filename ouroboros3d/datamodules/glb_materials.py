"""Materials and images of a GLB file: base colour, texture, alpha mode, and nothing that shading alone would need."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ouroboros3d.datamodules.glb_container import AssetError, GlbContainer
from ouroboros3d.renderers.meshes import Material
from ouroboros3d.renderers.textures import WrapMode

MAX_TEXTURE_SIDE = 8192
_WRAPS: dict[int, WrapMode] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_REPEAT: tuple[WrapMode, WrapMode] = ("repeat", "repeat")
_FORMATS = ("PNG", "JPEG", "WEBP")  # what glTF and EXT_texture_webp allow; Pillow has decoders that are less hardened


class MaterialUse(NamedTuple):
    """A material and how its texture is addressed.

    material: what `TexturedMesh` holds.
    texcoord: which TEXCOORD_n the base colour reads.
    uv_matrix: [2, 3] uv' = uv_matrix @ (u, v, 1), from KHR_texture_transform.
    """

    material: Material
    texcoord: int
    uv_matrix: NDArray[np.float64]


def read_material(glb: GlbContainer, index: int, images: dict[int, Tensor]) -> MaterialUse:
    """One material of the file.

    Args:
        glb: the file.
        index: into its materials.
        images: decoded so far, by index; added to, so that materials share them.

    Returns:
        The material; the base colour factor stays linear, as glTF stores it.

    Raises:
        AssetError: a texture is missing, unreadable or too large, or a value is out of range.
    """
    entry = glb.item("materials", index)
    base = entry.get("pbrMetallicRoughness", {})
    glossy = entry.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
    if glossy is not None:  # its diffuse colour is the base colour; pbrMetallicRoughness is then only a fallback
        factor, slot = glossy.get("diffuseFactor", [1, 1, 1, 1]), glossy.get("diffuseTexture")
    else:
        factor, slot = base.get("baseColorFactor", [1, 1, 1, 1]), base.get("baseColorTexture")
    red, green, blue, alpha = (min(max(float(value), 0.0), 1.0) for value in factor)
    cutoff = float(entry.get("alphaCutoff", 0.5))
    mode = entry.get("alphaMode", "OPAQUE")
    if mode not in ("OPAQUE", "MASK", "BLEND"):
        glb.fail(f"materials[{index}].alphaMode: expected OPAQUE, MASK or BLEND, got {str(mode)[:40]!r}")
    if not all(map(math.isfinite, (*map(float, factor), cutoff))):
        glb.fail(f"materials[{index}]: expected finite colour factors, got NaN or infinity")
    material = Material((red, green, blue, alpha), None, _REPEAT, mode, cutoff, bool(entry.get("doubleSided", False)))
    if slot is None:
        return MaterialUse(material, 0, np.eye(3)[:2])
    texture, wrap = _texture(glb, slot["index"], images)
    return MaterialUse(replace(material, texture=texture, wrap=wrap), *_addressing(slot))


def _texture(glb: GlbContainer, index: object, images: dict[int, Tensor]) -> tuple[Tensor, tuple[WrapMode, WrapMode]]:
    """The image and the wrap modes of a texture."""
    entry = glb.item("textures", index)
    source = entry.get("extensions", {}).get("EXT_texture_webp", {}).get("source", entry.get("source"))
    if source is None:
        glb.fail(f"textures[{index}]: expected a PNG, JPEG or WebP source, got {sorted(entry.get('extensions', {}))}")
    sampler = glb.item("samplers", entry["sampler"]) if "sampler" in entry else {}
    wrap = _WRAPS[sampler.get("wrapS", 10497)], _WRAPS[sampler.get("wrapT", 10497)]
    if source not in images:
        image = glb.item("images", source)
        data = glb.view(image["bufferView"]) if "bufferView" in image else glb.uri(image.get("uri"))
        images[source] = torch.from_numpy(decode_image(data, f"images[{source}]", glb.fail))
    return images[source], wrap


def _addressing(slot: dict[str, Any]) -> tuple[int, NDArray[np.float64]]:
    """Texture coordinate set and matrix of a textureInfo (KHR_texture_transform: T * R * S)."""
    transform = slot.get("extensions", {}).get("KHR_texture_transform", {})
    texcoord = transform.get("texCoord", slot.get("texCoord", 0))
    (x, y), (scale_x, scale_y) = transform.get("offset", (0, 0)), transform.get("scale", (1, 1))
    cosine, sine = math.cos(transform.get("rotation", 0)), math.sin(transform.get("rotation", 0))
    return texcoord, np.array([[scale_x * cosine, scale_y * sine, x], [-scale_x * sine, scale_y * cosine, y]])


def decode_image(data: bytes, name: str, fail: Callable[[str], NoReturn]) -> NDArray[np.uint8]:
    """[H, W, 4] uint8 sRGB and straight alpha from the bytes of an image file.

    Args:
        data: PNG, JPEG or WebP.
        name: of the image, for messages.
        fail: raises the asset's error.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if max(image.size) > MAX_TEXTURE_SIDE:
                fail(f"{name}: expected at most {MAX_TEXTURE_SIDE} px a side, got {image.size}")
            if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip at 255
                grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)
            return np.array((image.convert("RGB") if image.mode == "CMYK" else image).convert("RGBA"))
    except AssetError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise SyntaxError, struct.error, zlib.error ... on broken bytes
        fail(f"{name}: expected a PNG, JPEG or WebP image, got {type(error).__name__}: {str(error)[:120]}")

"""Materials and images of a GLB file: base colour, texture, alpha mode, and nothing that shading alone would need."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ouroboros3d.datamodules.glb_container import GlbContainer
from ouroboros3d.datamodules.texture_files import Textures
from ouroboros3d.renderers.meshes import Material
from ouroboros3d.renderers.textures import WrapMode

_WRAPS: dict[int, WrapMode] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_REPEAT: tuple[WrapMode, WrapMode] = ("repeat", "repeat")


class MaterialUse(NamedTuple):
    """A material and how its texture is addressed.

    material: what `TexturedMesh` holds.
    texcoord: which TEXCOORD_n the base colour reads.
    uv_matrix: [2, 3] uv' = uv_matrix @ (u, v, 1), from KHR_texture_transform.
    """

    material: Material
    texcoord: int
    uv_matrix: NDArray[np.float64]


def read_material(glb: GlbContainer, index: int, textures: Textures) -> MaterialUse:
    """One material of the file.

    Args:
        glb: the file.
        index: into its materials.
        textures: of the file, which materials share.

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
    texture, wrap = _texture(glb, slot["index"], textures)
    return MaterialUse(replace(material, texture=texture, wrap=wrap), *_addressing(slot))


def _texture(glb: GlbContainer, index: object, textures: Textures) -> tuple[Tensor, tuple[WrapMode, WrapMode]]:
    """The image and the wrap modes of a texture."""
    entry = glb.item("textures", index)
    source = entry.get("extensions", {}).get("EXT_texture_webp", {}).get("source", entry.get("source"))
    if source is None:
        glb.fail(f"textures[{index}]: expected a PNG, JPEG or WebP source, got {sorted(entry.get('extensions', {}))}")
    sampler = glb.item("samplers", entry["sampler"]) if "sampler" in entry else {}
    wrap = _WRAPS[sampler.get("wrapS", 10497)], _WRAPS[sampler.get("wrapT", 10497)]
    image = glb.item("images", source)

    def content() -> bytes:
        return bytes(glb.view(image["bufferView"])) if "bufferView" in image else glb.uri(image.get("uri"))

    return textures.decoded(f"images[{source}]", content), wrap


def _addressing(slot: dict[str, Any]) -> tuple[int, NDArray[np.float64]]:
    """Texture coordinate set and matrix of a textureInfo (KHR_texture_transform: T * R * S)."""
    transform = slot.get("extensions", {}).get("KHR_texture_transform", {})
    texcoord = transform.get("texCoord", slot.get("texCoord", 0))
    (x, y), (scale_x, scale_y) = transform.get("offset", (0, 0)), transform.get("scale", (1, 1))
    cosine, sine = math.cos(transform.get("rotation", 0)), math.sin(transform.get("rotation", 0))
    return texcoord, np.array([[scale_x * cosine, scale_y * sine, x], [-scale_x * sine, scale_y * cosine, y]])

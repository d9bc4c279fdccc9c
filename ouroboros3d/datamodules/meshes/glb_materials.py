"""Materials and images of a GLB file: base colour, texture, alpha mode, and nothing that shading alone would need."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ouroboros3d.datamodules.meshes.glb_container import GlbContainer
from ouroboros3d.datamodules.meshes.texture_files import Textures
from ouroboros3d.renderers.meshes import Material
from ouroboros3d.renderers.textures import WrapMode

_WRAPS: dict[int, WrapMode] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_REPEAT: tuple[WrapMode, WrapMode] = ("repeat", "repeat")

_BLACK = 1.5 / 255  # of a linear factor, or a texel


class MaterialUse(NamedTuple):
    """A material and how its texture is addressed.

    material: what `TexturedMesh` holds.
    texcoord: which TEXCOORD_n the base colour reads.
    uv_matrix: [2, 3] uv' = uv_matrix @ (u, v, 1), from KHR_texture_transform.
    emission: whether it is the light that the material gives off, which colours of vertices do not act on.
    note: what the file says in another way than it is shown; empty for nothing.
    """

    material: Material
    texcoord: int
    uv_matrix: NDArray[np.float64]
    emission: bool = False
    note: str = ""


def read_material(glb: GlbContainer, index: int, textures: Textures) -> MaterialUse:
    """One material of the file.

    Unlit pictures are often stored as the emission of a black material, which then is shown in place of black.

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
    material = Material((red, green, blue, alpha), None, _REPEAT, mode, cutoff)
    use = MaterialUse(material, 0, np.eye(3)[:2])
    if slot is not None:
        texture, wrap = _texture(glb, slot["index"], textures)
        use = MaterialUse(replace(material, texture=texture, wrap=wrap), *_addressing(slot))
    return _shining(glb, entry, use, textures) if max(red, green, blue) < _BLACK or _is_black(use) else use


def _is_black(use: MaterialUse) -> bool:
    """Whether the texture makes it black, as sRGB in 8 bits."""
    texture = use.material.texture
    return texture is not None and int(texture[..., :3].max()) < _BLACK * 255


def _shining(glb: GlbContainer, entry: dict[str, Any], black: MaterialUse, textures: Textures) -> MaterialUse:
    """A black material's emission in place of its base colour, with the alpha of that; itself if it has none."""
    strength = float(entry.get("extensions", {}).get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1))
    red, green, blue = (min(max(float(value) * strength, 0.0), 1.0) for value in entry.get("emissiveFactor", [0, 0, 0]))
    if not max(red, green, blue) >= _BLACK:
        return black
    slot, material = entry.get("emissiveTexture"), black.material
    factor = (red, green, blue, material.base_colour_linear[3])
    note = "a black base colour: the emission is shown in its place"
    if slot is None and (material.texture is None or material.alpha_mode == "OPAQUE"):
        return MaterialUse(replace(material, base_colour_linear=factor, texture=None), 0, np.eye(3)[:2], True, note)
    if slot is None:
        assert material.texture is not None
        white = torch.cat([torch.full_like(material.texture[..., :3], 255), material.texture[..., 3:]], dim=-1)
        return black._replace(
            material=replace(material, base_colour_linear=factor, texture=white), emission=True, note=note
        )
    texture, wrap = _texture(glb, slot["index"], textures)
    texcoord, uv_matrix = _addressing(slot)
    if material.alpha_mode != "OPAQUE":  # the picture's own alpha does not count
        alpha = torch.full_like(texture[..., 3:], 255)
        if material.texture is not None:
            there = (texcoord, uv_matrix.tolist(), wrap, texture.shape)
            if there != (black.texcoord, black.uv_matrix.tolist(), material.wrap, material.texture.shape):
                return black._replace(
                    note="a black base colour: its emission and its alpha differ in layout; not shown"
                )
            alpha = material.texture[..., 3:]
        texture = torch.cat([texture[..., :3], alpha], dim=-1)
    shown = replace(material, base_colour_linear=factor, texture=texture, wrap=wrap)
    return MaterialUse(shown, texcoord, uv_matrix, True, note)


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

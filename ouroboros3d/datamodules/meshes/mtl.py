"""Materials of OBJ files (MTL): what decides on the base colour, and word of the rest.

Source: Wavefront's specification of MTL ("Object Files", appendix B1, and "Material Library File"), and where programs
write otherwise what their files mean.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from ouroboros3d.datamodules.meshes.assembly import MeshFile, unit_range
from ouroboros3d.datamodules.meshes.text_meshes import file_named, leads_out, numbers, one_name, refuse_name, text_lines
from ouroboros3d.datamodules.meshes.texture_files import Textures
from ouroboros3d.datamodules.untrusted import IMAGE_FORMATS, MAX_ASSET_BYTES, read_regular
from ouroboros3d.renderers.meshes import Material
from ouroboros3d.renderers.textures import WrapMode, srgb_to_linear

_SCANNED = "materials/textures"  # of Google Scanned Objects
_READ = frozenset({"kd", "d", "tr", "ke", "map_kd", "map_d", "map_ke"})
# Shading, reflections and bumps: what they are is known, and that the base colour does not depend on them.
_WITHOUT_EFFECT = frozenset({
    *("ka", "ks", "ns", "ni", "tf", "illum", "sharpness", "map_ka", "map_ks", "map_ns", "map_aat", "map_tf"),
    *("bump", "map_bump", "disp", "map_disp", "refl", "map_refl", "norm", "map_norm", "map_ni", "map_illum"),
    *("pr", "pm", "ps", "pc", "pcr", "aniso", "anisor", "map_pr", "map_pm", "map_ps", "map_pc", "map_pcr", "map_rma"),
    *("map_orm", "map_ao"),
})  # fmt: skip
# Of textures: how many words follow, and what changes no colour as it is painted here. The others are read.
_PAINTED_ALIKE = {"-blendu": 1, "-blendv": 1, "-boost": 1, "-bm": 1, "-cc": 1, "-imfchan": 1, "-texres": 1, "-type": 1}
_BLACK = 0.5 / 255


class MtlEntry(NamedTuple):
    """A material as it is written.

    path: of the MTL file.
    name: of the material.
    lines: the last line of each keyword, in lower case.
    tr_is_opacity: whether the library has `Tr` say how opaque its materials are.
    """

    path: Path
    name: str
    lines: dict[str, str]
    tr_is_opacity: bool


class MtlMaterial(NamedTuple):
    """A material as it is read.

    material: what `TexturedMesh` holds.
    uv_matrix: [2, 3] uv' = uv_matrix @ (u, v, 1), with v counted from above; None for no change.
    notes: what else the file says, or says in another way than it is shown.
    """

    material: Material
    uv_matrix: NDArray[np.float64] | None
    notes: tuple[str, ...]


class _Picture(NamedTuple):
    """A texture as a line names it: its file, scale and offset of its coordinates, whether it ends at its borders."""

    name: str
    scale: tuple[float, float]
    offset: tuple[float, float]
    clamped: bool


def read_mtl(file: MeshFile, path: Path) -> dict[str, MtlEntry]:
    """The materials of an MTL file by their names.

    `Tr` is 1 - `d`, but some programs write `d` under that name. A library with materials of `Tr 1` that would hide
    them, and with none of `Tr 0`, is from one of them.

    Raises:
        AssetError: the file cannot be read.
    """
    try:
        content = read_regular(path, MAX_ASSET_BYTES)
    except OSError as error:
        file.fail(f"expected its materials in {path}, got {error.strerror or error}")
    entries: dict[str, dict[str, str]] = {}
    lines: dict[str, str] = {}
    for _, keyword, rest in text_lines(content):
        if keyword == "newmtl":
            lines = entries.setdefault(one_name(rest), {})
        else:
            lines[keyword] = rest
    alone = [_share(file, path, entry, "tr") for entry in entries.values() if "tr" in entry and "d" not in entry]
    opacity = bool(alone) and max(alone) == 1 and min(alone) > 0
    return {name: MtlEntry(path, name, entry, opacity) for name, entry in entries.items()}


def material_of(file: MeshFile, entry: MtlEntry, textures: Textures) -> MtlMaterial:
    """What a material looks like.

    Raises:
        AssetError: a texture is missing or unreadable, or a line says what cannot be shown.
    """
    lines = entry.lines
    notes = [f"{keyword}: no effect on the base colour" for keyword in lines if keyword in _WITHOUT_EFFECT]
    notes += [f"{keyword}: not understood" for keyword in lines if keyword not in _WITHOUT_EFFECT | _READ]
    if "decal" in lines:
        file.fail(f"material {entry.name!r}: expected base colours without decal, got one; convert it to GLB")
    colour, glow = _colour(file, entry), _emission(lines.get("ke", ""))
    alpha, picture = _alpha(file, entry), _picture(file, entry, "map_kd")
    if "tr" in lines and "d" not in lines and entry.tr_is_opacity:
        notes.append("Tr: read as opacity, since as transparency it would hide its materials")
    black = colour is not None and max(colour) < _BLACK
    if black and picture is not None:
        notes.append("Kd 0 0 0 beside map_Kd: the texture is shown as it is, as viewers do")
        colour = None
    elif black and ("map_ke" in lines or max(glow) >= _BLACK):
        notes.append("Kd 0 0 0: the emission (Ke, map_Ke) is shown in place of black")
        picture = _picture(file, entry, "map_ke")
        colour = None if picture is not None and max(glow) < _BLACK else glow
    elif "map_ke" in lines or max(glow) >= _BLACK:
        notes.append("ke: no effect on the base colour")
    mask = _picture(file, entry, "map_d")
    if mask is not None and (picture is None or _alike(mask) != _alike(picture)):
        file.fail(
            f"material {entry.name!r}: expected map_d to be the alpha of map_Kd {lines.get('map_kd')!r}, got "
            f"{lines['map_d']!r}; convert it to GLB"
        )
    red, green, blue = srgb_to_linear(torch.tensor(colour or (1.0, 1.0, 1.0))).tolist()
    mode: WrapMode = "clamp" if picture is not None and picture.clamped else "repeat"
    material = Material(
        (red, green, blue, alpha),
        None if picture is None else _texture(file, entry, picture.name, textures),
        (mode, mode),
        alpha_mode="BLEND" if mask is not None or alpha < 1 else "OPAQUE",
    )
    return MtlMaterial(material, None if picture is None else _uv_matrix(picture), tuple(notes))


def _share(file: MeshFile, path: Path, lines: Mapping[str, str], keyword: str) -> float:
    """The number in [0, 1] that a line ends with; `-halo` before it makes edges more opaque, which is not shown."""
    words = numbers(lines[keyword])
    try:
        value = float(words[-1])
    except (IndexError, ValueError):
        value = float("nan")
    if not -1e-3 <= value <= 1 + 1e-3:
        file.fail(f"expected {keyword} of 0 to 1 in {path}, got {lines[keyword][:60]!r}")
    return min(max(value, 0.0), 1.0)


def _alpha(file: MeshFile, entry: MtlEntry) -> float:
    if "d" in entry.lines:
        return _share(file, entry.path, entry.lines, "d")
    value = _share(file, entry.path, entry.lines, "tr") if "tr" in entry.lines else None
    return 1.0 if value is None else value if entry.tr_is_opacity else 1 - value


def _emission(rest: str) -> tuple[float, float, float]:
    """sRGB of a line of emission, which may be brighter than white; black where it says nothing else."""
    try:
        red, green, blue = np.broadcast_to([float(word) for word in numbers(rest)[:3]], 3).clip(0, 1).tolist()
    except ValueError:
        return 0.0, 0.0, 0.0
    return red, green, blue


def _colour(file: MeshFile, entry: MtlEntry) -> tuple[float, float, float] | None:
    """sRGB of the material, of which one number says grey; None without the line."""
    if "kd" not in entry.lines:
        return None
    try:
        values = np.array([float(word) for word in numbers(entry.lines["kd"])[:3]])
        if len(values) not in (1, 3):
            raise ValueError(f"{len(values)} numbers")
        red, green, blue = np.broadcast_to(unit_range(values, "a colour"), 3).tolist()
    except ValueError as error:
        line = f"Kd {entry.lines['kd']}"
        file.fail(f"material {entry.name!r}: expected a colour of three numbers, got {line[:60]!r} ({error})")
    return red, green, blue


def _picture(file: MeshFile, entry: MtlEntry, keyword: str) -> _Picture | None:
    """The texture that a line names, behind its options."""
    if keyword not in entry.lines:
        return None

    def refuse(found: str) -> NoReturn:
        file.fail(f"material {entry.name!r}: expected {keyword} to be shown as it is, got {found!r}; convert it to GLB")

    rest, scale, offset, clamped = entry.lines[keyword], (1.0, 1.0), (0.0, 0.0), False
    while rest.startswith("-"):
        option, *words = rest.split()
        if option in _PAINTED_ALIKE:
            count = _PAINTED_ALIKE[option]
        elif option == "-clamp":
            clamped, count = words[:1] == ["on"], 1
        elif option in ("-s", "-o", "-t", "-mm"):
            values = _leading_numbers(words)
            count = len(values)
            if option == "-s":
                scale = (values[0], values[1] if count > 1 else 1.0)
            elif option == "-o":
                offset = (values[0], values[1] if count > 1 else 0.0)
            elif any(values) if option == "-t" else values != [0, 1]:
                refuse(f"{option} {' '.join(words[:count])}")
        else:
            refuse(option)
        rest = rest.split(None, count + 1)[count + 1] if len(words) > count else ""
    if not rest:
        refuse(entry.lines[keyword] or "no file")
    return _Picture(rest, scale, offset, clamped)


def _alike(picture: _Picture) -> _Picture:
    return picture._replace(name=picture.name.replace("\\", "/").casefold())


def _leading_numbers(words: list[str]) -> list[float]:
    """The numbers that the words begin with: at least one, at most three."""
    values: list[float] = []
    for word in words[:3]:
        try:
            values.append(float(word))
        except ValueError:
            break
    if not values:
        raise ValueError(f"an option without numbers before {words[:1]}")
    return values


def _uv_matrix(picture: _Picture) -> NDArray[np.float64] | None:
    """Scale and offset, which act on v from below, as a matrix for v from above."""
    (scale_u, scale_v), (offset_u, offset_v) = picture.scale, picture.offset
    if (scale_u, scale_v, offset_u, offset_v) == (1, 1, 0, 0):
        return None
    return np.array([[scale_u, 0, offset_u], [0, scale_v, 1 - scale_v - offset_v]])


def _texture(file: MeshFile, entry: MtlEntry, name: str, textures: Textures) -> torch.Tensor:
    folder = entry.path.parent
    # TGA has no mark of its own, so that of other formats would be taken for it.
    formats = (*IMAGE_FORMATS, "BMP", "TGA") if ".tga" in name.casefold() else (*IMAGE_FORMATS, "BMP")
    return textures.decoded(str(folder / name), partial(_texture_content, file, folder, name), formats)


def _texture_content(file: MeshFile, folder: Path, name: str) -> bytes:
    """The one content that the texture of this name has in the places where it may be."""
    places = [(folder, folder)]
    if (folder.parent / _SCANNED).is_dir():
        places += [(folder.parent / _SCANNED, folder.parent), (folder.parent, folder.parent)]
    paths = [file_named(file, place, name, root) for place, root in places]
    found = {path: read_regular(path, MAX_ASSET_BYTES) for path in paths if path is not None}
    if not found and leads_out(name):
        refuse_name(file, name)
    if len(set(found.values())) != 1:
        where = " and ".join(map(str, found)) or f"none in {', '.join(str(place) for place, _ in places)}"
        file.fail(f"expected one texture {name!r}, got {where}")
    return next(iter(found.values()))

"""Wavefront OBJ files with their MTL materials; whatever is wrong with them becomes one `AssetError`.

Read here and not through trimesh, which renders an object grey where a material or a texture is missing, and drops
indices out of range, in silence.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ouroboros3d.datamodules.meshes.assembly import MeshFile, unit_range
from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.meshes.mtl import MtlEntry, MtlMaterial, material_of, read_mtl
from ouroboros3d.datamodules.meshes.polygons import triangulated
from ouroboros3d.datamodules.meshes.text_meshes import (
    file_named,
    leads_out,
    named,
    numbers,
    one_name,
    refuse_name,
    text_lines,
)
from ouroboros3d.datamodules.meshes.texture_files import Textures
from ouroboros3d.datamodules.untrusted import MAX_FACES, MAX_NUMBERS, reraise_as
from ouroboros3d.renderers.meshes import Material, TexturedMesh

# Free-form surfaces, and what comes from other files: geometry and pictures that are not read.
_GEOMETRY = frozenset({"surf", "call", "csh"})
_NAMES_AND_NORMALS = frozenset({
    *("vn", "g", "o", "s", "mg", "lod", "bevel", "c_interp", "d_interp", "usemap", "maplib", "shadow_obj", "trace_obj"),
    *("cstype", "deg", "bmat", "step", "vp", "curv", "curv2", "parm", "trim", "hole", "scrv", "sp", "end", "con"),
})  # fmt: skip


def load_obj(path: Path) -> TexturedMesh:
    """Read every face of an OBJ file, cut into triangles; lines and points are left out.

    Colours of vertices and materials (`Kd`) are sRGB values, as programs without colour management show them. A texture
    is looked for beside its MTL file; in the layout of Google Scanned Objects, whose MTL files name a place where the
    texture is not, also in `../materials/textures` and in the object's folder.

    Args:
        path: the file; its materials and textures must lie in its folder, or in that layout.

    Returns:
        The mesh in the file's own world, not normalised.

    Raises:
        AssetError: a file is missing, unreadable or broken, or a texture is there twice with different content.
    """
    file = MeshFile(path)
    with reraise_as(AssetError, f"{path}: expected a valid OBJ file"):
        parts = _Parts(file)
        for number, keyword, rest in text_lines(file.data):
            try:
                parts.add(keyword, rest)
            except AssetError:
                raise
            except ValueError as error:
                file.fail(f"expected a valid line {number}, got {f'{keyword} {rest}'[:60]!r} ({error})")
        return parts.mesh()


@dataclass
class _Parts:
    """What has been read of a file so far."""

    file: MeshFile
    vertices: list[list[float]] = field(default_factory=list)
    coloured: list[int] = field(default_factory=list)  # those of the vertices that have colours
    colours: list[list[float]] = field(default_factory=list)
    uv: list[list[float]] = field(default_factory=list)
    corners: list[int] = field(default_factory=list)  # of all polygons, one after another
    corner_uv: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    polygon_material: list[int] = field(default_factory=list)
    known: dict[str, MtlEntry] = field(default_factory=dict)
    slots: dict[tuple[Path, str], int] = field(default_factory=dict)  # by library and name
    materials: list[MtlMaterial] = field(default_factory=list)
    slot: int = -1
    notes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Open the textures, which all MTL files of the object share."""
        self.textures = Textures(self.file.path)

    def add(self, keyword: str, rest: str) -> None:
        """Take in one line of the file."""
        if keyword == "v":
            values = [float(word) for word in numbers(rest)]
            if len(values) not in (3, 4, 6):
                raise ValueError("a vertex has 3 numbers, and 3 more for its colour")
            if len(self.vertices) >= MAX_NUMBERS // 3:
                self.file.fail(f"expected at most {MAX_NUMBERS // 3} vertices, got more")
            if len(values) == 6:
                self.coloured.append(len(self.vertices))
                self.colours.append(values[3:])
            self.vertices.append(values[:3])
        elif keyword == "vt":
            u, v, *_ = [*map(float, numbers(rest)), 0.0, 0.0]
            if len(self.uv) >= MAX_NUMBERS // 2:
                self.file.fail(f"expected at most {MAX_NUMBERS // 2} texture coordinates, got more")
            self.uv.append([u, 1 - v])  # OBJ counts from the lower left corner
        elif keyword in ("f", "fo"):  # codespell:ignore fo
            self._face(numbers(rest))
        elif keyword == "usemtl":
            self._use(one_name(rest))
        elif keyword == "mtllib":
            # A library's first material of a name counts, a later line's before those of earlier ones.
            for path in reversed(_libraries(self.file, rest)):
                self.known = self.known | read_mtl(self.file, path)
        elif keyword in _GEOMETRY or (keyword == "usemap" and rest.lower() != "off"):
            self.file.fail(f"expected polygons and materials, got a line of {keyword!r}; convert it to GLB")
        elif keyword in ("l", "p"):
            self.notes.add("lines and points are left out")
        elif keyword not in _NAMES_AND_NORMALS:
            self.notes.add(f"{keyword[:20]}: not understood")

    def _use(self, name: str) -> None:
        entry = named(self.known, name)
        if entry is None:
            self.file.fail(f"expected material {name!r} in its MTL files, got {sorted(self.known) or 'none'}")
        self.slot = self.slots.setdefault((entry.path, entry.name), len(self.materials))
        if self.slot == len(self.materials):
            self.materials.append(material_of(self.file, entry, self.textures))
            self.notes |= set(self.materials[-1].notes)

    def _face(self, corners: Sequence[str]) -> None:
        if len(corners) < 3:
            raise ValueError("a face has at least 3 corners")
        indices = [corner.split("/") for corner in corners]
        places = [_place(words[0], len(self.vertices)) for words in indices]
        textured = all(len(words) > 1 and words[1] for words in indices)
        coordinates = [_place(words[1], len(self.uv)) for words in indices] if textured else [-1] * len(places)
        self.corners += places
        self.corner_uv += coordinates
        self.lengths.append(len(places))
        if len(self.corners) - 2 * len(self.lengths) > MAX_FACES:
            self.file.fail(f"expected at most {MAX_FACES} triangles, got more")
        if self.slot < 0:
            self.slot = len(self.materials)
            self.materials.append(MtlMaterial(Material(), None, ()))
        self.polygon_material.append(self.slot)

    def mesh(self) -> TexturedMesh:
        """Put all that was read into one mesh."""
        points = np.array(self.vertices).reshape(-1, 3)
        corners = np.array(self.corners, dtype=np.int64)
        triangles, polygon = triangulated(points[corners], np.array(self.lengths, dtype=np.int64))
        uv = np.array([*self.uv, [0.0, 0.0]])  # the last one is for faces without
        colours = np.ones((len(points), 4))
        colours[self.coloured, :3] = unit_range(np.array(self.colours).reshape(-1, 3), "colours of vertices")
        material_index = np.array(self.polygon_material, dtype=np.int64)[polygon]
        face_uv = uv[np.array(self.corner_uv, dtype=np.int64)[triangles]]
        for slot, use in enumerate(self.materials):
            if use.uv_matrix is not None:
                own = material_index == slot
                face_uv[own] = face_uv[own] @ use.uv_matrix[:, :2].T + use.uv_matrix[:, 2]
        return self.file.mesh(
            points,
            corners[triangles],
            uv=face_uv,
            material_index=material_index,
            materials=[use.material for use in self.materials] or [Material()],
            colours_srgb=colours if self.coloured else None,
            notes=tuple(sorted(self.notes)),
        )


def _place(word: str, count: int) -> int:
    """An index from 0 on; OBJ counts from 1, or backwards from the last line so far."""
    index = int(word)
    place = index - 1 if index > 0 else count + index
    if index == 0 or not 0 <= place < count:
        raise ValueError(f"expected an index of {count} lines, got {index}")
    return place


def _libraries(file: MeshFile, rest: str) -> list[Path]:
    """The MTL files that a line names: one, whose name may have spaces, or several."""
    whole = file_named(file, file.path.parent, rest)
    if whole is not None:
        return [whole]
    # A name ends with its ending, since names and what lies between them may hold spaces alike.
    names = re.findall(r"\S.*?\.mtl(?=\s|$)", rest, re.IGNORECASE) or [rest]
    found = [(name, file_named(file, file.path.parent, name)) for name in names]
    for name, path in found:
        if path is None and leads_out(name):
            refuse_name(file, name)
        if path is None:
            file.fail(f"expected its materials in {file.path.parent / name}, got no such file")
    return [path for _, path in found if path is not None]

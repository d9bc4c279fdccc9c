"""Wavefront OBJ files with their MTL materials; whatever is wrong with them becomes one `AssetError`.

Read here and not through trimesh, which renders an object grey where a material or a texture is missing, and drops
indices out of range, in silence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from ouroboros3d.datamodules.glb_container import AssetError
from ouroboros3d.datamodules.mesh_file import MeshFile
from ouroboros3d.datamodules.mesh_parts import unit_range
from ouroboros3d.datamodules.polygons import triangulated
from ouroboros3d.datamodules.texture_files import Textures
from ouroboros3d.datamodules.untrusted import MAX_ASSET_BYTES, MAX_FACES, MAX_NUMBERS, read_regular, refusing
from ouroboros3d.renderers.meshes import Material, TexturedMesh
from ouroboros3d.renderers.textures import srgb_to_linear

_SCANNED = "materials/textures"  # of Google Scanned Objects


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
    with refusing(AssetError, f"{path}: expected a valid OBJ file"):
        parts = _Parts(file)
        text = file.data.decode("utf-8", errors="replace").replace("\\\n", " ").replace("\\\r\n", " ")
        for number, line in enumerate(text.splitlines(), 1):
            try:
                parts.add(line)
            except AssetError:
                raise
            except ValueError as error:
                file.fail(f"expected a valid line {number}, got {line[:60]!r} ({error})")
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
    known: dict[str, Material] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    slot: int = -1

    def __post_init__(self) -> None:
        """The textures of all its MTL files."""
        self.textures = Textures(self.file.path)

    def add(self, line: str) -> None:
        """One line of the file."""
        keyword, _, rest = line.strip().partition(" ")
        if keyword == "v":
            values = [float(word) for word in rest.split()]
            if len(values) not in (3, 4, 6):
                raise ValueError("a vertex has 3 numbers, and 3 more for its colour")
            if len(self.vertices) >= MAX_NUMBERS // 3:
                self.file.fail(f"expected at most {MAX_NUMBERS // 3} vertices, got more")
            if len(values) == 6:
                self.coloured.append(len(self.vertices))
                self.colours.append(values[3:])
            self.vertices.append(values[:3])
        elif keyword == "vt":
            u, v, *_ = [*map(float, rest.split()), 0.0, 0.0]
            if len(self.uv) >= MAX_NUMBERS // 2:
                self.file.fail(f"expected at most {MAX_NUMBERS // 2} texture coordinates, got more")
            self.uv.append([u, 1 - v])  # OBJ counts from the lower left corner
        elif keyword == "f":
            self._face(rest.split())
        elif keyword == "usemtl":
            name = rest.strip()
            if name not in self.known:
                self.file.fail(f"expected material {name!r} in its MTL files, got {sorted(self.known) or 'none'}")
            self.slot = self.slots.setdefault(name, len(self.slots))
        elif keyword == "mtllib":
            self.known |= _read_mtl(self.file, rest.strip(), self.textures)

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
            self.slot = self.slots.setdefault("", len(self.slots))
        self.polygon_material.append(self.slot)

    def mesh(self) -> TexturedMesh:
        """Everything, in one mesh."""
        points = np.array(self.vertices).reshape(-1, 3)
        corners = np.array(self.corners, dtype=np.int64)
        triangles, polygon = triangulated(points[corners], np.array(self.lengths, dtype=np.int64))
        uv = np.array([*self.uv, [0.0, 0.0]])  # the last one is for faces without
        colours = np.ones((len(points), 4))
        colours[self.coloured, :3] = unit_range(np.array(self.colours).reshape(-1, 3), "colours of vertices")
        materials = [self.known[name] if name else Material() for name in self.slots]
        return self.file.mesh(
            points,
            corners[triangles],
            uv=uv[np.array(self.corner_uv, dtype=np.int64)[triangles]],
            material_index=np.array(self.polygon_material, dtype=np.int64)[polygon],
            materials=materials or [Material()],
            colours_srgb=colours if self.coloured else None,
        )


def _place(word: str, count: int) -> int:
    """An index from 0 on; OBJ counts from 1, or backwards from the last line so far."""
    index = int(word)
    place = index - 1 if index > 0 else count + index
    if index == 0 or not 0 <= place < count:
        raise ValueError(f"expected an index of {count} lines, got {index}")
    return place


def _read_mtl(file: MeshFile, name: str, textures: Textures) -> dict[str, Material]:
    """The materials of an MTL file by their names."""
    path = _inside(file, file.path.parent, name)
    try:
        lines = read_regular(path, MAX_ASSET_BYTES).decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        file.fail(f"expected its materials in {path}, got {error.strerror or error}")
    entries: dict[str, dict[str, str]] = {}
    entry: dict[str, str] = {}
    for line in lines:
        keyword, _, rest = line.strip().partition(" ")
        if keyword == "newmtl":
            entry = entries.setdefault(rest.strip(), {})
        elif keyword in ("Kd", "d", "Tr", "map_Kd", "map_d"):
            entry[keyword] = rest.strip()
    return {name: _material(file, path.parent, entry, textures) for name, entry in entries.items()}


def _material(file: MeshFile, folder: Path, entry: dict[str, str], textures: Textures) -> Material:
    colour = torch.tensor([float(word) for word in entry.get("Kd", "1 1 1").split()[:3]]).clamp(0, 1)
    alpha = float(entry["d"].split()[-1]) if "d" in entry else 1 - float(entry.get("Tr", 0))
    red, green, blue = srgb_to_linear(colour.expand(3)).tolist()
    name, masked = entry.get("map_Kd"), "map_d" in entry
    if masked and entry["map_d"] != name:
        file.fail(f"expected map_d to be the alpha of map_Kd {name!r}, got {entry['map_d']!r}; convert it to GLB")
    texture = None if name is None else textures.decoded(str(folder / name), partial(_texture, file, folder, name))
    return Material(
        (red, green, blue, min(max(alpha, 0.0), 1.0)),
        texture,
        alpha_mode="BLEND" if masked or alpha < 1 else "OPAQUE",
    )


def _texture(file: MeshFile, folder: Path, name: str) -> bytes:
    """The one content that the texture of this name has in the places where it may be."""
    if name.startswith("-"):
        file.fail(f"expected textures without options, got {name!r}; convert it to GLB")
    places = [_inside(file, folder, name)]
    if (folder.parent / _SCANNED).is_dir():
        places += [_inside(file, folder.parent, f"{_SCANNED}/{name}"), _inside(file, folder.parent, name)]
    found = {path: read_regular(path, MAX_ASSET_BYTES) for path in places if path.is_file()}
    if len(set(found.values())) != 1:
        where = " and ".join(map(str, found)) or f"none in {', '.join(str(path.parent) for path in places)}"
        file.fail(f"expected one texture {name!r}, got {where}")
    return next(iter(found.values()))


def _inside(file: MeshFile, folder: Path, name: str) -> Path:
    """A file by its name, which does not lead out of the folder, not by a link either."""
    relative = PurePosixPath(name.replace("\\", "/"))
    path = folder / relative
    if (
        not name
        or relative.is_absolute()
        or ".." in relative.parts
        or ":" in name
        or not path.resolve().is_relative_to(folder.resolve())
    ):
        file.fail(f"expected names of files inside its folder, got {name!r}")
    return path

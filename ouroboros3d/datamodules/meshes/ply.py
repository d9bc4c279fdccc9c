"""Polygon files (PLY), ASCII or binary, with or without colours of vertices or faces."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.datamodules.meshes.assembly import MeshFile, unit_range
from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.meshes.polygons import triangulated
from ouroboros3d.datamodules.untrusted import MAX_FACES, MAX_NUMBERS, reraise_as
from ouroboros3d.renderers.meshes import TexturedMesh

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}


class _Property(NamedTuple):
    """A property's name, its type, and the type of its length where it is a list."""

    name: str
    kind: str
    length: str | None


_COLOURS = (
    ("red", "green", "blue", "alpha"),
    ("r", "g", "b", "a"),
    ("diffuse_red", "diffuse_green", "diffuse_blue", "diffuse_alpha"),
)


def load_mesh_ply(path: Path) -> TexturedMesh:
    """Read every face of a PLY file; colours are sRGB, and those of faces count where vertices have none.

    Args:
        path: the file.

    Returns:
        The mesh in the file's own world, not normalised.

    Raises:
        AssetError: the file cannot be read, has no faces (a point cloud or Gaussians), or needs a texture.
    """
    file = MeshFile(path)
    head, end, body = file.data.partition(b"end_header")
    if not head.startswith(b"ply") or not end:
        file.fail(f"expected a PLY header, got {file.data[:12]!r}")
    body = body.partition(b"\n")[2]
    lines = head.decode("ascii", errors="replace").splitlines()[1:]
    if textured := next((line for line in lines if line.startswith("comment TextureFile")), None):
        file.fail(f"expected colours of vertices, got {textured!r}; convert it to GLB")
    with reraise_as(AssetError, f"{path}: expected a valid PLY file"):
        order, elements = _header(lines)
        read = _ascii if order == "=" else _binary
        content = read(body, elements, order)
        vertices = content.get("vertex", {})
        stored = np.stack([_numbers(vertices, axis) for axis in "xyz"], axis=1)
        points = stored.astype(np.float64)
        rounded = np.abs(points).max(axis=1, initial=0) if stored.dtype == np.float32 else None
        polygons = content.get("face", {})
        faces, polygon = _triangles(file, points, polygons)
        colours, of_polygons = _colours(vertices, "vertices"), _colours(polygons, "faces")
        if colours is None and of_polygons is not None:  # vertices of their own, since neighbours may differ
            rounded = None if rounded is None else rounded[faces].flatten()
            points, colours = points[faces].reshape(-1, 3), np.repeat(of_polygons[polygon], 3, axis=0)
            faces = np.arange(len(points)).reshape(-1, 3)
        return file.mesh(points, faces, colours_srgb=colours, rounded=rounded)


def _triangles(
    file: MeshFile, points: NDArray[np.float64], element: "Columns"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[F, 3] vertices of all triangles, and [F] the row of the file that each belongs to."""
    polygons = element.get("vertex_indices", element.get("vertex_index"))
    if not isinstance(polygons, _Lists):
        return np.zeros((0, 3), np.int64), np.zeros(0, np.int64)
    places, kept = polygons.values.astype(np.int64), polygons.lengths > 2  # lines have no area
    if len(places) and not (0 <= places.min() and places.max() < len(points)):
        file.fail(f"expected indices of {len(points)} vertices, got {places.min()} to {places.max()}")
    places = places[np.repeat(kept, polygons.lengths)]
    triangles, polygon = triangulated(points[places], polygons.lengths[kept])
    return places[triangles], kept.nonzero()[0][polygon]


def _header(lines: list[str]) -> tuple[str, dict[str, tuple[int, list[_Property]]]]:
    """Byte order (`=` for text), and count and properties of every element."""
    order = ""
    elements: dict[str, tuple[int, list[_Property]]] = {}
    properties: list[_Property] = []
    for line in lines:
        words = line.split()
        if words[:1] == ["format"]:
            order = _ORDERS[words[1]]
        elif words[:1] == ["element"]:
            properties = []
            elements[words[1]] = (int(words[2]), properties)
        elif words[:2] == ["property", "list"]:
            properties.append(_Property(words[4].lower(), _TYPES[words[3]], _TYPES[words[2]]))
        elif words[:1] == ["property"]:
            properties.append(_Property(words[2].lower(), _TYPES[words[1]], None))
    for name, (count, properties) in elements.items():
        # Rows with lists are read one by one, and only polygons have some; rows without properties need no bytes.
        most = MAX_FACES if any(item.length for item in properties) else MAX_NUMBERS
        if not properties or not 0 <= count <= most:
            raise ValueError(f"{count} of {name} with {len(properties)} properties, at most {most} of some are read")
    return order, elements


class _Lists(NamedTuple):
    """A list in every row: the numbers of all, and how many each has."""

    values: NDArray[np.generic]
    lengths: NDArray[np.int64]


Columns = dict[str, NDArray[np.generic] | _Lists]


def _numbers(element: Columns, name: str) -> NDArray[Any]:
    """A property that is one number in every row."""
    column = element[name]
    if isinstance(column, _Lists):
        raise ValueError(f"lists as {name}")
    return column


def _ascii(body: bytes, elements: dict[str, tuple[int, list[_Property]]], order: str) -> dict[str, Columns]:
    words = iter(body.split())
    content: dict[str, Columns] = {}
    for name, (count, properties) in elements.items():
        rows = [[_cell(words, item) for item in properties] for _ in range(count)]
        content[name] = {
            item.name: _column(item, [row[place] for row in rows]) for place, item in enumerate(properties)
        }
    return content


def _cell(words: Iterator[bytes], item: _Property) -> list[float]:
    """The numbers of one property in one row."""
    length = int(next(words)) if item.length else 1
    if length < 0:
        raise ValueError(f"a list of {length}")
    return [float(next(words)) for _ in range(length)]


def _binary(body: bytes, elements: dict[str, tuple[int, list[_Property]]], order: str) -> dict[str, Columns]:
    offset = 0
    content: dict[str, Columns] = {}
    for name, (count, properties) in elements.items():
        # Nearly every file has triangles only: then each row has one length, and all are read at once.
        kinds: list[tuple[str, str, int] | tuple[str, str]] = []
        for item in properties:
            if item.length:
                kinds += [(f"{item.name} length", order + item.length), (item.name, order + item.kind, 3)]
            else:
                kinds.append((item.name, order + item.kind))
        row = np.dtype(kinds)
        fits = len(body) - offset >= count * row.itemsize
        table = np.frombuffer(body, row, count, offset) if fits else np.zeros(0, row)
        lists = [item for item in properties if item.length]
        if fits and all((table[f"{item.name} length"] == 3).all() for item in lists):
            content[name] = {
                item.name: _Lists(table[item.name].reshape(-1), np.full(count, 3)) if item.length else table[item.name]
                for item in properties
            }
            offset += count * row.itemsize
        elif lists:
            content[name], offset = _binary_rows(body, offset, count, properties, order)
        else:
            raise ValueError(f"{len(body) - offset} bytes for {count} of {name}: truncated")
    return content


def _binary_rows(body: bytes, offset: int, count: int, properties: list[_Property], order: str) -> tuple[Columns, int]:
    columns: dict[str, list[list[float]]] = {item.name: [] for item in properties}
    for _ in range(count):
        for item in properties:
            length = 1
            if item.length:
                kind = np.dtype(order + item.length)
                length = int(np.frombuffer(body, kind, 1, offset)[0])
                offset += kind.itemsize
                if length < 0:  # numpy would read to the end of the file
                    raise ValueError(f"a list of {length}")
            kind = np.dtype(order + item.kind)
            columns[item.name].append(np.frombuffer(body, kind, length, offset).tolist())
            offset += length * kind.itemsize
    return {item.name: _column(item, columns[item.name]) for item in properties}, offset


def _column(item: _Property, rows: list[list[float]]) -> NDArray[np.generic] | _Lists:
    """What all rows hold of one property."""
    values = np.array([value for row in rows for value in row]).astype(item.kind)
    return _Lists(values, np.array([len(row) for row in rows], dtype=np.int64)) if item.length else values


def _colours(element: Columns, of: str) -> NDArray[np.float64] | None:
    """[R, 4] sRGB and alpha of every row in [0, 1], None where they have none."""
    for names in _COLOURS:
        if set(names[:3]) <= element.keys():
            rgb = unit_range(np.stack([_numbers(element, name) for name in names[:3]], axis=1), f"colours of {of}")
            alpha = unit_range(_numbers(element, names[3]), f"alphas of {of}") if names[3] in element else None
            return np.column_stack([rgb, np.ones(len(rgb)) if alpha is None else alpha])
    return None

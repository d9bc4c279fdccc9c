"""The container of a binary glTF 2.0 file: header, JSON, buffers and accessors, every length checked before use.

Specification: Khronos glTF 2.0, sections 3.6 (binary data) and 4.4 (GLB layout). Files come from anywhere, so nothing
in them is believed: counts are bounded, offsets stay inside their buffer, and paths inside their folder.
"""

import base64
import binascii
import struct
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from ouroboros3d.datamodules.meshes.errors import AssetError
from ouroboros3d.datamodules.untrusted import MAX_ASSET_BYTES, MAX_NUMBERS, MAX_NUMBERS_READ, parse_json, read_regular

_MAGIC, _JSON_CHUNK, _BIN_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}  # MAT2 and MAT3 are used by no attribute we read

# Both hold the compressed data in a buffer of their own, and where the plain data is, or would be, in the view itself.
_MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")


class GlbContainer:
    """One GLB file in memory.

    Args:
        path: the file; other files that it names are looked for in its folder and nowhere else.

    Raises:
        AssetError: no such file, not a GLB, truncated, or larger than `MAX_ASSET_BYTES`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = read_regular(path, MAX_ASSET_BYTES)
        except OSError as error:
            self.fail(f"expected a readable GLB file, got {error.strerror or type(error).__name__}")
        if len(data) < 20 or struct.unpack_from("<I", data)[0] != _MAGIC:
            self.fail(f"expected a binary glTF file (first bytes 'glTF'), got {data[:4]!r} in {len(data)} bytes")
        _, version, length = struct.unpack_from("<III", data)
        if version != 2:
            self.fail(f"expected glTF version 2, got {version}; convert it to glTF 2")
        if length > len(data):
            self.fail(f"expected {length} bytes as its header says, got {len(data)}: truncated, download it again")
        # Views, since every accessor asks for its part of a buffer that may be as large as the file.
        chunks = self._chunks(memoryview(data)[:length])
        if not chunks or chunks[0][0] != _JSON_CHUNK:
            self.fail("expected a JSON chunk first, got none")
        try:
            tree = parse_json(str(chunks[0][1], "utf-8"))
        except ValueError as error:
            self.fail(f"expected JSON in its first chunk, got {type(error).__name__}: {error}")
        if not isinstance(tree, dict):
            self.fail(f"expected a JSON object in its first chunk, got {type(tree).__name__}")
        self.tree: dict[str, Any] = tree
        self._binary = chunks[1][1] if len(chunks) > 1 and chunks[1][0] == _BIN_CHUNK else None
        self._buffers: dict[int, memoryview] = {}
        self._numbers_read = 0

    def fail(self, reason: str) -> NoReturn:
        """Raise AssetError for this file."""
        raise AssetError(f"{self.path}: {reason}.")

    def item(self, kind: str, index: object) -> dict[str, Any]:
        """Entry `index` of the top-level list `kind`, for example ("accessors", 3)."""
        items = self.tree.get(kind, [])
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(items):
            self.fail(f"expected an index below {len(items)} into its {kind}, got {index!r}")
        if not isinstance(items[index], dict):
            self.fail(f"expected an object in {kind}[{index}], got {type(items[index]).__name__}")
        found: dict[str, Any] = items[index]
        return found

    def spend(self, numbers: int) -> None:
        """Count numbers that are read.

        Raises:
            AssetError: they are more than `MAX_NUMBERS_READ` in all.
        """
        self._numbers_read += numbers
        if self._numbers_read > MAX_NUMBERS_READ:
            self.fail(f"expected at most {MAX_NUMBERS_READ} numbers in all that is shown, got more")

    def accessor(self, index: object) -> NDArray[Any]:
        """The values of an accessor, [count, width] in their stored type; normalised integers become float32.

        Raises:
            AssetError: it reaches beyond its buffer, is larger than `MAX_NUMBERS`, or all of them are too large.
        """
        entry = self.item("accessors", index)
        name = f"accessors[{index}]"
        if entry.get("componentType") not in _COMPONENTS or entry.get("type") not in _WIDTHS:
            self.fail(
                f"{name}: expected a known component and element type, got {entry.get('componentType')!r} "
                f"{entry.get('type')!r}"
            )
        dtype, width = np.dtype(_COMPONENTS[entry["componentType"]]), _WIDTHS[entry["type"]]
        count = self._count(entry.get("count"), f"{name}.count")
        if count * width > MAX_NUMBERS:
            self.fail(f"{name}: expected at most {MAX_NUMBERS} numbers, got {count * width}")
        self.spend(count * width)
        if "bufferView" in entry:
            values = self._strided(entry["bufferView"], entry.get("byteOffset", 0), count, width, dtype, name)
        else:
            values = np.zeros((count, width), dtype)
        if "sparse" in entry:
            sparse = entry["sparse"]
            changed = self._count(sparse["count"], f"{name}.sparse.count")
            self.spend(changed * (1 + width))
            where, what = sparse["indices"], sparse["values"]
            index_type = np.dtype(_COMPONENTS[where["componentType"]])
            rows = self._strided(where["bufferView"], where.get("byteOffset", 0), changed, 1, index_type, name)[:, 0]
            if changed and int(rows.max()) >= count:
                self.fail(f"{name}.sparse: expected indices below {count}, got {int(rows.max())}")
            values[rows.astype(np.int64)] = self._strided(
                what["bufferView"], what.get("byteOffset", 0), changed, width, dtype, name
            )
        if entry.get("normalized", False) and dtype.kind in "iu":
            scaled: NDArray[Any] = np.maximum(values.astype(np.float32) / np.iinfo(dtype).max, -1.0)
            return scaled
        return values

    def view(self, index: object) -> memoryview:
        """The bytes of a buffer view."""
        entry = self.item("bufferViews", index)
        for name in _MESHOPT:
            if name in entry.get("extensions", {}) and self._is_placeholder(entry.get("buffer"), name):
                self.fail(
                    f"expected uncompressed buffers, got {name} alone; decompress it: gltfpack -noq -i "
                    f"{self.path.name} -o plain.glb"
                )
        buffer = self._buffer(entry.get("buffer"))
        start = self._count(entry.get("byteOffset", 0), f"bufferViews[{index}].byteOffset")
        length = self._count(entry.get("byteLength"), f"bufferViews[{index}].byteLength")
        if start + length > len(buffer):
            self.fail(
                f"bufferViews[{index}]: expected an end within {len(buffer)} bytes, got {start + length}: truncated"
            )
        return buffer[start : start + length]

    def uri(self, uri: object) -> bytes:
        """The bytes behind a data URI, or of a file in the asset's own folder.

        Raises:
            AssetError: another scheme, a path out of the folder, or no such file.
        """
        if not isinstance(uri, str):
            self.fail(f"expected a URI, got {type(uri).__name__}")
        if uri.startswith("data:"):
            head, _, body = uri.partition(",")
            if not head.endswith(";base64"):
                self.fail(f"expected base64 in a data URI, got {head[:40]!r}")
            try:
                return base64.b64decode(body, validate=True)
            except binascii.Error as error:
                self.fail(f"expected base64 in a data URI, got {error}")
        folder = self.path.parent.resolve()
        try:
            # A URL's scheme becomes a folder name here, so that http: and file: end as files that do not exist.
            target = (folder / unquote(uri)).resolve()
            if not target.is_relative_to(folder):
                self.fail(f"expected files inside its own folder, got a reference to {uri!r}")
            if not target.is_file():
                self.fail(f"expected the file {uri!r} beside it, got none")
            return read_regular(target, MAX_ASSET_BYTES)
        except AssetError:
            raise
        except (OSError, ValueError, RuntimeError) as error:  # too long, with a NUL, a loop of links, ...
            self.fail(f"expected a readable file {uri[:80]!r} beside it, got {type(error).__name__}")

    def _chunks(self, data: memoryview) -> list[tuple[int, memoryview]]:
        """Type and content of the first two chunks after the 12-byte header, which are all that glTF 2.0 knows."""
        chunks: list[tuple[int, memoryview]] = []
        position = 12
        while position + 8 <= len(data) and len(chunks) < 2:
            length, kind = struct.unpack_from("<II", data, position)
            if position + 8 + length > len(data):
                self.fail(f"expected a chunk of {length} bytes at byte {position}, got {len(data) - position - 8}")
            chunks.append((kind, data[position + 8 : position + 8 + length]))
            position += 8 + length
        return chunks

    def _buffer(self, index: object) -> memoryview:
        entry = self.item("buffers", index)
        assert isinstance(index, int)  # `item` has checked it
        if index not in self._buffers:
            if "uri" in entry:
                content = memoryview(self.uri(entry["uri"]))
            elif index == 0 and self._binary is not None:
                content = self._binary
            else:
                self.fail(f"buffers[{index}]: expected a binary chunk or a URI, got neither")
            length = self._count(entry.get("byteLength"), f"buffers[{index}].byteLength")
            if length > len(content):
                self.fail(f"buffers[{index}]: expected {length} bytes, got {len(content)}: truncated")
            self._buffers[index] = content[:length]
        return self._buffers[index]

    def _is_placeholder(self, index: object, compression: str) -> bool:
        """Whether a buffer has no content, since what belongs there is compressed elsewhere."""
        entry = self.item("buffers", index)
        marked = entry.get("extensions", {}).get(compression, {}).get("fallback", False)
        return "uri" not in entry and (bool(marked) or index != 0 or self._binary is None)

    def _count(self, value: object, name: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
            self.fail(f"{name}: expected a whole number from 0, got {str(value)[:40]}")
        return value

    def _strided(
        self, view: object, offset: object, count: int, width: int, dtype: np.dtype[Any], name: str
    ) -> NDArray[Any]:
        """A copy of [count, width] numbers inside a buffer view."""
        data, start = self.view(view), self._count(offset, f"{name}.byteOffset")
        row = width * dtype.itemsize
        stride = self._count(self.item("bufferViews", view).get("byteStride", row), f"{name}: byteStride")
        if stride < row:
            self.fail(f"{name}: expected a byteStride of at least {row}, got {stride}")
        end = start + (count - 1) * stride + row if count else start
        if end > len(data):
            self.fail(f"{name}: expected an end within its {len(data)} bytes, got {end}: truncated or wrong count")
        if count == 0:
            return np.zeros((0, width), dtype)
        values: NDArray[Any] = np.array(np.ndarray((count, width), dtype, data, start, (stride, dtype.itemsize)))
        return values

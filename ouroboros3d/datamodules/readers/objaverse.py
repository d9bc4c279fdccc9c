"""The cache layout of Objaverse 1.0 (allenai/objaverse): which objects a tree holds, and under which licence."""

import gzip
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property, partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from ouroboros3d.datamodules.readers.meshes import Asset, MeshLocation, MeshReader
from ouroboros3d.datamodules.readers.tree import check_known
from ouroboros3d.datamodules.untrusted import (
    MAX_LIST_BYTES,
    UntrustedError,
    can_name_a_file,
    parse_json,
    read_regular,
    reraise_as,
)

INDEX = "object-paths.json.gz"
LVIS = "lvis-annotations.json.gz"
_BLOCK = 2**20
# As nearly all uids and paths are; for a hundred thousand of them the full rules take a third of a second.
_PLAIN_UID = re.compile(r"[\w-]{1,100}", re.ASCII)
_PLAIN_PATH = re.compile(r"[\w-]+(?:[./][\w-]+)*", re.ASCII)


class ObjaverseReader(MeshReader):
    """Reads `object-paths.json.gz`, `lvis-annotations.json.gz` and the shards of `metadata/`.

    Args:
        root: the folder that holds `object-paths.json.gz` and `glbs/` (`~/.objaverse/hf-objaverse-v1` or a copy).

    Raises:
        ValueError: the folder is missing, has another layout, or lists no object.
    """

    name = "objaverse"
    looks_for = f"{INDEX} and glbs/"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        if not self.root.is_dir():
            raise ValueError(
                f"root: expected a folder in the Objaverse 1.0 layout ({INDEX} and glbs/), got {self.root}, which "
                f"{'is a file' if self.root.exists() else 'does not exist'}; leave root out for the bundled objects."
            )
        if not (self.root / INDEX).is_file():
            near = [folder for folder in (self.root.parent, *sorted(self.root.iterdir())) if (folder / INDEX).is_file()]
            hint = f"did you mean {near[0]}?" if near else "leave root out for the bundled objects."
            raise ValueError(f"root: expected {INDEX} and glbs/ in {self.root}, found no {INDEX}; {hint}")
        paths = _read_json(self.root / INDEX)
        if not paths:
            raise ValueError(f"root: expected at least one object in {self.root / INDEX}, got none; the tree is empty.")
        self._check_inside(paths)
        self._paths: dict[str, str] = paths  # relative

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether the folder has the index."""
        return (root / INDEX).is_file()

    def list_uids(self) -> list[str]:
        """Every uid of the index."""
        return list(self._paths)

    @cached_property
    def uids_by_category(self) -> dict[str, list[str]]:
        """The tree's uids per LVIS category; empty where the tree has no annotation file."""
        if not (self.root / LVIS).is_file():
            return {}
        listed = _read_json(self.root / LVIS)
        with reraise_as(UntrustedError, f"{self.root / LVIS}: expected uids by category", "download it again"):
            kept = {name: sorted(uid for uid in uids if uid in self._paths) for name, uids in listed.items()}
        return {name: uids for name, uids in sorted(kept.items()) if uids}

    def select_uids(self, categories: Iterable[str] | None = None, uids: Iterable[str] | None = None) -> list[str]:
        """The objects that are in any of the categories and among the uids, sorted by uid.

        Args:
            categories: LVIS categories; None for every object.
            uids: None for every object.

        Raises:
            ValueError: a category or uid that the tree does not have (close matches are named), or nothing is left.
        """
        wanted = set(self._paths)
        if uids is not None:
            wanted = set(uids)
            check_known("uids", wanted, self._paths, f"{len(self._paths)} objects of {self.root}")
        if categories is not None:
            chosen = set(categories)
            known = self.uids_by_category
            check_known("categories", chosen, known, f"{len(known)} LVIS categories of {self.root / LVIS}")
            wanted &= {uid for category in chosen for uid in known[category]}
        if not wanted:
            raise ValueError(
                f"no object left in {self.root} with categories={_shown(categories)} and uids={_shown(uids)}; "
                "expected at least one, leave one of the two filters out."
            )
        return sorted(wanted)

    def assets(self, uids: list[str]) -> list[Asset]:
        """The objects with licence, maker and categories, as far as the tree knows them."""
        categories: dict[str, list[str]] = defaultdict(list)
        for name, members in self.uids_by_category.items():
            for uid in members:
                categories[uid].append(name)
        # Shards are read as needed: all 160 of the full tree hold 800 k objects.
        shards = {os.path.basename(os.path.dirname(self._paths[uid])) for uid in uids}
        metadata: dict[str, dict[str, Any]] = {}
        for shard in sorted(shards):
            file = self.root / "metadata" / f"{shard}.json.gz"
            if file.is_file():
                metadata |= _read_json(file)
        with reraise_as(UntrustedError, f"{self.root / 'metadata'}: expected descriptions by uid", "download it again"):
            return [self._asset(uid, tuple(categories[uid]), metadata.get(uid, {})) for uid in uids]

    def files(self, uids: list[str]) -> list[MeshLocation]:
        """Where the meshes of these objects are, in their order; no metadata is read."""
        root = os.path.join(self.root, "")
        paths = (root + self._paths[uid] for uid in uids)
        return list(map(MeshLocation._make, zip(uids, paths, strict=True)))

    def _asset(self, uid: str, categories: tuple[str, ...], entry: dict[str, Any]) -> Asset:
        user = entry.get("user") or {}
        return Asset(
            uid=uid,
            path=self.root / self._paths[uid],
            categories=categories,
            license=str(entry.get("license") or "unknown"),
            name=str(entry.get("name") or ""),
            author=str(user.get("username") or ""),
            source=str(entry.get("source") or entry.get("uri") or ""),
        )

    def _check_inside(self, paths: dict[str, Any]) -> None:
        # Uids name folders of the rendered cache and the index may come from anywhere, so neither may leave its folder.
        for uid, path in paths.items():
            if isinstance(path, str) and _PLAIN_PATH.fullmatch(path) and _PLAIN_UID.fullmatch(uid):
                continue
            inside = isinstance(path, str) and path.isprintable() and path[:1] != "/" and ".." not in path.split("/")
            if not inside or not can_name_a_file(uid):
                raise UntrustedError(
                    f"{self.root / INDEX}: expected uids that can name a folder and paths inside {self.root}, got "
                    f"{uid!r}: {path!r}."
                )


def _read_json(file: Path) -> dict[str, Any]:
    with reraise_as(UntrustedError, f"{file}: expected gzipped JSON", "download it again"):
        with gzip.open(BytesIO(read_regular(file, MAX_LIST_BYTES))) as unpacked:
            blocks = iter(partial(unpacked.read, _BLOCK), b"")
            text = b"".join(islice(blocks, MAX_LIST_BYTES // _BLOCK + 1))
        if len(text) > MAX_LIST_BYTES:
            raise ValueError(f"more than {MAX_LIST_BYTES} bytes")
        content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object {{name: value}}, got a {type(content).__name__}.")
    return content


def _shown(names: Iterable[str] | None) -> str:
    if names is None:
        return "any"
    listed = sorted(names)
    return f"[{', '.join(listed[:5])}{', ...' if len(listed) > 5 else ''}]"

"""Train, validation and test objects, decided by the uid alone.

The same uid falls into the same split whatever tree it is found in, so objects held out from pre-training on a large
tree stay held out in an ablation on a small one.
"""

import hashlib
from pathlib import Path
from typing import Literal

from ouroboros3d.datamodules.untrusted import listed_names
from ouroboros3d.files import atomic_write_text

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def hashed_integer(*parts: object) -> int:
    """An integer in [0, 2^63) from the parts' text, the same on every machine and in every version."""
    digest = hashlib.sha256("\x00".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def hashed_uniform(*parts: object) -> float:
    """A number in [0, 1) from the parts' text, the same on every machine and in every version."""
    return (hashed_integer(*parts) >> 10) / 2**53


def split_of(uid: str, val_fraction: float = 0.1, test_fraction: float = 0.15) -> Split:
    """The split of an object.

    Args:
        uid: the object's name.
        val_fraction: share of all uids that validate, in [0, 1).
        test_fraction: share of all uids that test, in [0, 1); together with `val_fraction` below 1.
    """
    # hashed_uniform("split", uid), written out: a tree of a hundred thousand objects opens an eighth faster.
    place = (int.from_bytes(hashlib.sha256(f"split\0{uid}".encode()).digest()[:8], "big") >> 11) / 2**53
    if place < test_fraction:
        return "test"
    return "val" if place < test_fraction + val_fraction else "train"


def write_splits(folder: Path, names: dict[Split, list[str]]) -> None:
    """Write `train.txt`, `val.txt` and `test.txt`, one name a line, sorted."""
    for split in SPLITS:
        atomic_write_text(folder / f"{split}.txt", "".join(f"{name}\n" for name in sorted(names[split])))


def read_splits(folder: Path) -> dict[Split, list[str]]:
    """Read what `write_splits` wrote."""
    return {split: listed_names((folder / f"{split}.txt").read_text()) for split in SPLITS}


def splits_sha256(names: dict[Split, list[str]]) -> str:
    """One hash of three lists of names, in any order: who shares numbers says with it what was held out."""
    text = "".join(f"{split} {name}\n" for split in SPLITS for name in sorted(names[split]))
    return hashlib.sha256(text.encode()).hexdigest()

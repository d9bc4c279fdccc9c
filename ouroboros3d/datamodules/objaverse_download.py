"""Objaverse 1.0 from its public host, by the package `objaverse`, which is an optional extra.

The package keeps everything in one folder, a tree that the reader `objaverse` opens: the lists at once, mesh files and
the metadata with their licences when they are chosen. What is there is not fetched again, so an interrupted download
goes on where it was.
"""

import importlib
import importlib.util
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from rich.progress import Progress

from ouroboros3d.datamodules.readers.meshes import Asset

# The package reads its list of 800,000 paths anew for each call.
_OBJECTS_A_CALL = 32
_SILENCE_S = 30.0  # a server that says nothing for this long is not there


def download_root() -> Path:
    """The folder that the package downloads into.

    Raises:
        ValueError: the package is not installed.
    """
    return Path(_package().BASE_PATH) / "hf-objaverse-v1"


def fetch_lists() -> None:
    """Which objects there are, and their LVIS categories.

    Raises:
        ValueError: the host cannot be reached.
    """
    with _connected("the lists are missing"):
        _package().load_uids()
        _package().load_lvis_annotations()


def fetch_objects(assets: Sequence[Asset]) -> None:
    """The mesh files and the metadata of objects, with a progress bar.

    Args:
        assets: the objects, in the package's own tree.

    Raises:
        ValueError: the host cannot be reached; what was fetched stays.
    """
    missing = [asset.uid for asset in assets if not asset.path.is_file()]
    if not missing:
        return
    with Progress() as progress, open(os.devnull, "w") as nowhere:
        bar = progress.add_task("downloading objects", total=len(missing))
        for first in range(0, len(missing), _OBJECTS_A_CALL):
            uids = missing[first : first + _OBJECTS_A_CALL]
            with _connected(f"{first} of {len(missing)} objects are here"), redirect_stdout(nowhere):
                _package().load_annotations(uids)
                _package().load_objects(uids)
            progress.advance(bar, len(uids))


def _package() -> Any:  # noqa: ANN401 - a module without types
    if importlib.util.find_spec("objaverse") is None:
        raise ValueError("download: the package objaverse is not installed; run `pip install ouroboros3d[objaverse]`.")
    return importlib.import_module("objaverse")


@contextmanager
def _connected(state: str) -> Iterator[None]:
    """Turn what can go wrong on a network into one line, and wait for no dead server."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_S)
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"download: expected to reach the host of Objaverse, got {error}; {state}, and the same command goes on "
            "from there."
        ) from error
    finally:
        socket.setdefaulttimeout(before)

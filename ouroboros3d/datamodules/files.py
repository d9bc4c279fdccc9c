"""Writing files that other processes may be reading."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that every reader sees the old or the new one, whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    part.write_text(text)
    part.replace(path)

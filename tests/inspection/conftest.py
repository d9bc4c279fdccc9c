"""Rendered objects, once a session."""

import sys
from pathlib import Path

import pytest
from planted import EVEN, ODD, RING, SCATTERED, Posed, render

sys.path.append(str(Path(__file__).parents[1] / "datamodules"))  # writers of every format


@pytest.fixture(scope="session")
def odd() -> list[Posed]:
    """Objects that look alike from no two sides, from scattered cameras."""
    return [render(start, SCATTERED) for start in ODD]


@pytest.fixture(scope="session")
def even() -> list[Posed]:
    """Round, thin, flat and spindly objects on a ring."""
    return [render(start, RING, 39.598) for start in EVEN]

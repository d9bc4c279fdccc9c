"""Damages files as accidents and attackers do, and bounds what reading them may take."""

import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fuzz  # found only now

__all__ = ["SEEDS", "bounded", "damaged", "few", "fuzz", "one_line"]

SEEDS = st.integers(0, 2**32)


def few(examples: int) -> settings:
    """The same examples in every run; files are written over, so a folder may serve all of them."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


def damaged(content: bytes, seed: int) -> bytes:
    """A file with bytes changed, cut off, put in or repeated; by a seed, since a failing test prints its examples."""
    random, changed = Random(seed), bytearray(content)
    for _ in range(random.randint(1, 4)):
        place = random.randint(0, len(changed))
        match random.choice(["change", "change", "change", "cut", "put in", "repeat"]):
            case "change":
                changed[place : place + 1] = random.randbytes(1)
            case "cut":
                del changed[place : place + random.choice([1, 4, len(changed)])]
            case "put in":
                changed[place:place] = random.choice([b"\0", b"\xff" * 4, b"-1", b" 1e999 ", b"\n", b"nan"])
            case "repeat":
                changed[place:place] = changed[place : place + 40]
    return bytes(changed)


@contextmanager
def bounded(mib: float) -> Iterator[None]:
    """Fails if more than that is allocated inside: by Python, numpy or what is read from files."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < mib * 2**20, f"{peak / 2**20:.1f} MiB"


def one_line(error: BaseException) -> str:
    """The message of an error that a user may see."""
    message = str(error)
    assert message.isprintable(), "one line without control characters"
    assert len(message) < 2100
    assert "expected" in message
    assert "got" in message
    return message

"""Command lines: where they run, and how one that is wrong answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ouroboros3d.cli import main


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """For fixtures that outlive a test: commands in that working folder, of no run that was started before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("OUROBOROS3D_RUN_VERSION", raising=False)
        yield


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command answers with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ouroboros3d: error: ")]
    assert len(errors) == 1
    return errors[0]

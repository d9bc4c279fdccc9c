"""How a command line that is wrong answers."""

import pytest

from ouroboros3d.cli import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command answers with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ouroboros3d: error: ")]
    assert len(errors) == 1
    return errors[0]

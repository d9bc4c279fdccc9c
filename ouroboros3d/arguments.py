"""The argument parser of the commands that take no configuration."""

import argparse
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """argparse's parser, whose errors are one line and leave the exit to `cli.main`; help is in `usage.py`.

    Args:
        command: that it parses the arguments of.
    """

    def __init__(self, command: str) -> None:
        super().__init__(prog=command, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise the message as `ValueError`."""
        raise ValueError(f"{self.prog}: {message}; python -m ouroboros3d {self.prog} --help lists the options.")

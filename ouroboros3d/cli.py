"""The command line: `main(args)`, which the console script, `python -m ouroboros3d` and the tests call.

This module imports nothing heavy, so that help and wrong usage answer at once.
"""

import os
import sys
from collections.abc import Sequence

from ouroboros3d import __version__
from ouroboros3d.commands.usage import HELP
from ouroboros3d.files import NO_ROOM

_DEBUG = "OUROBOROS3D_DEBUG"


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: the command line after the program's name; None = the process's own.

    Raises:
        SystemExit: code 2 after one line on standard error, where the usage or an input is wrong. With the environment
            variable OUROBOROS3D_DEBUG set, the error itself is raised with its traceback.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help"):
        _say(HELP[""])
        return
    if arguments[0] == "--version":
        _say(f"ouroboros3d {__version__}")
        return
    command = arguments[0]
    if command not in HELP:
        _fail(f"unknown command {command!r}; expected one of {', '.join(name for name in HELP if name)}.")
    if any(argument in ("-h", "--help") for argument in arguments[1:]):
        _say(HELP[command])
        return
    try:
        _run(command, arguments[1:])
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM and not os.environ.get(_DEBUG):
            again = "call the same command again" + (", or where a fit had begun fit --resume RUN" * (command == "fit"))
            got = f"expected room to write it, got {error.strerror!r}; make room on its disk and {again}."
            _fail(f"{error.filename or command}: {got}")
        if os.environ.get(_DEBUG) or not (isinstance(error, (ValueError, OSError)) or _of_lightning(error)):
            raise
        _fail(" ".join(str(error).split()))


def _of_lightning(error: Exception) -> bool:
    """Whether Lightning refuses what it was asked for; it is imported here, for seconds, when nothing else fits."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    return isinstance(error, MisconfigurationException)


def _run(command: str, arguments: list[str]) -> None:
    """Parse the arguments, and only then import what the command needs: torch and Lightning take seconds.

    A command parses its arguments itself; here wrong ones are refused before the import.
    """
    if command == "compare":
        from ouroboros3d.commands.compare_options import parse as parse_compare

        parse_compare(arguments)
        from ouroboros3d.commands.compare import run as compare

        compare(arguments)
    elif command == "ablate":
        from ouroboros3d.commands.ablate import run as ablate

        ablate(arguments)
    elif command == "check-data":
        from ouroboros3d.commands.check_data_options import parse as parse_check_data

        parse_check_data(arguments)
        from ouroboros3d.commands.check_data import run as check_data

        check_data(arguments)
    elif command == "render":
        from ouroboros3d.commands.render_options import parse as parse_render

        parse_render(arguments)
        from ouroboros3d.commands.render import run as render

        render(arguments)
    else:
        from ouroboros3d.commands.arguments import check_run_options, parse_run_options

        check_run_options(parse_run_options(command, arguments))
        if command == "export":
            from ouroboros3d.commands.export import run as export

            export(arguments)
        else:
            from ouroboros3d.commands.trainer import run

            run(command, arguments)


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # its reader, such as head, has seen enough; Python flushes once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> None:
    print(f"ouroboros3d: error: {message}", file=sys.stderr)
    raise SystemExit(2)

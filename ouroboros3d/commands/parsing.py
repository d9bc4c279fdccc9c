"""LightningCLI's parser as this project uses it: one line an error, exact names, classes of known packages alone."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from ouroboros3d.commands.arguments import did_you_mean
from ouroboros3d.commands.earlier_configurations import text_up_to_date
from ouroboros3d.configurations import PACKAGES, check_yaml, foreign_class


class Parser(LightningArgumentParser):
    """LightningCLI's parser: errors are one line and leave the exit to `cli.main`; names are never abbreviated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - jsonargparse's
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as `ValueError`, with what was meant by a name that nobody knows."""
        if unknown := re.match(r"unrecognized arguments: --([\w.]+)|Option '([\w.]+)' is not accepted", message):
            like = did_you_mean(f"--{unknown[1] or unknown[2]}", self._option_string_actions)
            message = f"{message}; {like}".rstrip("; ")
        raise ValueError(meant(message)) from ex

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:  # noqa: ANN401 - jsonargparse's own
        """As jsonargparse, which calls it for every file too; what earlier versions saved has the names of today."""
        parsed: Namespace = super().parse_string(text_up_to_date(content), *args, **kwargs)
        return parsed


@contextmanager
def parsing(allowed: Sequence[str]) -> Iterator[None]:
    """What jsonargparse may do: import from these packages alone, and read YAML within bounds.

    An object that is typed as `Any` is not made: it could be of any class, and any function is callable in its place.

    Args:
        allowed: packages that the user trusts besides.
    """
    load = get_loader("yaml")

    def load_within_bounds(text: str) -> Any:  # noqa: ANN401 - what YAML holds
        check_yaml(text, "configuration")
        return load(text)

    set_parsing_settings(
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=["*"],
        import_path_allowlist=[*PACKAGES, *allowed],
    )
    set_loader("yaml", load_within_bounds, exceptions=(yaml.YAMLError,))
    try:
        yield
    finally:
        set_loader("yaml", load, exceptions=(yaml.YAMLError,))
        # The settings are the process's; the next command line says anew whom it trusts.
        set_parsing_settings(import_path_denylist=sorted({*allowed} - {*PACKAGES}))


def meant(message: str) -> str:
    """Of jsonargparse's list of failed alternatives the one that was meant: an optional object is not None."""
    if missing := re.search(r"No module named '([\w.]+)'. Got value: (\S+)", message):
        package = missing[1].split(".")[0]
        return f"{missing[2]}: no module named {missing[1]!r}; pip install {package}, or name another class."
    key = re.search(r'Parser key "([\w.]+)"', message)
    place = key[1] if key else "model or data"
    if denied := re.search(r"Importing '([^']*)' is not allowed", message):
        return foreign_class(place, denied[1])
    alternatives = r"Does not validate.*?Errors:\s*- (.*?)\s*(?:- Expected an? (?!path|dot|import)|Given value type)"
    if found := re.search(alternatives, message, re.DOTALL):
        return f"{place}: " + re.sub(
            r"- Expected a path but [^\n]* either not accessible or invalid\s*(?:- )?", "", found[1]
        )
    return message

"""`check-data` as a user runs it, and what it says."""

import re
from html import unescape
from pathlib import Path

from ouroboros3d.cli import main


def check(*arguments: object) -> int:
    """The exit code."""
    try:
        main(["check-data", *map(str, arguments)])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def titles(out: Path, kinds: str = "error|warning") -> list[str]:
    """What the report says is wrong or worth a look."""
    page = (out / "report.html").read_text()
    return [unescape(title) for title in re.findall(rf"<h3><span>(?:{kinds})</span>(.*?)<small>", page)]


def numbers(out: Path) -> dict[str, str]:
    """The report's table of numbers."""
    page = (out / "report.html").read_text()
    return {name: unescape(value) for name, value in re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td></tr>", page)}

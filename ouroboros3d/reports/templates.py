"""HTML pages from the templates beside this file: one file each, which loads nothing from anywhere."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,  # a name, a path or a message is text, whatever stands in it
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(template: str, **values: object) -> str:
    """A whole page.

    Args:
        template: its file, which extends `document.html`.
        values: what it shows, by the names that it uses; text is escaped, `markupsafe.Markup` is not.
    """
    return _ENVIRONMENT.get_template(template).render(**values)

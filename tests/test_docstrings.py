"""Docstrings tell the truth about signatures: a test, not a promise."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SECTIONS = ("Args", "Returns", "Raises", "Yields", "Example", "Examples", "Note", "Attributes")
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class Documented(NamedTuple):
    """A public class or function of the package."""

    where: str
    docstring: str
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public() -> Iterator[Documented]:
    """Every public class, function and method with a docstring."""
    for path in sorted((ROOT / "ouroboros3d").rglob("*.py")):
        queue: list[tuple[str, ast.AST]] = [("", ast.parse(path.read_text(encoding="utf-8"), str(path)))]
        while queue:
            prefix, parent = queue.pop()
            for node in ast.iter_child_nodes(parent):
                if not isinstance(node, (ast.ClassDef, *FUNCTION)) or node.name.startswith("_"):
                    continue
                name = f"{prefix}{node.name}"
                if docstring := ast.get_docstring(node):
                    yield Documented(f"{path.relative_to(ROOT)}:{node.lineno} {name}", docstring, node)
                if isinstance(node, ast.ClassDef):
                    queue.append((f"{name}.", node))


def section(docstring: str, name: str) -> list[str] | None:
    """The lines of a Google-style section without its indentation, or None where there is none."""
    lines = docstring.splitlines()
    if f"{name}:" not in lines:
        return None
    start = lines.index(f"{name}:") + 1
    body = []
    for line in lines[start:]:
        if line and not line.startswith(" "):
            break
        body.append(line)
    return [line.removeprefix("    ") for line in body if line.strip()]


def entries(lines: list[str]) -> list[str]:
    """Names that a section explains: the text before the colon of each line that is not a continuation."""
    return [line.split(":")[0].strip() for line in lines if not line.startswith(" ")]


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of a signature without self, cls and private ones."""
    spec = function.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args, *filter(None, [spec.vararg]), *spec.kwonlyargs)]
    names += [spec.kwarg.arg] if spec.kwarg else []
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list)
    return names if static or names[:1] not in (["self"], ["cls"]) else names[1:]


def constructor(node: ast.ClassDef) -> list[str] | None:
    """What a class is made from: `__init__`'s arguments or a dataclass's fields; None where it inherits both."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return parameters(item)
    fields = [
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "ClassVar" not in ast.unparse(item.annotation)
        and "init=False" not in ast.unparse(item)
    ]
    decorated = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    return fields if decorated or any(ast.unparse(base) == "NamedTuple" for base in node.bases) else None


def signature(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[str] | None:
    return constructor(node) if isinstance(node, ast.ClassDef) else parameters(node)


def test_the_walk_sees_the_package():
    names = {item.where.split()[-1] for item in public()}
    assert {"Cameras", "Cameras.orbit", "from_stored", "encode_coordinates"} <= names


def test_arguments_are_those_of_the_signature():
    wrong = []
    for item in public():
        lines, expected = section(item.docstring, "Args"), signature(item.node)
        if lines is not None and expected is not None and entries(lines) != expected:
            wrong.append(f"{item.where}: documents {entries(lines)}, takes {expected}")
    assert not wrong, "\n".join(wrong)


def test_types_are_left_to_the_signature():
    wrong = []
    for item in public():
        typed = [name for name in entries(section(item.docstring, "Args") or []) if " " in name or "(" in name]
        wrong += [f"{item.where}: {name}" for name in typed]
    assert not wrong, "expected `name: meaning`, got a type beside the name:\n" + "\n".join(wrong)


def test_what_a_function_raises_itself_is_documented():
    """Only where there is a Raises section at all: one-line docstrings stay one line."""
    wrong = []
    for item in public():
        lines = section(item.docstring, "Raises")
        if lines is None or isinstance(item.node, ast.ClassDef):
            continue
        raised = {
            node.exc.func.id
            for node in ast.walk(item.node)
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
        }
        missing = raised - set(entries(lines))
        wrong += [f"{item.where}: raises {name}, documents {entries(lines)}" for name in sorted(missing)]
    assert not wrong, "\n".join(wrong)


def test_sections_are_google_style():
    """A misspelt heading hides its section from the tests above and from the command line's help."""
    heading = re.compile(r"^([A-Z][a-z]+):$")
    wrong = [
        f"{item.where}: {line}"
        for item in public()
        for line in item.docstring.splitlines()
        if (match := heading.match(line)) and match[1] not in SECTIONS
    ]
    assert not wrong, f"expected one of {SECTIONS}:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("class A:\n    def __init__(self, a, *, b=1): ...", ["a", "b"]),
        ("@dataclass\nclass A:\n    a: int\n    b: ClassVar[int] = 1\n    c: int = 2", ["a", "c"]),
        ("class A(NamedTuple):\n    a: int", ["a"]),
        ("class A(B):\n    a: int", None),
        ("def f(a, /, b, *c, d, **e): ...", ["a", "b", "c", "d", "e"]),
    ],
)
def test_signatures_are_read_right(code, expected):
    assert signature(ast.parse(code).body[0]) == expected


def test_sections_are_read_right():
    docstring = "What.\n\nArgs:\n    a: one\n        and more: of it.\n    b: two.\n\nReturns:\n    c: three."
    assert entries(section(docstring, "Args")) == ["a", "b"]
    assert entries(section(docstring, "Returns")) == ["c"]
    assert section(docstring, "Raises") is None

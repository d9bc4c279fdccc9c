"""Rules of the house that no linter knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ouroboros3d.commands.usage import HELP

ROOT = Path(__file__).parents[1]
CODE = ("ouroboros3d", "tests", "benchmarks")
PROSE = ("*.md", "*.toml", "*.cfg", "*.yaml", "Makefile", "constraints.txt", ".ci/run")


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def texts() -> Iterator[tuple[str, str]]:
    """Every hand-written text of the repository by its name, without this file, which holds what it looks for."""
    paths = python_files(*CODE)
    paths += [
        path for folder in ("ablations", "ouroboros3d", "docs") for path in sorted((ROOT / folder).rglob("*.yaml"))
    ]
    paths += [path for path in sorted((ROOT / "docs").rglob("*.md"))]
    paths += [path for pattern in PROSE for path in sorted(ROOT.glob(pattern))]
    yield from (
        (str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in paths if path != Path(__file__)
    )


def calls(*folders: str) -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    """Every call as (place, dotted name, keyword arguments)."""
    for path in python_files(*folders):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.Call):
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield place, ast.unparse(node.func), {k.arg: k.value for k in node.keywords if k.arg}


def value(keywords: dict[str, ast.expr], name: str) -> object:
    return keywords[name].value if isinstance(keywords.get(name), ast.Constant) else None


def test_weights_load_strictly():
    """A bare strict=False hides missing and unexpected keys alike; load_strict names both."""
    wrong = [
        place
        for place, name, keywords in calls("ouroboros3d", "benchmarks")
        if name.split(".")[-1] in ("load_state_dict", "load_from_checkpoint") and value(keywords, "strict") is False
    ]
    assert not wrong, wrong


def test_files_are_read_without_pickle():
    """Unpickling a file runs what its author wrote."""
    wrong = []
    for place, name, keywords in calls(*CODE):
        if name == "torch.load" and value(keywords, "weights_only") is not True:
            wrong.append(f"{place}: torch.load without weights_only=True")
        if name in ("np.load", "numpy.load") and value(keywords, "allow_pickle"):
            wrong.append(f"{place}: {name} with pickle")
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            wrong.append(f"{place}: {name}, not yaml.safe_load")
        if name.split(".")[0] in ("pickle", "cloudpickle", "dill", "joblib") and name.split(".")[-1] in (
            "load",
            "loads",
        ):
            wrong.append(f"{place}: {name}")
    assert not wrong, "\n".join(wrong)


def test_global_switches_stay_out_of_imports():
    """TF32, default dtype and determinism belong in context managers that restore, or in the Trainer's keys."""
    switch = re.compile(r"^torch\.(backends\..+\s*=|set_default_dtype|set_float32_matmul_precision|manual_seed)")
    wrong = []
    for path in python_files("ouroboros3d"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if switch.match(ast.unparse(node)):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"\b(TODO|FIXME|XXX|HACK)\b", "an open end belongs in an issue"),
        (r"(?<![\w.])/(home|root|Users|work|mnt|scratch)/\w", "a path of one machine"),
        (r"[A-Z]:\\\\?Users", "a path of one machine"),
        (r"<{7} |>{7} ", "a merge conflict"),
        (r"-----BEGIN [A-Z ]*PRIVATE KEY|\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}", "a secret"),
    ],
)
def test_no_text_holds(pattern, why):
    found = [
        f"{name}:{text[: match.start()].count(chr(10)) + 1}: {match[0]}"
        for name, text in texts()
        for match in re.finditer(pattern, text)
    ]
    assert not found, f"{why}:\n" + "\n".join(found)


def test_test_files_have_names_of_their_own():
    """There are no packages under tests, so two files of one name would be one module."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_data_file_of_the_package_is_installed():
    """Files beside the code reach an installation only through the patterns in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    patterns = re.findall(r'"([^"]+)"', re.search(r"package-data\]\nouroboros3d = \[(.*)\]", text)[1])
    package = ROOT / "ouroboros3d"
    installed = {path for pattern in patterns for path in package.glob(pattern) if path.is_file()}
    installed |= {path for pattern in patterns for folder in package.glob(pattern) for path in folder.rglob("*")}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    left = sorted(str(path.relative_to(ROOT)) for path in files - installed if path.suffix != ".py")
    assert not left, left


def test_ablations_are_short_and_readable():
    files = sorted(path for path in (ROOT / "ablations").glob("*.yaml") if path.stem != "study")  # a list of twelve
    assert files
    for path in files:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path
        assert len(path.read_text(encoding="utf-8").splitlines()) < 40, f"{path}: an ablation is a few lines"


@pytest.mark.parametrize("command", [name for name in HELP if name])
def test_readme_shows_every_command(command):
    assert f"python -m ouroboros3d {command}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_names_every_ablation():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in (ROOT / "ablations").glob("*.yaml") if f"ablations/{path.name}" not in readme]
    assert not missing, missing


def test_links_between_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
            assert "://" in target or (document.parent / target).exists(), f"{document.name}: {target}"


# "docs/method.md, section 4", "[formats](formats.md), sections 1.1 to 1.3", or "section 7" of the document itself.
_CITED = re.compile(
    r"(?:\b(\w+)\.md\)?,[\s#]+)?\bsections?[\s#]+(\d+(?:\.\d+)*)(?:[\s#]+(?:to|and)[\s#]+(\d+(?:\.\d+)*))?"
)


def sections(document: Path) -> set[str]:
    """Numbers of a document's headings."""
    return set(re.findall(r"^#+ (\d+(?:\.\d+)*)\.? ", document.read_text(encoding="utf-8"), re.M))


def cited(text: str, own: str) -> Iterator[tuple[str, str]]:
    """Documents and sections that a text cites; a section without a document is one of `own`, "" for none."""
    for document, *numbers in _CITED.findall(text):
        yield from ((document or own, number) for number in numbers if number and (document or own))


def test_cited_sections_exist():
    numbered = {path.stem: sections(path) for path in (ROOT / "docs").glob("*.md")}
    found = []
    for name, text in texts():
        path = Path(name)
        own = path.stem if path.parent.name == "docs" and numbered[path.stem] else ""
        found += [(name, *citation) for citation in cited(text, own)]
    assert {document for _, document, _ in found} >= {"method", "formats", "metrics"}
    assert len([name for name, *_ in found if name.startswith("ouroboros3d/")]) >= 15
    wrong = [one for one in found if one[2] not in numbered.get(one[1], set())]
    assert not wrong, wrong


def test_a_citation_is_seen_in_every_form():
    text = "(docs/method.md,\n# section 4), [formats](formats.md), sections 1.1 to 1.3. glTF, section 3.8.4; section 7."
    assert list(cited(text, "")) == [("method", "4"), ("formats", "1.1"), ("formats", "1.3")]
    assert list(cited(text, "own"))[-2:] == [("own", "3.8.4"), ("own", "7")]


def test_documents_that_code_names_exist():
    wrong = [
        f"{name}: {document}"
        for name, text in texts()
        if name.endswith(".py")
        for document in re.findall(r"(?<![\w/])docs/[\w./-]*\w", text)
        if not (ROOT / document).exists()
    ]
    assert not wrong, wrong


def test_every_room_is_shown_and_explained():
    """The house of docs/architecture.md: in its picture, and in the table that says why it is there."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture, table = text.split("| Room | Why it is there |")[0], text.split("| Room | Why it is there |")[1]
    rooms = [path.parent.name for path in sorted((ROOT / "ouroboros3d").glob("*/__init__.py"))]
    inner = [path.parent.name for path in sorted((ROOT / "ouroboros3d").glob("*/*/__init__.py"))]
    assert [room for room in rooms if f"{room}/" not in picture] == []
    assert [room for room in rooms + inner if f"`{room}/`" not in table] == []


@pytest.mark.parametrize(
    "document",
    [str(path.relative_to(ROOT)) for folder in (ROOT, ROOT / "docs") for path in sorted(folder.glob("*.md"))],
)
def test_code_in_documents_parses(document):
    for language, code in re.findall(
        r"```(python|yaml)\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.S
    ):
        if language == "python":
            ast.parse(code)
        else:
            yaml.safe_load(code)

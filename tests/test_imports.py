"""Imports point one way, heavy libraries stay in their places, and everything imported is declared."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ouroboros3d"

# What each part may import besides itself: core types <- diffusion | networks | renderers <- datamodules | metrics
# <- lightning_modules | callbacks <- the command line. Data and model meet only in batch.py, so neither side imports
# the other; diffusion receives the network as an argument.
CORE = {"cameras", "gaussians", "surface", "batch", "files", "configurations", "weight_names"}
MAY_IMPORT = {
    "cameras": set(),
    "gaussians": {"cameras", "files"},
    "files": set(),
    "configurations": set(),
    "weight_names": set(),
    "reports": set(),
    "training_record": {"configurations"},
    "viewer": {"cameras", "gaussians", "files"},
    "surface": {"cameras"},
    "batch": {"cameras", "gaussians", "surface"},
    "diffusion": CORE,
    "networks": CORE,
    "renderers": CORE,
    "datamodules": CORE | {"renderers"},
    "metrics": CORE | {"renderers"},
    "lightning_modules": CORE | {"diffusion", "networks", "renderers", "metrics"},
    "comparison": CORE | {"metrics", "reports", "training_record", "viewer"},
    "callbacks": CORE | {"diffusion", "networks", "renderers", "metrics", "lightning_modules", "viewer"},
    "ablation": {"files", "configurations"},
    "inspection": CORE | {"datamodules", "reports"},
    "export": CORE | {"callbacks", "datamodules", "lightning_modules", "metrics", "networks", "renderers"},
    "commands": CORE
    | {
        *("ablation", "callbacks", "comparison", "datamodules", "export", "inspection"),
        *("lightning_modules", "metrics", "networks", "reports", "training_record"),
    },
}
# Where a third-party library may be imported; None = anywhere but below.
ONLY_IN = {
    "pytorch3d": {"renderers", "metrics", "cameras"},
    "diffusers": {"networks", "diffusion", "export"},
    "transformers": {"networks", "diffusion"},
}
NO_LIGHTNING = {*CORE, "diffusion", "networks", "renderers"}
# Declared, and used without an import of ours.
INDIRECT = {
    "torchvision": "lpips takes its backbones from it",
}


@cache
def imports() -> tuple[tuple[Path, int, str], ...]:
    """Every import statement of the package as (file, line, dotted module), wherever in the file it stands."""

    def walk() -> Iterator[tuple[Path, int, str]]:
        for path in sorted(PACKAGE.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
                if isinstance(node, ast.Import):
                    yield from ((path, node.lineno, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module == "ouroboros3d":
                    yield from ((path, node.lineno, f"ouroboros3d.{alias.name}") for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield path, node.lineno, node.module or ""

    return tuple(walk())


def part(path: Path) -> str:
    """The part of the package that a file belongs to: `cameras`, `networks`, `cli`."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_the_walk_sees_the_package():
    seen = {(part(path), module) for path, _, module in imports()}
    assert ("batch", "ouroboros3d.cameras") in seen
    assert ("cameras", "pytorch3d.renderer") in seen  # inside a function
    assert len({path for path, _, _ in imports()}) > 5


def test_imports_point_one_way():
    wrong = []
    for path, line, module in imports():
        here = part(path)
        names = module.split(".")
        if here not in MAY_IMPORT or names[0] != "ouroboros3d" or len(names) == 1:
            continue
        if names[1] not in MAY_IMPORT[here] | {here}:
            wrong.append(f"{place(path, line)}: {here} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_no_module_needs_itself_by_way_of_others():
    """Also within a folder: what is read is below what reads it."""
    needs: dict[str, set[str]] = {}
    for path, _, module in imports():
        needs.setdefault(".".join(path.relative_to(ROOT).with_suffix("").parts), set()).add(module)
    while ready := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in ready:
            del needs[name]
    assert not needs, f"in circles: {sorted(needs)}"


def test_every_folder_has_its_place_in_the_table():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= set(MAY_IMPORT), "say in MAY_IMPORT what the new folder may import"


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_libraries_stay_in_their_places(library):
    wrong = [
        f"{place(path, line)}: {module}"
        for path, line, module in imports()
        if module.split(".")[0] == library and part(path) not in ONLY_IN[library]
    ]
    assert not wrong, f"{library} belongs in {sorted(ONLY_IN[library])} only:\n" + "\n".join(wrong)


def test_no_lightning_below_the_datamodules():
    wrong = [
        f"{place(path, line)}: {module}"
        for path, line, module in imports()
        if module.split(".")[0] in ("lightning", "pytorch_lightning") and part(path) in NO_LIGHTNING
    ]
    assert not wrong, "\n".join(wrong)


def run_python(code: str) -> None:
    """Run code in a fresh interpreter, whose `sys.modules` no other test has filled."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def modules(*parts: str) -> list[str]:
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if part(path) in parts]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]


def test_core_networks_diffusion_and_renderers_work_without_lightning():
    names = modules(*NO_LIGHTNING)
    assert len(names) > len(NO_LIGHTNING)
    run_python(
        f"""
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "pytorch_lightning"):
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocked())
for name in {names!r}:
    importlib.import_module(name)
"""
    )


@pytest.mark.parametrize(
    ("names", "heavy"),
    [
        ("ouroboros3d", ["torch", "numpy"]),
        ("ouroboros3d.cli", ["torch", "numpy", "lightning"]),  # help answers at once
        ("ouroboros3d.batch, ouroboros3d.gaussians", ["pytorch3d", "diffusers", "lightning"]),
    ],
)
def test_light_modules_stay_light(names, heavy):
    run_python(f"import sys, {names}; loaded = [n for n in {heavy!r} if n in sys.modules]; assert not loaded, loaded")


def declared() -> set[str]:
    """Normalised names of the run-time dependencies in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {normalise(re.split(r"[\[=<>!~; ]", entry)[0]) for entry in project["dependencies"]}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def optional() -> set[str]:
    """Normalised names of the packages that extras other than `dev` bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [entries for name, entries in project["optional-dependencies"].items() if name != "dev"]
    return {normalise(re.split(r"[\[=<>!~; ]", entry)[0]) for entries in extras for entry in entries}


def third_party() -> dict[str, list[str]]:
    """Top-level modules from other projects, with where they are imported."""
    found: dict[str, list[str]] = {}
    for path, line, module in imports():
        name = module.split(".")[0]
        if name not in sys.stdlib_module_names and name != "ouroboros3d":
            found.setdefault(name, []).append(place(path, line))
    return found


def test_everything_imported_is_declared():
    owners = packages_distributions()
    missing = []
    for name, places in third_party().items():
        distributions = {normalise(owner) for owner in owners.get(name, [name])}
        if not distributions & (declared() | optional()):
            missing.append(f"{name} (from {', '.join(sorted(distributions))}): {places[0]}")
    assert not missing, "imported, but not in pyproject.toml:\n" + "\n".join(missing)


def test_everything_declared_is_used():
    owners = packages_distributions()
    used = {normalise(owner) for name in third_party() for owner in owners.get(name, [name])}
    unused = declared() - used - set(INDIRECT)
    assert not unused, f"declared in pyproject.toml, but nothing imports them: {sorted(unused)}"


def test_everything_declared_is_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normalise(line.split("==")[0]) for line in lines if "==" in line}
    assert declared() - pinned == set()

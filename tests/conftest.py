"""What every test runs under: no network, one thread, fixed seeds, gated markers, and a clean working folder."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Before any library reads them: a test that needs the hub says so with the marker `network`.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The tensors are tiny, so handing work to a second thread costs more than it saves; sums are also in one fixed order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random

import numpy as np
import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# A script that a test runs with Triton's interpreter switched on before the import; not a module to collect.
collect_ignore = ["renderers/interpreted_triton.py"]

BROWSER = ("chromium", "chromedriver")
# These files begin, so that no core waits for the last of them at the end.
LONGEST = {
    *("test_ablate.py", "test_cli.py", "test_results.py", "test_resume.py", "test_robust_training.py"),
    *("test_export.py", "test_many_processes.py", "test_ray_workers.py"),
}


def why_not(marker: str, config: pytest.Config) -> str | None:
    """The one gate of all markers: why a test with this marker cannot run here, or None."""
    if marker == "slow" and not config.getoption("--slow"):
        return "takes minutes; run with --slow"
    if marker == "network" and not config.getoption("--network"):
        return "needs the network; run with --network"
    if marker == "gpu" and not torch.cuda.is_available():
        return "needs a CUDA device"
    if marker == "browser" and not all(map(shutil.which, BROWSER)):
        return f"needs {' and '.join(BROWSER)}"
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes")
    parser.addoption("--network", action="store_true", help="run the tests that download something")


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # pytest-xdist would begin with the files that have the most tests
    if config.getoption("--network"):
        os.environ["HF_HUB_OFFLINE"] = "0"
    config.stash[_BEFORE] = _entries(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        reasons = [why_not(mark.name, config) for mark in item.iter_markers()]
        for reason in filter(None, reasons):
            item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same global streams, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - third-party code draws from the global stream
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Rendered views go to one folder of all processes of this session, never to the user's own cache."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # then it is this process's folder in the session's
        session = session.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUROBOROS3D_CACHE", str(session / "cache"))
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and errors as a user sees them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OUROBOROS3D_DEBUG", raising=False)
    monkeypatch.delenv("OUROBOROS3D_RUN_VERSION", raising=False)
    return tmp_path


# The stray-file guard: a test writes under tmp_path, and a run that leaves anything else in the working folder fails.
_BEFORE = pytest.StashKey[set[str]]()
_STRAY = pytest.StashKey[list[str]]()
_TOOLS = (".pytest_cache", ".hypothesis", ".coverage", "coverage.xml", "htmlcov", "__pycache__")


def _entries(config: pytest.Config) -> set[str]:
    """Names in the folder the run started in and in its `runs`, without what pytest and its plugins leave."""
    folder = config.invocation_params.dir
    runs = Path(folder, "runs")
    names = {path.name for path in folder.iterdir() if not path.name.startswith(_TOOLS)}
    return names | ({f"runs/{path.name}" for path in runs.iterdir()} if runs.is_dir() else set())


def pytest_sessionfinish(session: pytest.Session) -> None:
    stray = sorted(_entries(session.config) - session.config.stash[_BEFORE])
    session.config.stash[_STRAY] = stray
    if stray and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if stray := config.stash.get(_STRAY, []):
        terminalreporter.section("stray files", red=True)
        terminalreporter.line(f"expected the tests to write under tmp_path, got new in {config.invocation_params.dir}:")
        terminalreporter.line(", ".join(stray))

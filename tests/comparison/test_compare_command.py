"""`compare` as a user meets it: what it prints, what it leaves behind, what it refuses."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from run_writer import UIDS, write_run, write_study

from ouroboros3d.cli import main
from ouroboros3d.viewer.scene import read_scenes

VALUES = {"mv_psnr_foreground": [float(i) for i in range(8)], "chamfer": [0.1] * 8, "fscore@0.02": [0.5] * 8}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two experiments of two seeds, compared."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder / "runs", ["staged", "recursive"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["compare"])
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small tested runs in the working folder."""
    write_run(tmp_path / "runs" / "staged" / "version_0", VALUES)
    write_run(tmp_path / "runs" / "recursive" / "version_0", VALUES | {"chamfer": [0.05] * 8})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OUROBOROS3D_DEBUG", raising=False)
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command answers with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *arguments])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_the_terminal(
    study: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(study)
    monkeypatch.setenv("COLUMNS", str(width))
    main(["compare"])
    lines = capsys.readouterr().out.splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("page:"))]
    assert max(map(len, table)) <= width
    text = "\n".join(lines)
    for shown in ("novel PSNR fg", "Chamfer ↓", "F-score@0.02 ↑", "normal consistency ↑", "seconds ↓"):
        assert shown in text
    assert re.search(r"recursive +\*?\d+\.\d\d \+\d\.\d\d▲?", text)  # mean, difference
    assert re.search(r"\[[+-]\d\.\d\d, [+-]\d\.\d\d\]", text)  # interval
    assert "tensorboard: tensorboard --logdir runs/comparison" in lines


def test_numbers_in_the_csv_are_those_of_the_runs(study: Path) -> None:
    with (study / "runs/comparison/comparison.csv").open(newline="") as file:
        rows = {(row["variant"], row["metric"]): row for row in csv.DictReader(file)}
    with (study / "runs/recursive/version_1/results.csv").open(newline="") as file:
        second = [float(row["chamfer"]) for row in csv.DictReader(file)]
    with (study / "runs/recursive/version_0/results.csv").open(newline="") as file:
        first = [float(row["chamfer"]) for row in csv.DictReader(file)]
    row = rows["recursive", "chamfer"]
    assert float(row["mean"]) == pytest.approx(sum(first + second) / 16)
    counts = [row[f"n_{name}"] for name in ("objects", "seeds", "trainings", "pairs", "missing")]
    assert counts == ["8", "2", "2", "16", "0"]
    assert float(row["difference"]) == pytest.approx(float(row["mean"]) - float(rows["staged", "chamfer"]["mean"]))
    assert float(row["low"]) < float(row["difference"]) < float(row["high"])
    assert rows["staged", "chamfer"]["difference"] == rows["staged", "chamfer"]["verdict"] == ""
    assert {row["verdict"] for row in rows.values()} <= {"better", "worse", "undecided", ""}
    assert len(rows) == 2 * len({metric for _, metric in rows})


def test_markdown_holds_all_metrics_protocol_and_commands(study: Path) -> None:
    text = (study / "runs/comparison/comparison.md").read_text()
    assert "python -m ouroboros3d compare runs/recursive/version_0 runs/recursive/version_1 runs/staged" in text
    assert "python -m ouroboros3d test --config runs/staged/version_0/config.yaml" in text
    assert "8 test objects, 2 trainings and 2 runs of each variant" in text
    assert "t-intervals over either" in text
    assert "Holm p " in text
    assert "p alone is uncorrected" in text
    for row in ("| F-score@0.05 ↑ |", "| feedback_maps | none | colour coordinates |", "| resolution | 32 |"):
        assert row in text
    widths = [line.count(" |") for line in text.splitlines() if line.startswith("| views PSNR")]
    assert set(widths) == {3}


class _Page(HTMLParser):
    """Collects what a page would load, and whether its elements close."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.loads += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(study: Path) -> None:
    text = (study / "runs/comparison/comparison.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    links = [load for load in page.loads if not load.startswith(("data:image/webp;base64,", "#"))]
    assert links == [f"viewers/{uid}.html" for uid in UIDS]
    assert "url(http" not in text
    assert "@import" not in text
    assert page.count["img"] == 2 * len(UIDS)
    assert page.count["svg"] == 6
    pictures = sorted(path.name for path in (study / "runs/comparison/figures").iterdir())
    assert pictures == [f"{name}.svg" for name in ("costs", "differences", "gains", "kinds", "objects", "steps")]
    shown = re.findall(r"!\[\]\((.*)\)", (study / "runs/comparison/comparison.md").read_text())
    assert sorted(shown) == [f"figures/{name}" for name in pictures]
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text


def test_every_object_has_a_page_of_all_variants_in_3d(study: Path) -> None:
    pages = study / "runs/comparison/viewers"
    assert sorted(path.stem for path in pages.iterdir()) == sorted(UIDS)
    for index, uid in enumerate(UIDS):
        scenes = read_scenes(pages / f"{uid}.html")
        assert [scene["name"] for scene in scenes] == ["staged", "recursive"]
        own = [
            read_scenes(study / f"runs/{name}/version_0/objects/{uid}/viewer.html") for name in ("staged", "recursive")
        ]
        assert [scene["frames"] for scene in scenes] == [scenes[0]["frames"] for scenes in own]
        text = (pages / f"{uid}.html").read_text()
        for place, neighbour in (("previous", index - 1), ("next", index + 1)):
            linked = f'<a href="object{neighbour}.html">{place} object</a>'
            assert (linked in text) == (0 <= neighbour < len(UIDS))
        assert '<a href="../comparison.html">comparison</a>' in text


def test_objects_without_a_page_are_not_linked(here: Path) -> None:
    """As of tests by earlier versions, and of predictions that failed."""
    main(["compare"])
    assert not (here / "runs/comparison/viewers").exists()
    assert "viewers/" not in (here / "runs/comparison/comparison.html").read_text()


def test_names_are_escaped(here: Path) -> None:
    write_run(here / "runs" / "a & <b>" / "version_0", VALUES | {"chamfer": [0.2] * 8})
    main(["compare"])
    text = (here / "runs/comparison/comparison.html").read_text()
    assert "a &amp; &lt;b&gt;" in text
    assert "<b>" not in text.replace("<b>+", "").replace("<b>-", "").replace("<b>0", "")


def test_the_same_command_gives_the_same_files(here: Path) -> None:
    contents = []
    for _ in range(2):
        main(["compare"])
        folder = here / "runs/comparison"
        contents.append([(folder / f"comparison.{end}").read_text() for end in ("csv", "md", "html")])
    assert contents[0] == contents[1]
    main(["compare", "--out", "other"])
    assert "runs/staged/version_0 --out other\n" in Path("other/comparison.md").read_text()


def test_an_earlier_comparison_is_replaced_and_nothing_else_ever_is(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(here / "runs" / "third" / "version_0", VALUES)
    main(["compare"])
    out = here / "runs" / "comparison"
    assert (out / "third").is_dir()
    main(["compare", "runs/recursive", "runs/staged", "--baseline", "recursive"])
    assert not (out / "third").exists()
    assert [path.name for path in (here / "runs").iterdir() if path.name.startswith(".")] == []
    assert [len(list((out / name).glob("*/events*"))) for name in ("staged", "recursive")] == [1, 1]
    (out / "staged" / "seed_0" / "notes.txt").write_text("mine")
    kept = (out / "comparison.md").read_text()
    assert "staged/seed_0/notes.txt, which is not a comparison's; choose another --out" in refusal(capsys)
    assert (out / "staged" / "seed_0" / "notes.txt").read_text() == "mine"
    assert (out / "comparison.md").read_text() == kept
    assert "which is not a comparison's" in refusal(capsys, "--out", "runs/staged/version_0")
    Path("file").write_text("")
    assert "expected a folder, got the file file" in refusal(capsys, "--out", "file")
    Path("empty").mkdir()
    main(["compare", "--out", "empty"])
    assert Path("empty/comparison.html").is_file()


def test_what_is_refused_leaves_the_earlier_comparison(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare"])
    before = {path: path.read_bytes() for path in (here / "runs").rglob("*") if path.is_file()}
    picture = here / "runs/recursive/version_0/objects" / UIDS[0] / "views.png"
    picture.parent.mkdir(parents=True)
    picture.write_text("no picture")
    assert f"{UIDS[0]}/views.png: expected a picture" in refusal(capsys)
    Image.new("RGB", (50, 32)).save(picture)
    assert "expected square views side by side, got 50 x 32 pixels" in refusal(capsys)
    picture.unlink()
    (picture.parent / "gaussians.ply").write_text("no ply")
    assert "gaussians.ply: expected a binary little-endian ply" in refusal(capsys)  # found while the dashboard is made
    (picture.parent / "gaussians.ply").unlink()
    assert {path: path.read_bytes() for path in (here / "runs").rglob("*") if path.is_file()} == before


def test_wrong_usage_gets_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized arguments: --basline" in refusal(capsys, "--basline", "staged")
    assert "baseline: expected one of recursive, staged, got best." in refusal(capsys, "--baseline", "best")
    assert "allow: expected one of" in refusal(capsys, "--allow", "everything")
    assert "nowhere: expected a run's folder" in refusal(capsys, "nowhere")
    assert "elsewhere: expected a run's folder" in refusal(capsys, "--runs", "elsewhere")
    assert "got none" in refusal(capsys, "--split", "val")
    assert "expected at least two variants, got staged alone" in refusal(capsys, "runs/staged")
    (here / "runs/staged/version_0/results.json").write_text("{")
    assert "results.json: expected JSON" in refusal(capsys)


def test_help_documents_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "--help"])
    shown = capsys.readouterr().out
    for option in ("--runs", "--out", "--baseline", "--split", "--allow"):
        assert f"{option} " in shown


def test_another_split_and_permitted_differences(here: Path) -> None:
    for name, steps in {"staged": 20, "recursive": 50}.items():
        write_run(here / "runs" / name / "val", VALUES, split="val", steps=steps)
    main(["compare", "runs/staged/val", "runs/recursive/val", "--split", "val", "--allow", "steps", "--out", "val"])
    text = Path("val/comparison.md").read_text()
    assert "steps differs between runs, which --allow steps permitted." in text
    assert "--out val --split val --allow steps" in text
    assert "8 val objects" in text

"""Training on a tree that check-data found wrong: refused in one line with the way out."""

import csv
import shlex
import shutil
from pathlib import Path

import pytest
from commands import refusal
from planted import OPENGL, Posed, write_official

from ouroboros3d.cli import main
from ouroboros3d.datamodules.objaverse import ObjaverseDataModule

ROOT = Path(__file__).parents[2]
FIT = (
    "fit",
    f"--config={ROOT / 'ablations/staged.yaml'}",
    f"--config={ROOT / 'tests/tiny.yaml'}",
    *("--data.root=tree", "--data.val_fraction=0", "--data.test_fraction=0", "--data.max_objects=null"),
    *("--trainer.max_steps=1", "--trainer.limit_val_batches=0"),
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUROBOROS3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OUROBOROS3D_RUN_VERSION", raising=False)
    monkeypatch.chdir(tmp_path)


def checkpoints() -> int:
    return len(list(Path("runs").glob("*/*/checkpoints/last.ckpt")))


def test_wrong_cameras_are_trained_on_only_when_asked_for(odd: list[Posed], capsys: pytest.CaptureFixture[str]) -> None:
    write_official(Path("tree"), odd, lambda c2w: c2w @ OPENGL)
    refusal(capsys, "check-data", "elsewhere")  # another tree's check says nothing of this one
    with pytest.raises(SystemExit, match="1"):
        main(["check-data", "tree"])
    line = refusal(capsys, *FIT)
    assert "which failed" in line
    assert "These look like camera-to-world poses with OpenCV camera axes" in line
    assert "--data.ignore_check true" in line
    assert checkpoints() == 0
    main([*FIT, "--data.ignore_check=true"])
    assert checkpoints() == 1


def test_broken_objects_are_left_out(odd: list[Posed], caplog: pytest.LogCaptureFixture) -> None:
    """A copy of another object is in the skip list as well, but no error: it is trained on."""
    write_official(Path("tree"), odd)
    missing = odd[0].uid
    shutil.copytree(Path("tree") / odd[1].uid, "tree/zz_copy")
    (Path("tree") / missing / "render_0003.webp").unlink()
    with pytest.raises(SystemExit, match="1"):
        main(["check-data", "tree", "--out", "checked"])
    data = ObjaverseDataModule(Path("tree"), val_fraction=0, test_fraction=0)
    data.setup("fit")
    assert "zz_copy" in data.train_dataloader().dataset.uids
    assert f"1 of {len(odd) + 1} train objects are left out (found by read: 1; " in caplog.text
    main(FIT)
    assert checkpoints() == 1
    (row,) = csv.DictReader(Path("runs/staged/version_0/left_out.csv").read_text().splitlines())
    assert (row["uid"], row["split"], row["found_by"]) == (missing, "train", "read")
    assert "render_0003.webp" in row["reason"]


def test_following_the_line_is_enough_however_the_tree_is_opened(
    odd: list[Posed], caplog: pytest.LogCaptureFixture
) -> None:
    write_official(Path("my tree"), odd[:1])

    def set_up() -> str:
        caplog.clear()
        data = ObjaverseDataModule(
            Path("my tree"), views_per_object=5, cache_dir=Path("elsewhere"), val_fraction=0, test_fraction=0
        )
        data.setup("fit")
        return caplog.text

    main(["check-data", "my tree", "--workers=1"])
    said = set_up()
    assert "cameras were never checked; run python -m ouroboros3d check-data 'my tree' " in said
    command = shlex.split(said.split("; run ")[1].splitlines()[0])
    main(command[command.index("check-data") :])
    assert "never checked" not in set_up()


def test_a_tree_that_passes_or_was_never_checked_is_trained_on(
    odd: list[Posed], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ouroboros3d")
    write_official(Path("tree"), odd)
    main(FIT)
    assert "cameras were never checked; run python -m ouroboros3d check-data tree" in caplog.text
    caplog.clear()
    main(["check-data", "tree"])
    main(FIT)
    assert "never checked" not in caplog.text
    assert checkpoints() == 2

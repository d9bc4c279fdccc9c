"""The probe of feedback: a network that ignores it has one error in all columns, one that uses it has not."""

import sys
from pathlib import Path

import pytest
import torch
from tiny_variants import parts, two_objects

from ouroboros3d.lightning_modules.recursive import Recursive

ROOT = Path(__file__).parents[2]
MAPS = ("colour", "coordinates")


@pytest.fixture
def feedback(monkeypatch: pytest.MonkeyPatch):
    """The script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import feedback

    yield feedback
    for name in ("feedback", "fake_run"):
        sys.modules.pop(name, None)


def test_a_network_that_ignores_feedback_has_one_error(feedback):
    module = Recursive(**parts(MAPS)).eval()  # heads start at zero
    errors = feedback.squared_errors(module, two_objects(), 3.0)
    assert list(errors) == list(feedback.MAPS)
    assert all(torch.equal(errors["none"], each) for each in errors.values())


def test_a_network_that_uses_feedback_tells_the_maps_apart(feedback):
    module, batch = Recursive(**parts(MAPS)).eval(), two_objects()
    torch.manual_seed(2)
    for adapter in module.unet.cond_encoder:
        for head in adapter.head:
            torch.nn.init.normal_(head.weight, std=0.1)
    errors = feedback.squared_errors(module, batch, 3.0)
    assert len({float(each.sum()) for each in errors.values()}) == len(feedback.MAPS)
    alone = feedback.squared_errors(module, batch[1:], 3.0)  # noise goes with the object, not with its place
    torch.testing.assert_close(errors["true"][1:], alone["true"])


def test_what_has_no_feedback_is_one_line(feedback, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["feedback.py", "--ckpt_path", str(tmp_path / "none.ckpt")])
    with pytest.raises(SystemExit, match=r"feedback.py: error: ckpt_path: no file .*none.ckpt"):
        feedback.main()
    monkeypatch.setattr(sys, "argv", ["feedback.py", "--ckpt_path", "x", "--sigmas", "1", "-1"])
    with pytest.raises(SystemExit, match="expected noise levels above 0, got -1"):
        feedback.main()

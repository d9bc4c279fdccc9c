"""The benchmark of a training step: its first form computes what today's does, and its file has the promised keys."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ouroboros3d.networks.view_convolution import ViewConv

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "tiny.yaml"


@pytest.fixture
def training_speed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delenv("OUROBOROS3D_RUN_VERSION", raising=False)
    import training_speed

    yield training_speed
    for name in ("training_speed", "fake_run"):
        sys.modules.pop(name, None)


def test_a_step_at_first_has_the_losses_and_gradients_of_todays(training_speed):
    options = [f"--config={ROOT / 'ablations' / 'recursive.yaml'}", f"--config={TINY}"]
    today, before = (
        training_speed.Training(more, at_first)
        for more, at_first in ((options, False), ([*options, *training_speed.AT_FIRST], True))
    )
    assert (today.batch_size, before.batch_size) == (2, 8)
    assert (today.average is None, before.average is None) == (False, True)
    kinds = [{type(part) for part in training.model.modules()} for training in (today, before)]
    assert ViewConv in kinds[0]
    assert nn.Conv3d in kinds[1]
    assert not kinds[1] & {ViewConv, training_speed.MultiviewAttention}
    before.model.load_state_dict(today.model.state_dict())
    batch, gradients = next(before.batches), []
    for training in (today, before):
        losses = training.model.training_losses(batch, training_speed.HEADS, seed=0)
        torch.stack(list(losses.values())).sum().backward()
        gradients.append([p.grad for p in training.model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm() + 1e-7  # float32 sums in another order


def test_the_ratios_are_written_under_their_keys(training_speed, tmp_path, capsys):
    file = tmp_path / "speed.json"
    assert training_speed.main(["--repeats", "1", "--scale", str(TINY), "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["bf16"] is False  # as tiny.yaml says
    for variant in ("staged", "recursive"):
        rates = [found[f"{variant}_samples_per_second{end}"] for end in ("", "_at_first")]
        assert found[f"{variant}_ratio"] == pytest.approx(rates[0] / rates[1])
    assert "| recursive |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        training_speed.main(["--repeats", "0"])
    assert "--repeats: expected at least 1, got 0" in capsys.readouterr().err

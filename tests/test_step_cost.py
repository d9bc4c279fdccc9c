"""The cost benchmarks at their smallest: what they count is what the code does; their files have the promised keys."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "tiny.yaml"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("OUROBOROS3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OUROBOROS3D_RUN_VERSION", raising=False)
    yield
    for name in ("fake_run", "step_cost", "levers"):
        sys.modules.pop(name, None)


def test_operations_and_bytes_are_counted_as_they_happen(benchmarks):
    import fake_run

    with fake_run.faked("bf16-mixed"), fake_run.LiveBytes() as made:
        left, right = torch.zeros(8, 16), torch.zeros(16, 32)
        assert fake_run.tflops(lambda: left @ right) == 2 * 8 * 16 * 32 / 1e12
        query = torch.zeros(1, 2, 64, 8)
        attended = fake_run.tflops(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query))
        assert attended == 2 * 2 * (2 * 64 * 64 * 8) / 1e12
        before = made.live
        big = torch.zeros(1000)
        view = big[:10]  # no bytes of its own
        assert made.live == before + 4000
        del big, view
        assert made.live == before
        assert made.peak >= before + 4000


@pytest.mark.slow
def test_a_step_at_the_papers_scale_is_estimated(benchmarks, capsys, tmp_path):
    import levers

    names = ["trainable: lora"]
    assert levers.main(["--scale", str(TINY), "--names", *names, "--out", str(tmp_path / "levers.md")]) == 0
    written = (tmp_path / "levers.md").read_text()
    rows = [line for line in written.splitlines() if line.startswith("| paper") or line.startswith("| trainable")]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in names]
    if not torch.cuda.is_available():
        assert all(row.endswith("estimated |") for row in rows)
    with pytest.raises(SystemExit):
        levers.main(["--names", "nothing"])
    assert "--names: expected some of paper.yaml as it is" in capsys.readouterr().err


@pytest.mark.slow
def test_two_short_generations_give_the_operations_of_a_long_one(benchmarks):
    import step_cost
    from fake_run import configuration, fake_batch, fake_model, faked, tflops

    config = configuration(*step_cost.arguments("recursive", [TINY]), "--model.sampler.num_steps=8")
    model, batch = fake_model(config), fake_batch(config)
    with faked():
        for every in (1, 2, 3):
            whole = tflops(lambda every=every: step_cost.generation(model, batch, 8, every))
            assert step_cost.whole_generation(model, batch, every) == pytest.approx(whole, rel=1e-9)


@pytest.mark.slow
def test_the_ratios_are_written_under_their_keys(benchmarks, tmp_path, capsys):
    import step_cost

    file = tmp_path / "cost.json"
    tiny = str(TINY)
    assert step_cost.main(["--repeats", "1", "--desk", tiny, "--paper", tiny, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    for key in ("train_ratio_desk", "train_ratio_paper_flops", "sample_ratio_desk", "sample_ratio_paper_flops"):
        assert 1 < found[key] < 3, key
    assert found["train_ratio_paper_flops"] == (found["heads_ratio_paper_flops"] + found["tails_ratio_paper_flops"]) / 2
    assert "| training step, expected |" in capsys.readouterr().out

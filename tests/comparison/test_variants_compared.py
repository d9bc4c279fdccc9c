"""Which runs are taken, how they become variants, and which of them may not be compared."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.markdown import Markdown
from run_writer import UIDS, write_run

from ouroboros3d.comparison.figures import scatter
from ouroboros3d.comparison.labels import grouped
from ouroboros3d.comparison.outcome import Comparison, compare
from ouroboros3d.comparison.runs import read_run
from ouroboros3d.comparison.tables import explanation, markdown
from ouroboros3d.comparison.variants import check_comparable, choose, group

BASE = [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two experiments: one with two seeds, an older twin and a run with other settings; one with one run."""
    folder = tmp_path / "runs"
    for version, more in {
        "version_0": {"seed": 0, "timestamp": "2026-01-02"},
        "version_1": {"seed": 1, "training_seed": 1, "timestamp": "2026-01-05"},
        "older_twin": {"seed": 0, "timestamp": "2026-01-01"},
        "other": {"seed": 2, "timestamp": "2026-01-03", "config": {"lr": 1e-3}},
    }.items():
        write_run(folder / "staged" / version, {"mv_psnr": BASE}, **more)
    write_run(folder / "recursive" / "version_0", {"mv_psnr": BASE}, method="Recursive")
    return folder


def result(folders: list[Path], baseline: str | None = None, allowed: tuple[str, ...] = ()) -> Comparison:
    variants = group([read_run(folder, "test") for folder in folders])
    notes = check_comparable(variants, allowed)
    return compare(variants, baseline, notes=notes, command="", split="test")


# ---------------------------------------------------------------------------------------------------------- the choice


def test_by_default_the_newest_of_each_experiment_with_its_other_seeds(runs):
    (runs / "comparison" / "staged" / "seed_0").mkdir(parents=True)  # an earlier comparison is no experiment
    (runs / "notes").mkdir()
    chosen, notes = choose([], runs, "test")
    assert [str(run.folder.relative_to(runs)) for run in chosen] == [
        "recursive/version_0",
        "staged/version_1",
        "staged/version_0",
    ]
    assert notes == []
    variants = group(chosen)
    assert {variant.name: list(variant.runs) for variant in variants} == {"recursive": ["0"], "staged": ["0", "1"]}


def test_named_runs_and_experiments(runs):
    chosen, _ = choose([runs / "recursive", runs / "staged" / "other"], runs, "test")
    assert [run.folder.name for run in chosen] == ["version_0", "other"]
    chosen, _ = choose([runs / "staged", runs / "staged" / "version_0"], runs, "test")
    assert [run.folder.name for run in chosen] == ["version_1", "version_0"]  # named twice, taken once


def test_variants_of_one_experiment_are_told_apart_by_version(runs):
    chosen, _ = choose([runs / "staged" / "version_0", runs / "staged" / "other"], runs, "test")
    assert [variant.name for variant in group(chosen)] == ["staged/version_0", "staged/other"]


def test_training_seeds_tell_runs_apart_where_the_samplers_seed_does_not(tmp_path):
    for seed in (0, 1):
        for name in ("staged", "recursive"):
            write_run(tmp_path / name / f"version_{seed}", {"mv_psnr": BASE}, training_seed=seed)
    variants = group(choose([], tmp_path, "test")[0])
    assert [list(variant.runs) for variant in variants] == [["0-0", "0-1"]] * 2


def test_unfinished_runs_are_left_out_with_a_note_and_refused_when_named(runs):
    (runs / "staged" / "version_1" / "results.kept.jsonl.part").touch()
    chosen, notes = choose([], runs, "test")
    assert "staged/version_1" not in [str(run.folder.relative_to(runs)) for run in chosen]
    assert len(notes) == 1
    assert f"{runs}/staged/version_1 is left out: its test is unfinished; finish it: python" in notes[0]
    with pytest.raises(ValueError, match="got an unfinished test"):
        choose([runs / "staged" / "version_1"], runs, "test")


def test_nothing_to_compare_gets_one_line(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected runs with results of the test objects, got none; python -m"):
        choose([], tmp_path / "empty", "test")
    with pytest.raises(FileNotFoundError, match="nowhere: expected a run's folder"):
        choose([tmp_path / "nowhere"], runs, "test")
    with pytest.raises(FileNotFoundError, match="nowhere: expected"):
        choose([], tmp_path / "nowhere", "test")
    with pytest.raises(ValueError, match="empty: expected a run or an experiment with tested runs, got none"):
        choose([tmp_path / "empty"], runs, "test")
    with pytest.raises(ValueError, match=r"got recursive alone \(.*recursive/version_0\); test another one: python -m"):
        group(choose([runs / "recursive"], runs, "test")[0])
    with pytest.raises(ValueError, match="got staged alone"):  # two seeds of one variant
        group(choose([runs / "staged"], runs, "test")[0])
    with pytest.raises(ValueError, match=r"older_twin: expected another seed or configuration than .*version_0"):
        group(choose([runs / "staged" / "version_0", runs / "staged" / "older_twin"], runs, "test")[0])
    elsewhere = write_run(tmp_path / "elsewhere" / "recursive" / "version_0", {"mv_psnr": BASE}, config={"lr": 1})
    with pytest.raises(ValueError, match="expected variants of different names, got two called recursive/version_0"):
        group(choose([runs / "recursive", elsewhere], runs, "test")[0])
    (runs / "staged" / "version_0" / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"version_0/config\.yaml: expected the run's configuration"):
        choose([], runs, "test")


# ------------------------------------------------------------------------------------------------------- comparability


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resolution", 64),
        ("background", "black"),
        ("fov_deg", 49.1),
        ("views", 8),
        ("data_sha256", "other data"),
        ("split_sha256", "other objects"),
        ("steps", 50),
        ("guidance_max", 1.0),
        ("lpips_net", "vgg"),
        ("fscore_thresholds", [0.1]),
        ("a_field_of_tomorrow", 1),
    ],
)
def test_runs_that_were_not_tested_alike_are_refused_by_name(tmp_path, field, value):
    first = write_run(tmp_path / "staged" / "version_0", {"mv_psnr": BASE})
    other = write_run(tmp_path / "recursive" / "version_0", {"mv_psnr": BASE}, **{field: value})
    with pytest.raises(ValueError, match=rf"{other}: expected {field} .* as in {first}, got .*--allow {field}"):
        result([first, other])
    assert (
        f"{field} differs between runs, which --allow {field} permitted."
        in result([first, other], None, (field,)).notes
    )


def test_what_the_ablation_is_may_differ(tmp_path):
    first = write_run(tmp_path / "staged" / "version_0", {"mv_psnr": BASE})
    other = write_run(
        tmp_path / "recursive" / "version_0",
        {"mv_psnr": BASE},
        method="Recursive",
        feedback_maps=["colour"],
        feedback_steps=[0, 1],
        projection_steps=[3],
        training_seed=5,
        git_commit="f" * 40,
        device="cuda:0",
    )
    notes = result([first, other]).notes
    assert "git_commit differs between runs: 0123abcd, ffffffffffff." in notes
    assert "device differs between runs: cpu, cuda:0." in notes
    assert not any("feedback" in note or "training_seed" in note for note in notes)


def test_other_objects_are_refused_and_shared_ones_compared_on_request(tmp_path):
    first = write_run(tmp_path / "staged" / "version_0", {"mv_psnr": BASE})
    uids = [*UIDS[:7], "another"]
    shifted = [value + 1 for value in BASE]
    other = write_run(tmp_path / "recursive" / "v", {"mv_psnr": shifted}, uids=uids, split_sha256="other")
    with pytest.raises(ValueError, match=r"expected the 8 objects of .*, got 8; another is in one of them only"):
        result([first, other])
    for allowed in ("uids", "split_sha256"):
        difference = result([first, other], None, (allowed,)).cells["recursive", "mv_psnr"].difference
        assert (difference.pairs, difference.missing, difference.mean) == (7, 2, pytest.approx(1))


def test_an_unknown_field_cannot_be_allowed(tmp_path):
    folders = [write_run(tmp_path / name / "v", {"mv_psnr": BASE}) for name in ("staged", "recursive")]
    with pytest.raises(ValueError, match=r"allow: expected one of background, .*uids, views, got colour\."):
        result(folders, None, ("colour",))


# ------------------------------------------------------------------------------------------------------------- numbers


def test_known_numbers_in_known_statistics_out(tmp_path):
    first = write_run(tmp_path / "staged" / "v", {"mv_psnr": BASE, "chamfer": [0.2] * 8, "constant_psnr": [1.0] * 8})
    values = {"mv_psnr": [v + 0.5 for v in BASE], "chamfer": [0.1] * 8, "constant_psnr": [2.0] * 8}
    better = write_run(tmp_path / "recursive" / "v", values)
    values = {"mv_psnr": [v - 0.5 for v in BASE], "chamfer": [0.3, 0.1] * 4, "constant_psnr": [1.0] * 8}
    worse = write_run(tmp_path / "joint_only" / "v", values)
    found = result([better, first, worse])
    assert [variant.name for variant in found.variants] == ["staged", "recursive", "joint_only"]
    assert found.cells["staged", "mv_psnr"].mean == 13.5
    assert found.cells["staged", "mv_psnr"].difference is None
    up = found.cells["recursive", "mv_psnr"].difference
    assert (up.mean, up.low, up.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (up.pairs, up.missing, up.baseline, up.verdict) == (8, 0, 13.5, "better")
    assert up.p < 1e-8  # every object gains the same
    assert up.trainings == 1
    assert found.cells["joint_only", "mv_psnr"].difference.verdict == "worse"
    # Lower is better.
    assert found.cells["recursive", "chamfer"].difference.verdict == "better"
    mixed = found.cells["joint_only", "chamfer"].difference
    assert mixed.low < 0 < mixed.high
    assert mixed.verdict == "undecided"
    assert found.best("chamfer") == ["recursive"]
    # Neither direction is better, or nothing differs.
    assert found.cells["recursive", "constant_psnr"].difference.verdict == ""
    assert found.best("constant_psnr") == []
    assert found.best("nfe") == []
    same = found.cells["recursive", "nfe"].difference
    assert (same.mean, same.low, same.high, same.p, same.verdict) == (0, 0, 0, 1, "undecided")


def test_pairs_go_by_uid_and_seed_whatever_the_order_of_rows(tmp_path):
    generator = np.random.default_rng(0)
    order = generator.permutation(8)
    offsets = {0: 0.25, 1: 0.75}
    folders = []
    for seed, offset in offsets.items():
        values = generator.normal(10, 3, 8)
        folders.append(write_run(tmp_path / "staged" / f"{seed}", {"mv_psnr": values}, seed=seed, training_seed=seed))
        shuffled, uids = (values + offset)[order], [UIDS[i] for i in order]
        folders.append(
            write_run(
                tmp_path / "recursive" / f"{seed}", {"mv_psnr": shuffled}, uids=uids, seed=seed, training_seed=seed
            )
        )
    found = result(folders[::-1])
    difference = found.cells["recursive", "mv_psnr"].difference
    assert difference.mean == pytest.approx(0.5)
    half = 12.706 * 0.25  # one degree of freedom, the standard error of the two trainings' mean
    assert (difference.low, difference.high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-4)
    assert difference.trainings == 2
    assert (difference.pairs, found.cells["recursive", "mv_psnr"].seeds) == (16, 2)
    assert found.per_object("recursive", "mv_psnr") - found.per_object("staged", "mv_psnr") == pytest.approx([0.5] * 8)


def test_missing_and_failed_pairs_are_left_out_and_counted(tmp_path):
    first = write_run(tmp_path / "staged" / "v", {"mv_psnr": BASE, "chamfer": [math.nan, 0.2] + [0.2] * 6})
    values = {"mv_psnr": [v + 1 for v in BASE], "chamfer": [0.1, math.nan] + [0.1] * 6}
    other = write_run(tmp_path / "recursive" / "v", values, failures={UIDS[7]: "ValueError: broken"})
    found = result([first, other])
    psnr, chamfer = (found.cells["recursive", name].difference for name in ("mv_psnr", "chamfer"))
    assert (psnr.pairs, psnr.missing, psnr.baseline) == (7, 1, 13.0)  # the mean without the failed object's 17
    assert (chamfer.pairs, chamfer.missing) == (5, 3)
    assert found.cells["recursive", "mv_psnr"].objects == 7
    assert any(f"1 of 8 objects failed ({UIDS[7]}: ValueError: broken)" in note for note in found.notes)
    assert any("3 in chamfer" in note for note in found.notes)


def test_only_shared_seeds_are_paired(tmp_path):
    for name, seeds in {"staged": (0, 1), "recursive": (1, 2), "joint_only": (3,)}.items():
        for seed in seeds:
            write_run(tmp_path / name / f"{seed}", {"mv_psnr": [v + seed for v in BASE]}, seed=seed)
    folders = [tmp_path / "staged" / "0", tmp_path / "staged" / "1", *(tmp_path / "recursive" / s for s in "12")]
    found = result(folders)
    assert found.cells["recursive", "mv_psnr"].difference.mean == 0
    assert found.cells["recursive", "mv_psnr"].difference.pairs == 8
    assert any("The seeds differ (staged: 0, 1; recursive: 1, 2)" in note for note in found.notes)
    with pytest.raises(
        ValueError, match="joint_only: expected an object and a seed in common with staged, got seeds 3"
    ):
        result([*folders, tmp_path / "joint_only" / "3"])


def test_the_baseline_is_staged_or_the_named_or_the_first(tmp_path):
    folders = {name: write_run(tmp_path / name / "v", {"mv_psnr": BASE}) for name in ("a", "staged", "b")}
    assert result(list(folders.values())).baseline.name == "staged"
    assert result(list(folders.values()), "b").baseline.name == "b"
    assert result([folders["b"], folders["a"]]).baseline.name == "b"
    with pytest.raises(ValueError, match=r"baseline: expected one of a, staged, b, got c\."):
        result(list(folders.values()), "c")


def test_notes_say_what_the_intervals_cannot(tmp_path):
    for name in ("staged", "recursive", "joint_only"):
        for seed in range(2):
            write_run(tmp_path / name / f"{seed}", {"mv_psnr": BASE}, seed=seed, training_seed=seed)
    every = {name: [tmp_path / name / f"{seed}" for seed in range(2)] for name in ("staged", "recursive", "joint_only")}
    assert result([*every["staged"], *every["recursive"]]).notes == []
    said = "One training: the intervals are over objects only, of these weights; another training may differ."
    assert said in result([every["staged"][0], every["recursive"][0]]).notes
    mixed = result([*every["staged"], *every["recursive"], every["joint_only"][0]])
    assert said.replace("intervals are", "intervals of joint_only are") in mixed.notes
    assert "over objects and trainings" in explanation(mixed)
    for name in ("a", "b"):
        write_run(tmp_path / name / "v", {"mv_psnr": [1.0]}, uids=UIDS[:1])
    single = result([tmp_path / "a" / "v", tmp_path / "b" / "v"])
    assert "One object is too few for an interval." in single.notes
    assert math.isnan(single.cells["b", "mv_psnr"].difference.low)


def test_sampling_seeds_of_one_training_are_no_trainings(tmp_path):
    for name, shift in {"staged": 0.0, "recursive": 1.0}.items():
        for seed in (0, 1):  # of the sampler alone, whose noise is large
            values = [value + shift + 10 * seed * (shift > 0) for value in BASE]
            write_run(tmp_path / name / f"{seed}", {"mv_psnr": values}, seed=seed)
    difference = result([tmp_path / name / seed for name in ("staged", "recursive") for seed in "01"])
    difference = difference.cells["recursive", "mv_psnr"].difference
    assert (difference.trainings, difference.pairs, difference.mean) == (1, 16, 6)
    assert (difference.low, difference.high) == pytest.approx((6, 6))  # all objects gain alike on average


def test_p_values_of_the_headline_are_corrected_for_how_many_there_are(tmp_path):
    gains = {"mv_psnr_foreground": 0.3, "novel_psnr_foreground": 0.6, "mv_psnr": 0.6}
    noise = np.random.default_rng(0).normal(size=8)
    for name, share in {"staged": 0.0, "recursive": 1.0}.items():
        values = {
            metric: [b + share * (gain + n) for b, n in zip(BASE, noise, strict=True)] for metric, gain in gains.items()
        }
        write_run(tmp_path / name / "v", values)
    found = result([tmp_path / "staged" / "v", tmp_path / "recursive" / "v"])
    small, large, beside = (found.cells["recursive", metric].difference for metric in gains)
    assert large.p == beside.p < small.p
    assert large.corrected == pytest.approx(min(2 * large.p, 1))  # of the two metrics of the headline
    assert small.corrected == pytest.approx(max(small.p, large.corrected))
    assert math.isnan(beside.corrected)
    text = markdown(found, {})
    assert f"Holm p {large.corrected:.3f}" in text
    assert f"<br>p {beside.p:.3f}" in text
    assert "corrected for the 2 differences of the headline" in text


def test_the_cost_of_a_batch_has_no_interval_over_its_objects(tmp_path):
    first = write_run(tmp_path / "staged" / "version_0", {"mv_psnr": BASE, "seconds": [1.0] * 8})
    other = write_run(tmp_path / "recursive" / "version_0", {"mv_psnr": BASE, "seconds": [2.0] * 8})
    difference = result([first, other]).cells["recursive", "seconds"].difference
    assert difference.mean == 1
    assert math.isnan(difference.low)
    assert math.isnan(difference.p)
    assert difference.verdict == ""


def test_names_that_a_comparison_needs_itself_are_refused(tmp_path):
    folders = [write_run(tmp_path / name / "version_0", {"mv_psnr": BASE}) for name in ("staged", "comparison.html")]
    with pytest.raises(ValueError, match="expected another experiment name, got one of a comparison's files"):
        result(folders)


def test_a_lonely_run_says_why_the_others_are_left_out(tmp_path):
    write_run(tmp_path / "staged" / "version_0", {"mv_psnr": BASE})
    unfinished = tmp_path / "recursive" / "version_0"
    write_run(unfinished, {"mv_psnr": BASE}, method="Recursive")
    (unfinished / "results.json").unlink()
    (unfinished / "results.0.jsonl.part").write_text("one\n")
    with pytest.raises(ValueError, match=r"got staged alone .*recursive/version_0 is left out: its test is unfinished"):
        group(*choose([], tmp_path, "test"))


def test_hostile_names_are_text_in_markdown_and_figures(tmp_path):
    names = ["staged", "a|b", "$x^$", "_under", "[l](u)", "*e*", "`c`", "~~s~~", "<i>", "&lt;", "#h", "a\nb", r"c\d"]
    evil = "<img src=x onerror=alert(1)>|[a](b)"
    scores = {name: {"mv_psnr": [12.0 + i] * 8} for i, name in enumerate(names)}
    folders = [write_run(tmp_path / name / "version_0", scores[name], **{evil: evil}) for name in names]
    comparison = replace(result(folders), notes=["<b> | x"], command="compare '```\n# no heading'")
    tokens = Markdown(markdown(comparison, {})).parsed
    plain = [" ".join(name.split()) for name in names]
    # As they are, and nothing else: no tag, no link, no further column.
    heads = [_words(token) for before, token in pairwise(tokens) if before.type == "th_open"]
    assert heads[: 1 + len(names)] == ["", *plain]
    assert heads.count(plain[1]) == 1 + len(grouped(comparison.metrics)) + 1  # headline, groups, protocol
    assert _words(tokens[1]) == f"Comparison of {', '.join(plain)}"
    assert any(_words(token) == "<b> | x" for token in tokens if token.type == "inline")
    assert [_words(token) for token in tokens if token.type == "inline"].count(evil) == 2  # a field and its value
    assert {token.type for token in tokens} & {"html_block", "html_inline"} == set()
    commands = [token.content for token in tokens if token.type == "fence"]
    assert commands[0] == comparison.command + "\n"
    assert len(commands) == 2
    figure = scatter(comparison, ["mv_psnr"])
    FigureCanvasAgg(figure).draw()
    shown = [entry.get_text() for entry in figure.axes[0].get_legend().get_texts()]
    assert [label.strip().split(":")[0] for label in shown][:3] == ["a|b", r"\$x^\$", "_under"]


def test_an_object_is_called_by_the_name_that_any_run_knows(tmp_path):
    before = write_run(tmp_path / "staged" / "version_0", {"mv_psnr": BASE})  # of a version without names
    named = write_run(tmp_path / "recursive" / "version_0", {"mv_psnr": BASE}, titles={UIDS[0]: "dresser"})
    comparison = result([before, named])
    assert [comparison.title(uid) for uid in UIDS[:2]] == [f"dresser, {UIDS[0]}", UIDS[1]]


def _words(token: Any) -> str:
    """What a reader sees of a token of Markdown."""
    return "".join(child.content for child in token.children)

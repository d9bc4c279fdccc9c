"""When objects that do not fit are an error: not by chance, and not for being thin."""

import pytest
import torch

from ouroboros3d.cameras import Cameras
from ouroboros3d.inspection.camera_checks.diagnosis import Diagnosis
from ouroboros3d.inspection.camera_checks.silhouette_fit import ViewSet
from ouroboros3d.inspection.camera_checks.statistics import CameraStatistics
from ouroboros3d.inspection.check import Check
from ouroboros3d.inspection.findings.cameras import camera_findings, suspects
from ouroboros3d.inspection.findings.finding import binomial_tail


def checked(misfits: list[float], tested: int, complete: bool = True) -> Check:
    """A check of objects of which the first have these misfits that nothing explains."""
    of = {str(number): misfits[number] if number < len(misfits) else 0.1 for number in range(tested)}
    found = Diagnosis(unexplained=[str(number) for number in range(len(misfits))])
    return Check([], of, complete, {}, {}, found, None, CameraStatistics.of([]))


@pytest.mark.parametrize(
    ("misfits", "tested", "severity"),
    [
        ([1.3], 1, "note"),  # 1 of 100 right objects may be like that
        ([1.3], 32, "note"),
        ([1.3, 1.2], 32, "note"),
        ([1.3, 1.2, 1.1], 32, "error"),
        ([1.3, 1.2], 4, "error"),
        ([1.3] * 40, 4000, "note"),
        ([1.3] * 80, 4000, "error"),
        ([5.0], 1, "error"),  # no right object is
        ([5.0], 4000, "error"),
    ],
)
def test_few_small_misfits_are_chance_and_large_ones_are_not(misfits: list[float], tested: int, severity: str) -> None:
    assert [finding.severity for finding in camera_findings(checked(misfits, tested))] == [severity]


def test_only_what_is_certain_and_rare_is_left_out_and_only_a_whole_check_makes_that_enough() -> None:
    for check, left_out, cured in (
        (checked([1.3], 32), False, False),
        (checked([5.0], 32), True, True),
        (checked([5.0], 32, complete=False), True, False),
        (checked([5.0] * 20, 32), False, False),
    ):
        assert [group.left_out for group in suspects(check)] == [left_out]
        (finding,) = camera_findings(check)
        assert finding.cured == cured
        assert ("--all" in finding.advice) == (not check.complete)


def test_chance_is_the_binomial_tail() -> None:
    assert binomial_tail(1, 1, 0.01) == pytest.approx(0.01)
    assert binomial_tail(2, 3, 0.1) == pytest.approx(3 * 0.01 * 0.9 + 0.001)
    assert binomial_tail(0, 5, 0.1) == 1


RING = Cameras.orbit([20.0 + 22.5 * view for view in range(16)], 17.0, 1.7417, 39.598)


def lamp(cameras: Cameras, size: int, width: float) -> torch.Tensor:
    """Alpha [F, size, size] of a pole and an arm, `width` pixels wide, with four rays a pixel, which may miss them."""
    fine = (torch.arange(2 * size) + 0.5) / 2
    pixels = torch.stack(torch.meshgrid(fine, fine, indexing="xy"), dim=-1)
    hit = torch.zeros(len(cameras.centres), 2 * size, 2 * size)
    for ends in ([[0.4, -0.5, 0.2], [0.4, 0.45, 0.2]], [[0.4, 0.45, 0.2], [-0.4, 0.4, -0.2]]):
        for view in range(len(hit)):
            start, end = cameras[view].project(torch.tensor(ends))[0] * size
            share = ((pixels - start) @ (end - start) / (end - start).square().sum()).clamp(0, 1)
            hit[view] += (pixels - start - share[..., None] * (end - start)).norm(dim=-1) < width / 2
    return torch.nn.functional.avg_pool2d(hit.clamp(max=1), 2)


def test_a_lamp_thinner_than_a_pixel_fits_although_its_hull_has_gaps() -> None:
    one = ViewSet.of("lamp", RING, lamp(RING, 64, 0.7))
    solid = one.masks.solid
    assert (one.hull.images & solid).sum() / solid.sum() < 0.98  # of all pixels: this made it an error once
    assert one.fits
    exchanged = [view ^ 1 for view in range(16)]
    assert not one.seen_by(RING[exchanged]).fits

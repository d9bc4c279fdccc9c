"""Mistakes that people make with cameras, planted into right ones: each is found, and called by its name."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from planted import ODD, OPENGL, RING, Y_FROM_Z, Posed, render

from ouroboros3d.cameras import Cameras, from_stored
from ouroboros3d.datamodules.readers.poses import BLENDER
from ouroboros3d.inspection.camera_checks.diagnosis import Diagnosis, diagnose, find_up
from ouroboros3d.inspection.camera_checks.silhouette_fit import ViewSet, views_to_test

Matrices = NDArray[np.float64]


def view_set(posed: Posed, stored: Matrices | None = None, focal: float = 1.0) -> ViewSet:
    """As a reader of the official layout gives it, from poses [F, 4, 4] that may be wrong."""
    poses = from_stored(torch.from_numpy(posed.blender if stored is None else stored), **BLENDER._asdict())
    intrinsics = posed.cameras.intrinsics_norm.clone()
    intrinsics[:, :2, :2] *= focal
    return ViewSet.of(posed.uid, Cameras(poses, intrinsics), torch.from_numpy(posed.rgba[..., 3]).float() / 255)


def diagnosis(sets: Sequence[ViewSet]) -> Diagnosis:
    found = diagnose(sets, BLENDER)
    find_up({one.uid: one.cameras for one in sets}, BLENDER, found)
    return found


def named(found: Diagnosis) -> str:
    """The mistake of the whole sample."""
    assert [explanation.of_all for explanation in found.explanations] == [True]
    assert not found.swapped
    assert not found.bad_views
    assert not found.unexplained
    return " or ".join(hypothesis.finding for hypothesis in found.explanations[0].hypotheses)


def transposed(c2w: Matrices) -> Matrices:
    stored = c2w.copy()
    stored[:, :3, :3] = c2w[:, :3, :3].transpose(0, 2, 1)
    return stored


def at_negated_elevation(c2w: Matrices) -> Matrices:
    """Look-at cameras on the other side of the horizon of the Z-up world."""
    below = np.diag([1, 1, -1, 1.0])
    return below @ c2w @ np.diag([1, -1, 1, 1.0])


def at_mirrored_azimuth(c2w: Matrices) -> Matrices:
    return np.diag([1, -1, 1, 1.0]) @ c2w @ np.diag([-1, 1, 1, 1.0])


@pytest.mark.parametrize(
    ("plant", "name"),
    [
        (lambda c2w: c2w @ OPENGL, "camera-to-world poses with OpenCV camera axes"),
        (np.linalg.inv, "world-to-camera poses with OpenGL camera axes"),
        (lambda c2w: np.linalg.inv(c2w @ OPENGL), "world-to-camera poses with OpenCV camera axes"),
        (transposed, "camera-to-world poses with OpenGL camera axes in a Z-up world and transposed rotations"),
        (lambda c2w: c2w @ np.diag([-1, -1, 1, 1.0]), "PyTorch3D camera axes"),
        (at_mirrored_azimuth, "azimuths that run the other way round"),
        (at_negated_elevation, "negated elevations"),
        (lambda c2w: np.roll(c2w, 1, axis=0), "cameras that are 1 view late"),
        (lambda c2w: c2w[::-1].copy(), "views stored in reverse order"),
    ],
)
def test_a_wrong_convention_is_named(odd: list[Posed], plant: Callable[[Matrices], Matrices], name: str) -> None:
    found = diagnosis([view_set(posed, plant(posed.blender)) for posed in odd[1:3]])
    assert named(found).startswith(name)
    assert not found.up
    for posed in odd[1:3]:
        mended = view_set(posed).seen_by(found.mended[posed.uid])
        assert mended.misfit == pytest.approx(view_set(posed).misfit, abs=0.02)  # float32 of inverses


@pytest.mark.parametrize(("turn", "up"), [(Y_FROM_Z, "+Y"), (np.linalg.inv(Y_FROM_Z), "-Y")])
def test_another_world_is_named_by_its_upward_axis(odd: list[Posed], turn: Matrices, up: str) -> None:
    found = diagnosis([view_set(posed, turn @ posed.blender) for posed in odd[:2]])
    assert not found.explanations
    assert set(found.up.values()) == {up}


def test_opencv_cameras_in_a_y_up_world_are_both_at_once(odd: list[Posed]) -> None:
    found = diagnosis([view_set(posed, Y_FROM_Z @ posed.blender @ OPENGL) for posed in odd[:2]])
    assert named(found).startswith("camera-to-world poses with OpenCV")
    assert set(found.up.values()) == {"+Y"}


@pytest.mark.parametrize("factor", [0.75, 1.3])
def test_a_wrong_field_of_view_is_measured(odd: list[Posed], factor: float) -> None:
    found = diagnosis([view_set(posed, focal=factor) for posed in odd])
    assert "field of view" in named(found)
    # 64 pixels and five objects; at 128 pixels and 40 objects it is 1 %.
    assert found.explanations[0].hypotheses[0].factor * factor == pytest.approx(1, abs=0.06)


def test_translations_scaled_view_by_view_are_named(even: list[Posed], odd: list[Posed]) -> None:
    factors = np.random.default_rng(3).uniform(0.8, 1.2, 8)
    scaled = []
    for posed in even[1:]:
        stored = posed.blender.copy()
        stored[:, :3, 3] *= factors[:, None]
        scaled.append(view_set(posed, stored))
    assert named(diagnosis(scaled)).startswith("translations that were scaled view by view")


def test_distances_that_were_lost_are_found_again(odd: list[Posed]) -> None:
    stored = odd[1].blender.copy()
    radius = np.linalg.norm(stored[:, :3, 3], axis=1)
    stored[:, :3, 3] *= 1.5 / radius[:, None]
    found = diagnosis([view_set(odd[1], stored)])
    assert found.own_radii == [odd[1].uid]
    again = found.mended[odd[1].uid].centres.norm(dim=-1).numpy()
    assert again / again.mean() == pytest.approx(radius / radius.mean(), abs=0.02)


def test_two_exchanged_views_are_named(odd: list[Posed]) -> None:
    stored = odd[2].blender[[0, 1, 6, 3, 4, 5, 2, 7]]
    found = diagnosis([view_set(odd[2], stored), *map(view_set, odd[:2])])
    assert found.swapped == {odd[2].uid: (2, 6)}
    assert not found.explanations


def test_a_single_wrong_view_is_named(odd: list[Posed]) -> None:
    stored = odd[1].blender.copy()
    angle = np.radians(40)
    stored[4] = np.block(
        [[np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), np.zeros((2, 2))],
         [np.zeros((2, 2)), np.eye(2)]]
    ) @ stored[4]  # fmt: skip
    found = diagnosis([view_set(odd[1], stored), view_set(odd[0])])
    assert found.bad_views == {odd[1].uid: [4]}
    assert not found.explanations


def test_of_very_many_views_evenly_chosen_ones_are_tested_and_named_by_their_numbers(odd: list[Posed]) -> None:
    assert views_to_test(8) == tuple(range(8))
    many = views_to_test(10_000)
    assert (len(many), many[0], many[-1]) == (200, 0, 9999)
    assert set(np.diff(many)) == {50, 51}
    late = view_set(odd[2], odd[2].blender[[0, 1, 6, 3, 4, 5, 2, 7]])
    found = diagnosis([replace(late, numbers=many[:8]), *map(view_set, odd[:2])])
    assert found.swapped == {odd[2].uid: (many[2], many[6])}


def test_some_objects_of_another_convention_are_named_alone(odd: list[Posed]) -> None:
    sets = [view_set(odd[0], odd[0].blender @ OPENGL), *map(view_set, odd[1:4])]
    (explanation,) = diagnosis(sets).explanations
    assert explanation.uids == (odd[0].uid,)
    assert explanation.hypotheses[0].finding.startswith("camera-to-world poses with OpenCV")


def test_right_cameras_of_every_shape_raise_no_alarm(odd: list[Posed], even: list[Posed]) -> None:
    for sets in ([view_set(posed) for posed in odd[:4]], [view_set(posed) for posed in even[:4]]):
        found = diagnosis(sets)
        assert found == Diagnosis()
        assert max(one.misfit for one in sets) < 1


def test_a_ball_tells_nothing_and_nothing_is_told_of_it(even: list[Posed]) -> None:
    """Mirrored cameras see a ball as right ones do."""
    ball = even[0]
    assert diagnosis([view_set(ball, at_mirrored_azimuth(ball.blender))]) == Diagnosis()


def test_a_wrong_object_among_right_ones_on_a_ring_is_no_mistake_of_all(even: list[Posed]) -> None:
    """All cameras a view late see right objects of an even ring as before: only the wrong one could speak for it."""
    horse = render(ODD[0], RING, 39.598)
    exchanged = view_set(horse, horse.blender[[0, 4, 2, 3, 1, 5, 6, 7]])
    found = diagnosis([exchanged, *map(view_set, even[1:4])])
    assert not found.explanations
    assert found.swapped == {horse.uid: (1, 4)}

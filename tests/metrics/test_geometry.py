"""Geometry metrics against closed forms and a k-d tree; alignment against motions that are known."""

import math
from itertools import pairwise

import pytest
import torch
from pytorch3d.ops import iterative_closest_point
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize
from torch.testing import assert_close

from ouroboros3d.metrics.geometry import Chamfer, FScore, NormalConsistency, VolumeIoU, align, surface_distances
from ouroboros3d.surface import Surface


def values(prediction: Surface, target: Surface, threshold: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """Chamfer distance, F-score and normal consistency [B]."""
    distances = surface_distances(prediction, target)
    metrics = Chamfer(), FScore(threshold), NormalConsistency()
    return tuple(metric.values(distances) for metric in metrics)


def plate(z: float, step: float = 0.1) -> Surface:
    """A square grid of points at height z, facing +Z."""
    x, y = torch.meshgrid(torch.arange(0, 1, step), torch.arange(0, 1, step), indexing="ij")
    points = torch.stack([x, y, torch.full_like(x, z)], dim=-1).reshape(1, -1, 3)
    return Surface(points, torch.tensor([0.0, 0.0, 1.0]).expand_as(points))


def sphere(radius: float, count: int = 500) -> Surface:
    """Points in fixed directions, so that the nearest point of a concentric sphere is the one in the same direction."""
    i = torch.arange(count) + 0.5
    polar, turn = torch.acos(1 - 2 * i / count), math.pi * (1 + 5**0.5) * i
    normals = torch.stack([polar.sin() * turn.cos(), polar.cos(), polar.sin() * turn.sin()], dim=-1)[None]
    return Surface(radius * normals, normals)


def bent_sheet(count: int = 600, objects: int = 1) -> Surface:
    """Off-centre and without any symmetry, points and normals drawn at random."""
    u, v = torch.rand(2, objects, count)
    points = torch.stack([0.5 * u - 0.1, 0.3 * v + 0.2 * u**2 - 0.2, 0.2 * torch.sin(2 * u) + 0.1 * v], dim=-1)
    along_u = torch.stack([torch.full_like(u, 0.5), 0.4 * u, 0.4 * torch.cos(2 * u)], dim=-1)
    along_v = torch.tensor([0.0, 0.3, 0.1]).expand_as(along_u)
    return Surface(points, normalize(torch.linalg.cross(along_u, along_v), dim=-1))


def missing(count: int) -> Surface:
    return Surface(torch.full((1, count, 3), math.nan), torch.full((1, count, 3), math.nan))


def motion(axis: tuple[float, float, float], angle_deg: float, move: tuple[float, float, float], scale: float = 1.0):
    """Similarity [1, 4, 4] by the matrix exponential."""
    x, y, z = normalize(torch.tensor(axis), dim=0).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = torch.eye(4)[None]
    matrix[0, :3, :3] = scale * torch.linalg.matrix_exp(math.radians(angle_deg) * cross)
    matrix[0, :3, 3] = torch.tensor(move)
    return matrix


def yaw(angle_deg: float) -> Tensor:
    return motion((0.0, 1.0, 0.0), angle_deg, (0.0, 0.0, 0.0))


class TestDistances:
    """Chamfer distance, F-score and normal consistency."""

    @pytest.mark.parametrize(
        "pair", [(plate(0.0), plate(0.04)), (sphere(0.4), sphere(0.44)), (sphere(0.44), sphere(0.4))]
    )
    def test_parallel_surfaces_are_as_far_apart_as_they_are(self, pair):
        chamfer, within, consistency = values(*pair, threshold=0.0401)
        _, beyond, _ = values(*pair, threshold=0.0399)
        assert chamfer.item() == pytest.approx(0.04, rel=1e-5)
        assert (within.item(), beyond.item(), consistency.item()) == pytest.approx((1.0, 0.0, 1.0))

    def test_a_surface_agrees_with_itself(self):
        surface = bent_sheet(objects=2)
        chamfer, fscore, consistency = values(surface, surface, threshold=1e-6)
        assert_close(torch.stack([chamfer, fscore, consistency]), torch.tensor([[0.0] * 2, [1.0] * 2, [1.0] * 2]))

    def test_half_a_surface_is_precise_and_incomplete(self):
        whole = plate(0.0)
        half = whole[:, :50]  # x below 0.5; the other rows are 0.1, 0.2 ... 0.5 away
        chamfer, fscore, _ = values(half, whole, threshold=0.15)
        assert chamfer.item() == pytest.approx((0 + 0.5 * 0.3) / 2)
        assert fscore.item() == pytest.approx(2 * 1 * 0.6 / (1 + 0.6))
        distances = surface_distances(half, whole)
        assert distances.to_target.shape == (1, 50)
        assert distances.to_prediction.shape == (1, 100)

    def test_tilted_normals_agree_by_their_cosine_whichever_way_they_point(self):
        flat = plate(0.0)
        for tilt, expected in ((60.0, 0.5), (120.0, 0.5), (180.0, 1.0), (90.0, 0.0)):
            turned = flat.normals @ motion((1.0, 0.0, 0.0), tilt, (0.0, 0.0, 0.0))[0, :3, :3].T
            assert values(Surface(flat.points, turned), flat)[2].item() == pytest.approx(expected, abs=1e-6)

    def test_random_clouds_against_a_tree(self):
        prediction, target = bent_sheet(300), bent_sheet(457)
        prediction = Surface(prediction.points + 0.03 * torch.randn(1, 300, 3), prediction.normals)
        p, q = prediction.points[0].double().numpy(), target.points[0].double().numpy()
        there, i = cKDTree(q).query(p)
        back, j = cKDTree(p).query(q)
        precision, recall = (there < 0.03).mean(), (back < 0.03).mean()
        n, m = prediction.normals[0].double(), target.normals[0].double()
        agreement = ((n * m[i]).sum(-1).abs().mean() + (m * n[j]).sum(-1).abs().mean()) / 2
        chamfer, fscore, consistency = values(prediction, target, threshold=0.03)
        assert chamfer.item() == pytest.approx((there.mean() + back.mean()) / 2, rel=1e-5)
        assert fscore.item() == pytest.approx(2 * precision * recall / (precision + recall), rel=1e-5)
        assert consistency.item() == pytest.approx(agreement.item(), rel=1e-5)

    def test_more_noise_scores_worse(self):
        target, prediction = bent_sheet(2000), bent_sheet(2000)
        noise, turn = torch.randn(2, 1, 2000, 3)
        scores = [
            values(
                Surface(prediction.points + sigma * noise, normalize(prediction.normals + 10 * sigma * turn, dim=-1)),
                target,
                threshold=0.02,
            )
            for sigma in (0.0, 0.01, 0.03, 0.1)
        ]
        for (near, good, smooth), (far, bad, rough) in pairwise(scores):
            assert far > near
            assert bad < good
            assert rough < smooth

    def test_no_prediction_is_the_worst_score_and_touches_no_other_object(self):
        target = bent_sheet(200, objects=2)
        other = bent_sheet(300)
        chamfer, fscore, consistency = values(Surface.cat([missing(300), other]), target, threshold=0.02)
        assert chamfer.isnan().tolist() == consistency.isnan().tolist() == [True, False]
        assert fscore[0] == 0
        for found, alone in zip((chamfer, fscore, consistency), values(other, target[1:], threshold=0.02), strict=True):
            assert found[1] == alone[0]

    def test_half_precision_around_a_metric_does_not_reach_it(self):
        prediction, target = bent_sheet(), bent_sheet()
        expected = values(prediction, target)
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            assert_close(values(prediction, target), expected, rtol=0, atol=0)

    def test_impossible_input_is_refused(self):
        with pytest.raises(ValueError, match=r"target: expected a surface of every object, got none at \[1\]"):
            surface_distances(bent_sheet(9, objects=2), Surface.cat([bent_sheet(9), missing(9)]))
        with pytest.raises(ValueError, match="target: expected B = 1 objects, got 2"):
            surface_distances(bent_sheet(9), bent_sheet(9, objects=2))
        with pytest.raises(ValueError, match="threshold: expected positive"):
            FScore(0.0)


class TestAlignment:
    """What maps a prediction onto its target."""

    def test_none_changes_nothing(self):
        prediction = bent_sheet()
        moved, matrix = align(prediction, bent_sheet(), "none")
        assert torch.equal(moved.points, prediction.points)
        assert torch.equal(matrix, torch.eye(4)[None])

    @pytest.mark.parametrize("angle_deg", [0.0, 15.0, 105.0, 345.0])
    def test_yaw_finds_a_turn_on_its_grid(self, angle_deg):
        prediction = bent_sheet()
        target = prediction.transform(yaw(angle_deg))
        moved, matrix = align(prediction, target, "yaw")
        assert_close(matrix, yaw(angle_deg))
        assert_close(moved.points, target.points)
        assert_close(moved.normals, target.normals)

    def test_yaw_finds_the_nearest_turn_of_other_points_of_the_surface(self):
        _, matrix = align(bent_sheet(), bent_sheet().transform(yaw(77.0)), "yaw", yaw_step_deg=30.0)
        assert_close(matrix, yaw(90.0))
        _, matrix = align(bent_sheet(), bent_sheet().transform(yaw(100.0)), "yaw", yaw_step_deg=50.0)
        assert_close(matrix, yaw(100.0))

    def test_icp_finds_a_small_rigid_motion(self):
        prediction = bent_sheet()
        known = motion((1.0, 2.0, -0.5), 6.0, (0.02, -0.03, 0.01))
        moved, matrix = align(prediction, prediction.transform(known), "icp")
        assert_close(matrix, known, rtol=0, atol=1e-4)  # where ICP stops; worst of 8 seeds 1e-6
        assert_close(moved.points, prediction.points @ matrix[0, :3, :3].T + matrix[0, :3, 3])
        assert_close(moved.normals, prediction.normals @ matrix[0, :3, :3].T)

    def test_icp_goes_on_from_the_best_yaw(self):
        prediction = bent_sheet()
        known = motion((1.0, 0.0, 0.2), 4.0, (0.01, 0.02, 0.0)) @ yaw(120.0)
        moved, matrix = align(prediction, prediction.transform(known), "icp")
        assert_close(matrix, known, rtol=0, atol=1e-4)  # worst of 8 seeds 1e-6
        assert_close(moved.points, prediction.transform(known).points, rtol=0, atol=1e-4)

    def test_size_is_changed_only_where_asked_for(self):
        prediction = bent_sheet()
        known = motion((0.0, 1.0, 0.1), 4.0, (0.01, -0.02, 0.0), scale=1.08)
        target = prediction.transform(known)
        moved, matrix = align(prediction, target, "icp", align_scale=True)
        assert_close(matrix, known, rtol=0, atol=1e-4)  # worst of 7 seeds 1e-6; an 8th starts in another valley
        assert_close(moved.normals.norm(dim=-1), torch.ones(1, 600))
        _, rigid = align(prediction, target, "icp")
        assert torch.linalg.det(rigid[0, :3, :3]).item() == pytest.approx(1.0, abs=1e-5)

    @pytest.mark.filterwarnings("ignore:Excessively low rank:UserWarning")  # PyTorch3D of what is provoked here
    def test_a_free_size_is_no_way_to_vanish(self):
        """Left alone, ICP shrinks this cloud to nothing: one point of the target is the nearest of all its points."""
        prediction = bent_sheet()
        points = torch.cat([torch.tensor([[[0.1, -0.1, 0.6]]]), plate(3.0).points], dim=1)
        target = Surface(points, torch.tensor([0.0, 0.0, 1.0]).expand_as(points))
        collapsed = iterative_closest_point(prediction.points, target.points, estimate_scale=True)
        assert collapsed.RTs.s.item() < 1e-6
        found = {kind: align(prediction, target, kind, align_scale=True) for kind in ("none", "yaw", "icp")}
        chamfer = {kind: values(moved, target)[0].item() for kind, (moved, _) in found.items()}
        assert chamfer["icp"] < chamfer["yaw"] <= chamfer["none"]
        assert 0.5 <= found["icp"][1][0, :3, 0].norm() <= 2
        assert_close(found["icp"][0].normals.norm(dim=-1), torch.ones(1, 600))

    @pytest.mark.filterwarnings("ignore:(Excessively low rank|The size of one of the point clouds):UserWarning")
    def test_a_single_point_is_moved_and_not_spoilt(self):
        moved, matrix = align(bent_sheet(1), bent_sheet(), "icp", align_scale=True)
        assert moved.present.all()
        assert torch.linalg.det(matrix[0, :3, :3]).item() == pytest.approx(1.0, abs=1e-5)

    @pytest.mark.parametrize("alignment", ["yaw", "icp"])
    def test_a_batch_is_its_objects_one_by_one(self, alignment):
        prediction = Surface.cat([bent_sheet(objects=2), missing(600)])
        target = bent_sheet(500, objects=3).transform(torch.cat([yaw(60.0), yaw(-30.0), yaw(0.0)]))
        moved, matrix = align(prediction, target, alignment)
        for i in range(2):
            alone, one = align(prediction[i : i + 1], target[i : i + 1], alignment)
            assert torch.equal(matrix[i], one[0])
            assert_close(moved.points[i], alone.points[0])
        assert not moved.present[2]
        assert torch.equal(matrix[2], torch.eye(4))

    def test_half_precision_around_it_does_not_reach_it(self):
        prediction, target = bent_sheet(), bent_sheet().transform(yaw(33.0))
        expected, matrix = align(prediction, target, "icp")
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            moved, again = align(prediction, target, "icp")
        assert torch.equal(again, matrix)
        assert torch.equal(moved.points, expected.points)

    def test_impossible_input_is_refused(self):
        surface = bent_sheet(9)
        with pytest.raises(ValueError, match="alignment: expected none, yaw or icp, got best"):
            align(surface, surface, "best")
        with pytest.raises(ValueError, match=r"yaw_step_deg: expected degrees in \(0, 360\], got 0"):
            align(surface, surface, "yaw", yaw_step_deg=0.0)
        with pytest.raises(ValueError, match="target: expected a surface"):
            align(surface, missing(9), "yaw")


def test_volume_iou_of_shifted_boxes() -> None:
    truth = torch.zeros(3, 10, 10, 10, dtype=torch.bool)
    truth[:2, 2:6, 2:6, 2:6] = True
    shifted = truth.roll(1, dims=1)
    found = VolumeIoU().values(shifted, truth)
    assert found[:2].tolist() == pytest.approx([48 / 80, 48 / 80])  # 4 x 4 x 3 cells of 2 * 64 - 48
    assert found[2].isnan(), "nothing is compared with nothing"
    assert VolumeIoU().values(truth, truth)[:2].tolist() == [1, 1]
    assert (VolumeIoU().values(truth.roll(2, dims=1), truth)[:2] < found[:2]).all()

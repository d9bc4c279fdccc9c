"""The Gaussians' maths against explicit formulas, and their ply files in every layout and axes."""

import math
import struct
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ouroboros3d.commands import arguments
from ouroboros3d.gaussians import (
    Gaussians,
    PlyAxes,
    load_ply,
    matrix_to_quaternion,
    quaternion_multiply,
    quaternion_to_matrix,
    save_ply,
)

FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}  # products of a few numbers below 1 in float32; worst seen 4e-7
LAYOUTS = ("inria", "lgm")
AXES = {  # what a file's point is, from the internal one, written out
    "gl_yup": lambda x, y, z: (x, y, z),
    "colmap": lambda x, y, z: (x, -y, -z),
    "blender_zup": lambda x, y, z: (x, -z, y),
    "supersplat": lambda x, y, z: (-x, -y, z),
}


def some_gaussians(objects: int = 1, count: int = 11) -> Gaussians:
    """Off-centre, anisotropic, each turned differently, all above the pruning threshold."""
    generator = torch.Generator().manual_seed(1)
    return Gaussians(
        means=torch.rand(objects, count, 3, generator=generator) - torch.tensor([0.2, 0.4, 0.7]),
        scales=torch.rand(objects, count, 3, generator=generator) * torch.tensor([0.2, 0.05, 0.01]) + 0.001,
        quaternions=torch.nn.functional.normalize(torch.randn(objects, count, 4, generator=generator), dim=-1),
        opacities=torch.rand(objects, count, 1, generator=generator) * 0.9 + 0.05,
        colours=torch.rand(objects, count, 3, generator=generator),
    )


def axis_angle_matrix(axis: Tensor, angle: float) -> Tensor:
    """Rodrigues' formula for one unit axis [3]."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=axis.dtype)
    return torch.eye(3, dtype=axis.dtype) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def axis_angle_quaternion(axis: Tensor, angle: float) -> Tensor:
    """(w, x, y, z) of the same turn."""
    return torch.cat([torch.tensor([math.cos(angle / 2)], dtype=axis.dtype), axis * math.sin(angle / 2)])


class TestQuaternions:
    """(w, x, y, z) throughout."""

    def test_a_quarter_turn_about_z_takes_x_to_y(self):
        half = math.sqrt(0.5)
        matrix = quaternion_to_matrix(torch.tensor([half, 0.0, 0.0, half]))
        assert_close(matrix @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))

    @pytest.mark.parametrize("angle", [0.0, 1e-3, 0.7, 2.0, math.pi - 1e-3, math.pi, 4.0])
    @pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -2, 3), (-3, 1, 1), (0, 1, -1)])
    def test_equals_rodrigues_both_ways(self, axis, angle):
        axis = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
        matrix, quaternion = axis_angle_matrix(axis, angle), axis_angle_quaternion(axis, angle)
        assert_close(quaternion_to_matrix(quaternion), matrix)
        back = matrix_to_quaternion(matrix)
        assert_close(back.norm(), torch.tensor(1.0).double())
        assert_close((back * quaternion).sum().abs(), torch.tensor(1.0).double())  # the same turn up to sign

    def test_normalises_each_quaternion_by_itself(self):
        quaternions = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 0.1, 0.0, 0.0]])
        assert_close(quaternion_to_matrix(quaternions)[0], torch.eye(3))
        assert_close(quaternion_to_matrix(quaternions)[1], torch.diag(torch.tensor([1.0, -1.0, -1.0])))

    def test_product_applies_the_right_one_first(self):
        left, right = torch.nn.functional.normalize(torch.randn(2, 20, 4, dtype=torch.float64), dim=-1)
        product = quaternion_to_matrix(quaternion_multiply(left, right))
        assert_close(product, quaternion_to_matrix(left) @ quaternion_to_matrix(right))

    @given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(v * v for v in q) > 1e-3))
    @settings(max_examples=100, deadline=None)
    def test_round_trip_of_any_rotation(self, values):
        matrix = quaternion_to_matrix(torch.tensor(values, dtype=torch.float64))
        assert_close(quaternion_to_matrix(matrix_to_quaternion(matrix)), matrix)


class TestGaussians:
    """Covariances, similarities, the container."""

    def test_covariances_against_brute_force(self):
        gaussians = some_gaussians(objects=2)
        covariances = gaussians.covariances()
        assert covariances.shape == (2, 11, 3, 3)
        for b in range(2):
            for n in range(11):
                w = gaussians.quaternions[b, n].double()
                angle = 2 * math.atan2(w[1:].norm(), w[0])
                rotation = axis_angle_matrix(w[1:] / w[1:].norm(), angle)
                expected = sum(
                    gaussians.scales[b, n, i].double() ** 2 * torch.outer(rotation[:, i], rotation[:, i])
                    for i in range(3)
                )
                assert_close(covariances[b, n], expected.float(), **FLOAT32)

    def test_sample_moments_are_mean_and_covariance(self):
        """The definition itself: points drawn along the own axes have this covariance in the scene."""
        gaussian = some_gaussians(count=1)
        drawn = torch.randn(200_000, 3) * gaussian.scales[0, 0]
        points = drawn @ gaussian.rotations()[0, 0].T + gaussian.means[0, 0]
        # 200,000 draws leave a relative error of 1/sqrt(200,000) = 0.2 %; five of these
        largest = gaussian.covariances()[0, 0].abs().max().item()
        assert_close(points.T.cov(), gaussian.covariances()[0, 0], rtol=0, atol=0.01 * largest)

    def test_similarity_moves_samples_and_gaussians_alike(self):
        gaussians = some_gaussians(objects=2)
        axis = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -0.5]), dim=0)
        similarity = torch.eye(4).repeat(2, 1, 1)
        for b, (angle, scale) in enumerate([(0.8, 1.7), (-2.5, 0.4)]):
            similarity[b, :3, :3] = scale * axis_angle_matrix(axis, angle)
            similarity[b, :3, 3] = torch.tensor([0.3, -0.2, 0.9]) * (b + 1)
        moved = gaussians.transform(similarity)
        for b in range(2):
            linear = similarity[b, :3, :3]
            for n in range(11):
                mean = linear @ gaussians.means[b, n] + similarity[b, :3, 3]
                covariance = linear @ gaussians.covariances()[b, n] @ linear.T
                assert_close(moved.means[b, n], mean, **FLOAT32)
                assert_close(moved.covariances()[b, n], covariance, **FLOAT32)
        assert torch.equal(moved.opacities, gaussians.opacities)
        assert torch.equal(moved.colours, gaussians.colours)

    def test_similarity_and_back(self):
        gaussians = some_gaussians().to(dtype=torch.float64)
        similarity = torch.eye(4, dtype=torch.float64)[None].clone()
        similarity[0, :3, :3] = 2.5 * axis_angle_matrix(torch.tensor([0.0, 0.6, 0.8]).double(), 1.1)
        similarity[0, :3, 3] = torch.tensor([1.0, -2.0, 0.5])
        back = gaussians.transform(similarity).transform(torch.linalg.inv(similarity))
        assert_close(back.means, gaussians.means)
        assert_close(back.covariances(), gaussians.covariances())

    def test_gradients_reach_every_covariance_parameter(self):
        gaussians = some_gaussians(count=3).to(dtype=torch.float64)

        def covariances(scales: Tensor, quaternions: Tensor) -> Tensor:
            return Gaussians(gaussians.means, scales, quaternions, gaussians.opacities, gaussians.colours).covariances()

        assert torch.autograd.gradcheck(
            covariances, (gaussians.scales.requires_grad_(), gaussians.quaternions.requires_grad_())
        )

    def test_index_cat_detach(self):
        gaussians = some_gaussians(objects=2)
        assert gaussians.shape == (2, 11)
        assert gaussians[1:].shape == (1, 11)
        assert gaussians[:, ::2].colours.shape == (2, 6, 3)
        assert Gaussians.cat([gaussians, gaussians]).shape == (4, 11)
        assert torch.equal(Gaussians.cat([gaussians[:, :4], gaussians[:, 4:]], dim=1).means, gaussians.means)
        gaussians.means.requires_grad_()
        assert not gaussians.detach().means.requires_grad


def test_the_command_line_knows_all_axes():
    assert arguments.AXES == get_args(PlyAxes) == tuple(AXES)


class TestPly:
    """Files are read here by a parser of their own, so that writer and reader cannot agree on a mistake."""

    @staticmethod
    def parse(path) -> tuple[list[str], dict[str, list[float]]]:
        """Header lines and columns of a binary little-endian ply of floats."""
        head, body = path.read_bytes().split(b"end_header\n", 1)
        lines = head.decode().splitlines()
        names = [line.split()[2] for line in lines if line.startswith("property")]
        rows = list(struct.iter_unpack(f"<{len(names)}f", body))
        return lines, {name: [row[i] for row in rows] for i, name in enumerate(names)}

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("axes", AXES)
    def test_values_in_the_file(self, tmp_path, layout, axes):
        gaussians, path = some_gaussians(), tmp_path / "object.ply"
        assert save_ply(gaussians, path, layout=layout, axes=axes, comments=["run test"]) == 0
        lines, columns = self.parse(path)
        assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
        assert {f"comment axes {axes}", f"comment layout {layout}", "comment run test"} <= set(lines)
        assert "element vertex 11" in lines
        normals = ["nx", "ny", "nz"] if layout == "inria" else []
        dc, scale, rotation = ([f"{name}_{i}" for i in range(n)] for name, n in (("f_dc", 3), ("scale", 3), ("rot", 4)))
        assert list(columns) == ["x", "y", "z", *normals, *dc, "opacity", *scale, *rotation]
        assert all(value == 0 for name in normals for value in columns[name])
        turn = torch.tensor([AXES[axes](*row) for row in torch.eye(3).tolist()]).T  # columns = images of the unit axes
        for n in range(11):
            expected = AXES[axes](*gaussians.means[0, n].tolist())
            assert [columns[c][n] for c in "xyz"] == pytest.approx(expected)
            opacity = gaussians.opacities[0, n, 0].item()
            assert columns["opacity"][n] == pytest.approx(math.log(opacity / (1 - opacity)), rel=1e-4, abs=1e-5)
            for i in range(3):
                assert columns[f"scale_{i}"][n] == pytest.approx(math.log(gaussians.scales[0, n, i]), rel=1e-5)
                colour = (gaussians.colours[0, n, i].item() - 0.5) * math.sqrt(
                    4 * math.pi
                )  # over the constant harmonic
                assert columns[f"f_dc_{i}"][n] == pytest.approx(colour, rel=1e-4, abs=1e-6)
            stored = torch.tensor([columns[f"rot_{i}"][n] for i in range(4)])
            assert stored.norm().item() == pytest.approx(1, abs=1e-6)
            assert_close(quaternion_to_matrix(stored), turn @ gaussians.rotations()[0, n], **FLOAT32)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("axes", AXES)
    def test_round_trip(self, tmp_path, layout, axes):
        gaussians, path = some_gaussians(), tmp_path / "object.ply"
        save_ply(gaussians, path, layout=layout, axes=axes)
        back = load_ply(path)
        assert back.shape == (1, 11)
        for name in ("means", "opacities", "colours"):
            assert_close(getattr(back, name), getattr(gaussians, name), **FLOAT32)
        assert_close(back.quaternions.norm(dim=-1), torch.ones(1, 11))
        # ln and exp of a scale of 0.001 keep five digits, squared here
        assert_close(back.covariances(), gaussians.covariances(), rtol=1e-4, atol=1e-7)

    def test_fields_are_read_by_name(self, tmp_path):
        """Other programs order their fields differently and add some of their own."""
        names = "rot_3 rot_2 rot_1 rot_0 z y x extra opacity f_dc_2 f_dc_1 f_dc_0 scale_2 scale_1 scale_0".split()
        values = [0.0, 0.0, 0.0, 2.0, 3.0, 2.0, 1.0, 9.0, 0.0, 0.3, 0.2, 0.1]
        values += [math.log(0.3), math.log(0.2), math.log(0.1)]
        header = ["ply", "format binary_little_endian 1.0", "element vertex 1", *(f"property float {n}" for n in names)]
        path = tmp_path / "other.ply"
        path.write_bytes("\n".join([*header, "end_header\n"]).encode() + struct.pack(f"<{len(values)}f", *values))
        read = load_ply(path)
        assert_close(read.means, torch.tensor([[[1.0, 2.0, 3.0]]]))
        assert_close(read.scales, torch.tensor([[[0.1, 0.2, 0.3]]]))
        assert_close(read.quaternions, torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]))  # normalised on reading
        assert_close(read.opacities, torch.tensor([[[0.5]]]))

    def test_faint_gaussians_are_left_out_and_counted(self, tmp_path):
        gaussians = some_gaussians()
        gaussians.opacities[0, [2, 5], 0] = torch.tensor([0.004, 0.0])
        assert save_ply(gaussians, tmp_path / "object.ply") == 2
        kept = [n for n in range(11) if n not in (2, 5)]
        assert_close(load_ply(tmp_path / "object.ply").means, gaussians.means[:, kept])

    def test_extreme_values_stay_finite(self, tmp_path):
        gaussians = some_gaussians()
        gaussians.opacities[0, 0], gaussians.scales[0, 1] = 1.0, 0.0
        save_ply(gaussians, tmp_path / "object.ply")
        back = load_ply(tmp_path / "object.ply")
        assert all(math.isfinite(v) for column in self.parse(tmp_path / "object.ply")[1].values() for v in column)
        assert back.opacities[0, 0, 0] > 0.999
        assert back.scales[0, 1].max() < 1e-6

    def test_no_gaussian_left(self, tmp_path):
        assert save_ply(some_gaussians(), tmp_path / "object.ply", min_opacity=1.0) == 11
        assert load_ply(tmp_path / "object.ply").shape == (1, 0)

    def test_one_object_a_file(self, tmp_path):
        with pytest.raises(ValueError, match="expected one object, got 2"):
            save_ply(some_gaussians(objects=2), tmp_path / "object.ply")
        assert list(tmp_path.iterdir()) == []

    def test_gaussians_in_a_graph_can_be_saved(self, tmp_path):
        gaussians = some_gaussians()
        gaussians.means.requires_grad_()
        save_ply(gaussians, tmp_path / "object.ply")

    @pytest.mark.parametrize("cut", [0, 3, 40, 200, -1, -60])
    def test_truncated_file(self, tmp_path, cut):
        path = tmp_path / "object.ply"
        save_ply(some_gaussians(), path)
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(ValueError, match=r"object\.ply: expected"):
            load_ply(path)

    @pytest.mark.parametrize(
        "content",
        [
            b"not a ply at all",
            b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n",
            b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nend_header\n\0\0\0\0",
            b"ply\nformat binary_little_endian 1.0\nelement vertex many\nend_header\n",
            bytes(range(256)) * 4,
        ],
        ids=["text", "ascii", "fields missing", "count is no number", "bytes"],
    )
    def test_garbage(self, tmp_path, content):
        path = tmp_path / "garbage.ply"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"garbage\.ply: expected"):
            load_ply(path)

    def test_unknown_axes(self, tmp_path):
        path = tmp_path / "object.ply"
        save_ply(some_gaussians(), path)
        path.write_bytes(path.read_bytes().replace(b"axes gl_yup", b"axes sideway"))
        with pytest.raises(ValueError, match=r"object\.ply: expected axes"):
            load_ply(path)

    def test_double_properties_are_refused(self, tmp_path):
        """Their bytes would be read as floats and shift every column."""
        path = tmp_path / "object.ply"
        save_ply(some_gaussians(), path)
        path.write_bytes(path.read_bytes().replace(b"property float nx", b"property double nx"))
        with pytest.raises(ValueError, match=r"object\.ply: expected"):
            load_ply(path)

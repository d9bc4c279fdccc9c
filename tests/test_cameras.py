"""Every convention of the cameras against values worked out by hand or by an independent program.

Cameras are off-centre, with W != H, fx != fy and cx != 0.5, so that each flip, swap or transpose fails a test.
"""

import math

import pytest
import torch
from pytorch3d.renderer import look_at_view_transform
from torch import Tensor
from torch.testing import assert_close

from ouroboros3d.cameras import (
    Cameras,
    check_rigid,
    crop_intrinsics,
    from_gaussian_splatting,
    from_pytorch3d,
    from_stored,
    intrinsics,
    to_blender,
    to_gaussian_splatting,
    to_pytorch3d,
)

HEIGHT, WIDTH = 48, 80
FLOAT32 = {"rtol": 1e-5, "atol": 2e-6}  # float32 stores about 7 digits, values here are below 10; worst seen 7e-7
FLIP_YZ = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


def odd_cameras() -> Cameras:
    """[1, 4] orbit cameras with different radii, focal lengths and principal points."""
    orbit = Cameras.orbit([[20.0, 110.0, 205.0, 300.0]], [[-15.0, 10.0, 40.0, 75.0]], [[1.5, 1.7, 2.0, 2.4]], 50.0)
    matrix = intrinsics(
        torch.tensor([[0.9, 1.1, 1.3, 0.8]]),
        torch.tensor([[1.5, 1.4, 2.0, 1.2]]),
        torch.tensor([[0.4, 0.55, 0.47, 0.6]]),
        torch.tensor([[0.58, 0.45, 0.52, 0.4]]),
    )
    return Cameras(orbit.c2w_opencv, matrix)


def odd_points() -> Tensor:
    """[1, 7, 3] points of an off-centre shape without any symmetry."""
    return torch.tensor(
        [
            [
                [0.3, 0.1, -0.2],
                [0.1, 0.4, 0.05],
                [-0.05, 0.2, 0.35],
                [0.25, -0.1, 0.1],
                [0.0, 0.0, 0.0],
                [0.33, 0.21, 0.17],
                [-0.12, 0.07, -0.31],
            ]
        ]
    )


def view(azimuth: float, elevation: float, radius: float = 2.0, fov: float = 40.0) -> Cameras:
    """One orbit camera, shape [1]."""
    return Cameras.orbit([azimuth], [elevation], [radius], fov)


class TestOrbit:
    """Look-at cameras: axes, angles, field of view."""

    def test_azimuth_0_stands_on_plus_z_and_looks_back(self):
        expected = torch.tensor(
            [[[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]]]  # right +X, down -Y, forward -Z
        )
        assert_close(view(0, 0).c2w_opencv, expected)

    def test_centre_formula(self):
        azimuth, elevation = math.radians(37), math.radians(25)
        expected = [
            1.7 * math.cos(elevation) * math.sin(azimuth),
            1.7 * math.sin(elevation),
            1.7 * math.cos(elevation) * math.cos(azimuth),
        ]
        assert_close(view(37, 25, 1.7).centres, torch.tensor([expected]), **FLOAT32)

    def test_signs_of_axes_in_the_image(self):
        points = torch.tensor([[[0.3, 0.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.3]]])
        uv, _ = view(0, 0).project(points)
        assert uv[0, 0, 0] > 0.5  # +X is right of the centre
        assert uv[0, 1, 1] < 0.5  # +Y is in the upper half
        uv, _ = view(90, 0).project(points)
        assert uv[0, 2, 0] < 0.5  # from +X, +Z is left of the centre

    def test_positive_elevation_is_above_and_sees_the_top(self):
        camera = view(15, 30)
        assert camera.centres[0, 1] > 0
        _, depth = camera.project(torch.tensor([[[0.0, 0.2, 0.0], [0.0, -0.2, 0.0]]]))
        assert depth[0, 0] < depth[0, 1]

    @pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (37, 25), (-110, -40), (200, 80)])
    def test_sees_the_origin_at_the_principal_point(self, azimuth, elevation):
        orbit = view(azimuth, elevation, 1.7)
        camera = Cameras(orbit.c2w_opencv, intrinsics(*torch.tensor([[1.2], [1.6]]), 0.42, 0.57))
        uv, depth = camera.project(torch.zeros(1, 1, 3))
        assert_close(uv, torch.tensor([[[0.42, 0.57]]]), **FLOAT32)
        assert_close(depth, torch.tensor([[1.7]]), **FLOAT32)
        check_rigid(camera.c2w_opencv)
        assert_close(torch.linalg.det(camera.c2w_opencv), torch.ones(1))

    @pytest.mark.parametrize("elevation", [90.0, -90.0])
    def test_poles_keep_right_without_roll(self, elevation):
        camera = view(30, elevation)
        check_rigid(camera.c2w_opencv)
        right = torch.tensor([[math.cos(math.radians(30)), 0.0, -math.sin(math.radians(30))]])
        assert_close(camera.c2w_opencv[:, :3, 0], right)

    def test_equals_pytorch3d_look_at(self):
        azimuth, elevation = torch.tensor([20.0, 130.0, -75.0]), torch.tensor([-15.0, 30.0, 60.0])
        rotation, translation = look_at_view_transform(1.7, elevation, azimuth)
        ours = Cameras.orbit(azimuth, elevation, 1.7, 40.0)
        assert_close(from_pytorch3d(rotation, translation), ours.c2w_opencv, **FLOAT32)

    def test_equals_kiui_orbit_camera_with_the_elevation_negated(self):
        def kiui_orbit_camera(elevation: float, azimuth: float, radius: float) -> Tensor:
            """The documented behaviour of kiui.cam.orbit_camera: OpenGL axes, y = -r sin(elevation)."""
            el, az = math.radians(elevation), math.radians(azimuth)
            centre = torch.tensor([math.cos(el) * math.sin(az), -math.sin(el), math.cos(el) * math.cos(az)]).double()
            back = centre / centre.norm()
            right = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]).double(), back)
            right = right / right.norm()
            pose = torch.eye(4).double()
            pose[:3] = torch.stack([right, torch.linalg.cross(back, right), back, centre * radius], dim=-1)
            return pose

        expected = (kiui_orbit_camera(-30, 70, 1.5) @ FLIP_YZ).float()
        assert_close(view(70, 30, 1.5).c2w_opencv[0], expected, **FLOAT32)

    def test_field_of_view_is_horizontal_and_pixels_are_square(self):
        camera = Cameras.orbit([0.0], 0.0, 2.0, 60.0, aspect=WIDTH / HEIGHT)
        matrix = camera.intrinsics_norm[0]
        assert_close(matrix[0, 0].item() * WIDTH, matrix[1, 1].item() * HEIGHT)
        edge = torch.tensor([[[2 * math.tan(math.radians(30)), 0.0, 0.0]]])  # on the right border, at depth 2
        assert_close(camera.project(edge)[0][0, 0], torch.tensor([1.0, 0.5]), **FLOAT32)

    @pytest.mark.parametrize(
        ("fov_deg", "focal"),
        [(49.134, 1.09375), (49.1, 1.09462), (39.598, 1.38889), (40, 1.37374), (50, 1.07225), (67.38, 0.75)],
    )
    def test_focal_of_published_rigs(self, fov_deg, focal):
        # The table gives five decimals.
        assert view(0, 0, fov=fov_deg).intrinsics_norm[0, 0, 0].item() == pytest.approx(focal, abs=2e-5)

    @pytest.mark.parametrize("fov", [math.radians(49.1), 0.0, 180.0, math.nan])
    def test_radians_for_degrees_are_refused(self, fov):
        with pytest.raises(ValueError, match="fov_x_deg: expected degrees"):
            view(0, 0, fov=fov)

    @pytest.mark.parametrize("radius", [0.0, -1.5, math.nan])
    def test_radius_must_be_positive(self, radius):
        with pytest.raises(ValueError, match="radius: expected positive"):
            view(0, 0, radius)


class TestRays:
    """Rays through pixel centres."""

    def test_principal_point_ray_is_the_forward_column(self):
        # An odd image whose centre pixel's centre is the principal point.
        orbit = odd_cameras()
        camera = Cameras(
            orbit.c2w_opencv, intrinsics(torch.full((1, 4), 1.1), torch.full((1, 4), 1.7), 2.5 / 7, 3.5 / 5)
        )
        _, directions = camera.rays(5, 7)
        assert_close(directions[..., 3, 2], camera.c2w_opencv[..., :3, 2], **FLOAT32)

    @pytest.mark.parametrize("scale", [1, 8])
    def test_pixel_centres_at_every_resolution(self, scale):
        camera, height, width = odd_cameras(), 6 * scale, 10 * scale
        origins, directions = camera.rays(height, width)
        assert origins.shape == directions.shape == (1, 4, 3, height, width)
        points = (origins + 1.3 * directions).flatten(-2).transpose(-1, -2)
        uv, _ = camera.project(points)
        v, u = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        assert_close(uv, torch.stack([u, v], dim=-1).reshape(1, 1, -1, 2).expand_as(uv), **FLOAT32)

    def test_directions_are_unit_and_origins_are_centres(self):
        origins, directions = odd_cameras().rays(HEIGHT, WIDTH)
        assert_close(directions.norm(dim=2), torch.ones(1, 4, HEIGHT, WIDTH))
        assert_close(origins[..., 5, 9], odd_cameras().centres)

    def test_plucker_by_hand(self):
        # From +X, looking along -X: the ray through the centre is o = (2, 0, 0), d = (-1, 0, 0), moment 0. With the
        # principal point at the top left pixel of 2 x 2 the ray of the bottom right one is worked out below.
        camera = Cameras(view(90, 0).c2w_opencv, intrinsics(torch.ones(1), torch.full((1,), 2.0), 0.25, 0.25))
        plucker = camera.plucker(2, 2)
        assert plucker.shape == (1, 6, 2, 2)
        assert_close(plucker[0, :, 0, 0], torch.tensor([0.0, 0, 0, -1, 0, 0]), **FLOAT32)
        # in camera (0.5, 0.25, 1): right = -Z, down = -Y, forward = -X
        direction = torch.tensor([-1.0, -0.25, -0.5]) / math.sqrt(1 + 0.0625 + 0.25)
        moment = torch.tensor([0.0, -2 * direction[2], 2 * direction[1]])  # (2, 0, 0) x d
        assert_close(plucker[0, :, 1, 1], torch.cat([moment, direction]), **FLOAT32)

    def test_plucker_moment_is_that_of_any_point_of_the_ray(self):
        camera = odd_cameras()
        origins, directions = camera.rays(4, 6)
        moment = torch.linalg.cross(origins + 0.7 * directions, directions, dim=2)
        assert_close(camera.plucker(4, 6), torch.cat([moment, directions], dim=2), **FLOAT32)


class TestProjection:
    """project, unproject, depth."""

    def test_formula_by_hand(self):
        camera = Cameras(view(0, 0).c2w_opencv, intrinsics(torch.ones(1), torch.full((1,), 1.5), 0.4, 0.55))
        uv, depth = camera.project(torch.tensor([[[0.3, 0.2, 0.5]]]))
        assert_close(depth, torch.tensor([[1.5]]))
        assert_close(uv, torch.tensor([[[0.3 / 1.5 + 0.4, -1.5 * 0.2 / 1.5 + 0.55]]]))

    def test_unproject_inverts_project(self):
        camera = odd_cameras()
        points = odd_points()[:, None].expand(1, 4, 7, 3)
        assert_close(camera.unproject(*camera.project(points)), points, **FLOAT32)

    def test_points_broadcast_over_views(self):
        uv, depth = odd_cameras().project(odd_points()[:, None])
        assert uv.shape == (1, 4, 7, 2)
        assert depth.shape == (1, 4, 7)
        one, _ = odd_cameras()[:, 2].project(odd_points())
        assert_close(one, uv[:, 2])

    def test_behind_the_camera_is_negative_depth(self):
        _, depth = view(0, 0).project(torch.tensor([[[0.0, 0.0, 2.5]]]))
        assert depth.item() == pytest.approx(-0.5)

    def test_depth_is_along_forward_not_along_the_ray(self):
        # A wall parallel to the image at depth 1.2 is hit by every ray at z = 1.2, and the lengths differ.
        camera = odd_cameras()
        origins, directions = camera.rays(HEIGHT, WIDTH)
        wall = camera.unproject(
            camera.project((origins + directions).flatten(-2).mT)[0], torch.full((1, 4, HEIGHT * WIDTH), 1.2)
        )
        offset = wall - camera.centres[..., None, :]
        along = (offset * camera.c2w_opencv[..., None, :3, 2]).sum(-1)
        assert_close(along, torch.full_like(along, 1.2), **FLOAT32)
        u = (torch.arange(WIDTH) + 0.5) / WIDTH
        v = (torch.arange(HEIGHT) + 0.5) / HEIGHT
        matrix = camera.intrinsics_norm[..., None, None, :, :]
        x = (u - matrix[..., 0, 2]) / matrix[..., 0, 0]
        y = (v[:, None] - matrix[..., 1, 2]) / matrix[..., 1, 1]
        length = 1.2 * (x**2 + y**2 + 1).sqrt()
        assert_close(offset.norm(dim=-1), length.flatten(-2), **FLOAT32)
        assert length.max() > 1.1 * length.min()

    def test_one_scale_for_poses_and_points_keeps_the_image(self):
        camera, points = odd_cameras(), odd_points()[:, None]
        pose = camera.c2w_opencv.clone()
        pose[..., :3, 3] *= 0.6
        uv, depth = camera.project(points)
        uv_small, depth_small = Cameras(pose, camera.intrinsics_norm).project(0.6 * points)
        assert_close(uv_small, uv, **FLOAT32)
        assert_close(depth_small, 0.6 * depth, **FLOAT32)

    def test_differentiable_in_points(self):
        points = odd_points().double().requires_grad_()
        assert torch.autograd.gradcheck(odd_cameras()[:, 1].to(dtype=torch.float64).project, (points,))


class TestStoredConventions:
    """One rig written in every stored convention, element by element, and read back."""

    @staticmethod
    def stored(camera: Cameras, pose: str, axes: str, world: str) -> Tensor:
        """The pose as a file of this convention has it, from its columns rather than from matrix products."""
        right, down, forward, centre = camera.c2w_opencv[..., :3, :].double().unbind(-1)
        columns = [right, down, forward] if axes == "opencv" else [right, -down, -forward]
        if world == "z_up":  # (x, y, z) of the Y-up world is (x, -z, y) in the Z-up one
            columns = [torch.stack([c[..., 0], -c[..., 2], c[..., 1]], dim=-1) for c in columns]
            centre = torch.stack([centre[..., 0], -centre[..., 2], centre[..., 1]], dim=-1)
        rotation = torch.stack(columns, dim=-1)
        if pose == "c2w":
            return torch.cat([rotation, centre[..., None]], dim=-1)
        return torch.cat([rotation.mT, -rotation.mT @ centre[..., None]], dim=-1)

    @pytest.mark.parametrize("pose", ["c2w", "w2c"])
    @pytest.mark.parametrize("axes", ["opengl", "opencv"])
    @pytest.mark.parametrize("world", ["y_up", "z_up"])
    @pytest.mark.parametrize("rows", [3, 4])
    def test_read_back(self, pose, axes, world, rows):
        camera = odd_cameras()
        matrix = self.stored(camera, pose, axes, world)
        if rows == 4:
            matrix = torch.cat([matrix, torch.tensor([0.0, 0, 0, 1]).double().expand(1, 4, 1, 4)], dim=-2)
        read = from_stored(matrix, pose=pose, axes=axes, world=world)
        assert read.dtype == torch.float32
        assert_close(read, camera.c2w_opencv, rtol=0, atol=1e-6)

    def test_every_convention_differs(self):
        """The eight stored forms of one pose are eight matrices, so a wrong choice cannot pass by accident."""
        forms = [
            self.stored(odd_cameras(), pose, axes, world)[0, 0]
            for pose in ("c2w", "w2c")
            for axes in ("opengl", "opencv")
            for world in ("y_up", "z_up")
        ]
        for i, one in enumerate(forms):
            assert all((one - other).abs().max() > 0.1 for other in forms[:i])

    @pytest.mark.parametrize(("z_up_azimuth", "azimuth"), [(-90, 0), (0, 90), (90, 180), (25, 115)])
    def test_z_up_azimuth_is_ours_less_90(self, z_up_azimuth, azimuth):
        angle = math.radians(z_up_azimuth)
        centre = torch.tensor([math.cos(angle), math.sin(angle), 0.0]).double()
        right = torch.tensor([-math.sin(angle), math.cos(angle), 0.0]).double()
        up = torch.tensor([0.0, 0.0, 1.0]).double()
        blender = torch.stack([right, up, centre, 2 * centre], dim=-1)  # OpenGL axes look along -centre
        read = from_stored(blender, pose="c2w", axes="opengl", world="z_up")
        assert_close(read, view(azimuth, 0).c2w_opencv[0], **FLOAT32)

    def test_to_blender_is_what_is_read_back(self):
        camera = odd_cameras()
        blender = to_blender(camera.c2w_opencv)
        assert_close(blender[..., :3, :], self.stored(camera, "c2w", "opengl", "z_up"))
        assert_close(from_stored(blender, pose="c2w", axes="opengl", world="z_up"), camera.c2w_opencv)

    @pytest.mark.parametrize("broken", ["scaled", "mirrored", "nan"])
    def test_poses_that_are_not_rigid_are_refused(self, broken):
        matrix = self.stored(odd_cameras(), "c2w", "opengl", "z_up")
        if broken == "scaled":
            matrix[..., :3] *= 1.01
        elif broken == "mirrored":
            matrix[..., 0] *= -1
        else:
            matrix[..., 0, 0] = math.nan
        with pytest.raises(ValueError, match="expected rigid poses"):
            from_stored(matrix, pose="c2w", axes="opengl", world="z_up")

    def test_a_transposed_pose_is_refused(self):
        with pytest.raises(ValueError, match="last row"):
            check_rigid(odd_cameras().c2w_opencv.mT)


class TestOtherLibraries:
    """3DGS and PyTorch3D see the same image: non-square, off-centre principal point, fx != fy."""

    def test_gaussian_splatting_matrices(self):
        camera, points = odd_cameras(), odd_points()[:, None].expand(1, 4, 7, 3)
        near, far = 0.3, 5.0
        view_matrix, full = to_gaussian_splatting(camera, near, far)
        homogeneous = torch.cat([points, torch.ones(1, 4, 7, 1)], dim=-1)
        uv, depth = camera.project(points)
        clip = homogeneous @ full
        ndc = clip[..., :3] / clip[..., 3:]
        assert_close((ndc[..., :2] + 1) / 2, uv, **FLOAT32)
        assert_close(clip[..., 3], depth, **FLOAT32)
        assert_close((homogeneous @ view_matrix)[..., 2], depth, **FLOAT32)
        expected = far / (far - near) - far * near / (far - near) / depth  # 0 at near, 1 at far
        assert_close(ndc[..., 2], expected, **FLOAT32)
        assert_close(from_gaussian_splatting(view_matrix), camera.c2w_opencv, **FLOAT32)

    def test_pytorch3d_screen_points(self):
        camera, points = odd_cameras(), odd_points()[:, None].expand(1, 4, 7, 3)
        theirs = to_pytorch3d(camera, HEIGHT, WIDTH)
        screen = theirs.transform_points_screen(points[0], image_size=torch.tensor([[HEIGHT, WIDTH]] * 4))
        uv, depth = camera.project(points)
        # 80 pixels wide: 1e-4 px is what FLOAT32 leaves of it
        assert_close(screen[..., :2], uv[0] * torch.tensor([WIDTH, HEIGHT]), rtol=1e-5, atol=1e-4)
        assert_close(theirs.get_world_to_view_transform().transform_points(points[0])[..., 2], depth[0], **FLOAT32)
        assert_close(theirs.get_camera_center(), camera.centres[0], **FLOAT32)

    def test_pytorch3d_portrait_image(self):
        camera, points = odd_cameras(), odd_points()[:, None].expand(1, 4, 7, 3)
        theirs = to_pytorch3d(camera, WIDTH, HEIGHT)  # higher than wide
        screen = theirs.transform_points_screen(points[0], image_size=torch.tensor([[WIDTH, HEIGHT]] * 4))
        expected = camera.project(points)[0][0] * torch.tensor([HEIGHT, WIDTH])
        assert_close(screen[..., :2], expected, rtol=1e-5, atol=1e-4)

    def test_from_pytorch3d_inverts(self):
        camera = odd_cameras()
        theirs = to_pytorch3d(camera, HEIGHT, WIDTH)
        assert_close(from_pytorch3d(theirs.R, theirs.T), camera.c2w_opencv[0], **FLOAT32)


class TestInputRelativeFrame:
    """View 0 becomes azimuth 0, elevation 0; nothing else about the scene changes."""

    def test_first_pose_is_one_matrix_whichever_view_is_the_input(self):
        poses = odd_cameras()
        for start in range(4):
            order = [(start + i) % 4 for i in range(4)]
            relative, _ = poses[:, order].relative_to_first()
            radius = poses.centres[0, start].norm().item()
            assert_close(relative.c2w_opencv[:, 0], view(0, 0, radius).c2w_opencv, **FLOAT32)

    def test_relations_between_cameras_stay(self):
        before = odd_cameras()
        after, _ = before.relative_to_first()
        for i in range(4):
            for j in range(4):
                was = before.w2c_opencv[:, i] @ before.c2w_opencv[:, j]
                now = after.w2c_opencv[:, i] @ after.c2w_opencv[:, j]
                assert_close(now, was, **FLOAT32)

    def test_points_move_with_the_cameras(self):
        before = odd_cameras()
        after, world_from_relative = before.relative_to_first()
        in_relative = odd_points()
        in_world = in_relative @ world_from_relative[:, :3, :3].mT + world_from_relative[:, None, :3, 3]
        assert_close(after.project(in_relative[:, None])[0], before.project(in_world[:, None])[0], **FLOAT32)

    def test_world_up_is_tilted_by_the_input_elevation(self):
        elevation = 35.0
        cameras = Cameras.orbit([[70.0, 160.0]], elevation, 1.8, 45.0)
        _, world_from_relative = cameras.relative_to_first()
        up = world_from_relative[0, :3, :3].T @ torch.tensor([0.0, 1.0, 0.0])
        expected = torch.tensor([0.0, math.cos(math.radians(elevation)), math.sin(math.radians(elevation))])
        assert_close(up, expected, **FLOAT32)

    def test_azimuths_count_from_the_input_at_elevation_0(self):
        cameras = Cameras.orbit([[50.0, 140.0, 275.0]], 0.0, 1.8, 45.0)
        relative, _ = cameras.relative_to_first()
        assert_close(relative.c2w_opencv, Cameras.orbit([[0.0, 90.0, 225.0]], 0.0, 1.8, 45.0).c2w_opencv, **FLOAT32)

    def test_radii_within_an_object_stay(self):
        relative, _ = odd_cameras().relative_to_first()
        assert_close(relative.centres.norm(dim=-1), torch.tensor([[1.5, 1.7, 2.0, 2.4]]), **FLOAT32)

    def test_batch_of_two_is_two_batches_of_one(self):
        one, other = odd_cameras(), Cameras.orbit([[0.0, 80.0, 170.0, 250.0]], 20.0, 1.6, 50.0)
        both, back = Cameras.cat([one, other], dim=0).relative_to_first()
        for index, single in enumerate((one, other)):
            expected, expected_back = single.relative_to_first()
            assert torch.equal(both.c2w_opencv[index], expected.c2w_opencv[0])
            assert torch.equal(back[index], expected_back[0])


class TestIntrinsics:
    """Crops, padding, resizing."""

    @pytest.mark.parametrize(
        ("left", "top", "right", "bottom"),
        [(10, 6, 60, 48), (-10, 0, 90, 48), (0, -8, 80, 56)],  # a crop, then padding on the sides and above and below
    )
    def test_crop_in_pixels(self, left, top, right, bottom):
        camera = odd_cameras()
        cropped = crop_intrinsics(camera.intrinsics_norm, left / WIDTH, top / HEIGHT, right / WIDTH, bottom / HEIGHT)
        matrix = camera.intrinsics_norm
        assert_close(cropped[..., 0, 0], matrix[..., 0, 0] * WIDTH / (right - left))
        assert_close(cropped[..., 0, 2], (matrix[..., 0, 2] * WIDTH - left) / (right - left))
        size = torch.tensor([WIDTH, HEIGHT])
        before = camera.project(odd_points()[:, None])[0] * size
        after = Cameras(camera.c2w_opencv, cropped).project(odd_points()[:, None])[0]
        after = after * torch.tensor([right - left, bottom - top]) + torch.tensor([left, top])
        assert_close(after, before, rtol=1e-5, atol=1e-4)  # pixels: 80 times FLOAT32's

    def test_crop_leaves_its_argument_alone(self):
        matrix = odd_cameras().intrinsics_norm
        kept = matrix.clone()
        crop_intrinsics(matrix, 0.1, 0.2, 0.8, 0.9)
        assert torch.equal(matrix, kept)


class TestContainer:
    """Indexing, reshaping and moving keep poses and intrinsics together."""

    def test_index_reshape_cat(self):
        cameras = odd_cameras()
        assert cameras.shape == (1, 4)
        assert cameras[:, 1:3].shape == (1, 2)
        assert cameras.reshape(2, 2).shape == (2, 2)
        again = Cameras.cat([cameras[:, :1], cameras[:, 1:]])
        assert torch.equal(again.c2w_opencv, cameras.c2w_opencv)
        assert torch.equal(again.intrinsics_norm, cameras.intrinsics_norm)
        assert torch.equal(cameras.reshape(-1)[3].intrinsics_norm, cameras.intrinsics_norm[0, 3])

    def test_dtype(self):
        cameras = odd_cameras().to(dtype=torch.float64)
        assert cameras.c2w_opencv.dtype == cameras.intrinsics_norm.dtype == torch.float64

    def test_w2c_is_the_inverse(self):
        cameras = odd_cameras()
        assert_close(cameras.w2c_opencv, torch.linalg.inv(cameras.c2w_opencv), **FLOAT32)

    def test_transform_moves_points_and_cameras_together(self):
        cameras = odd_cameras()
        turn = view(33, 21).c2w_opencv  # any rigid motion
        points = odd_points()
        moved = points @ turn[:, :3, :3].mT + turn[:, None, :3, 3]
        assert_close(
            cameras.transform(turn[:, None]).project(moved[:, None])[0], cameras.project(points[:, None])[0], **FLOAT32
        )

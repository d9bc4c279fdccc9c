"""Cameras in the one internal convention, and the only conversions to and from every other one.

Internal convention (letters: B objects, V views, P points, H W pixels):

- camera: `c2w_opencv`, columns = right (x), down (y), forward (z), centre; det R = +1;
- world: right-handed, +Y up; azimuth 0 lies at +Z and grows toward +X; positive elevation is above the object;
- intrinsics: normalised, row x divided by the width and row y by the height; image corners are (0, 0) and (1, 1), so
  the centre of pixel i is (i + 0.5) / W;
- depth is z along forward, never the length of the ray.

Conversions that nothing here calls (`from_gaussian_splatting`, `to_gaussian_splatting`, `from_pytorch3d`) are for who
brings cameras from other projects, or takes ours there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pytorch3d.renderer import PerspectiveCameras

# Where cameras stand unless told otherwise, as in the published renders: from this distance, in scene units, this whole
# angle in degrees just holds every normalised object.
ORBIT_RADIUS, ORBIT_FOV_DEG = 1.7417, 39.598
# Flips camera axes between OpenGL (x right, y up, z backward) and OpenCV (x right, y down, z forward).
_FLIP_YZ = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
# Maps a Z-up (Blender) world to the internal Y-up world: (x, y, z) -> (x, z, -y).
_Y_UP_FROM_Z_UP = torch.tensor(
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64
)


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras with any leading axes, usually [B, V].

    Args:
        c2w_opencv: [..., 4, 4] camera to world, OpenCV axes, scene units.
        intrinsics_norm: [..., 3, 3] [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in image widths and heights.
    """

    c2w_opencv: Tensor
    intrinsics_norm: Tensor

    @classmethod
    def orbit(
        cls,
        azimuth_deg: Tensor | Sequence[float],
        elevation_deg: Tensor | Sequence[float] | float,
        radius: Tensor | Sequence[float] | float,
        fov_x_deg: Tensor | Sequence[float] | float,
        aspect: float = 1.0,
    ) -> "Cameras":
        """Cameras on spheres around the origin, looking at it, without roll.

        Args:
            azimuth_deg: [...] degrees, 0 at +Z, growing toward +X.
            elevation_deg: [...] or one value; positive is above the object. Valid at the poles too.
            radius: [...] or one value, scene units.
            fov_x_deg: [...] or one value, the whole horizontal field of view in degrees.
            aspect: image width / height; pixels are square.

        Returns:
            Cameras of the broadcast leading shape.

        Raises:
            ValueError: a field of view outside [1, 179] degrees (radians given for degrees), or a radius <= 0.
        """
        azimuth, elevation, distance, fov = torch.broadcast_tensors(
            *(torch.as_tensor(value, dtype=torch.float64) for value in (azimuth_deg, elevation_deg, radius, fov_x_deg))
        )
        if not bool(((fov >= 1) & (fov <= 179)).all()):
            raise ValueError(f"fov_x_deg: expected degrees in [1, 179], got {fov.flatten()[0].item():g}.")
        if not bool((distance > 0).all()):
            raise ValueError(f"radius: expected positive scene units, got {distance.min().item():g}.")
        azimuth, elevation = torch.deg2rad(azimuth), torch.deg2rad(elevation)
        zero = torch.zeros_like(azimuth)
        outward = torch.stack(
            [elevation.cos() * azimuth.sin(), elevation.sin(), elevation.cos() * azimuth.cos()], dim=-1
        )
        right = torch.stack([azimuth.cos(), zero, -azimuth.sin()], dim=-1)
        down = torch.linalg.cross(-outward, right)
        c2w = torch.zeros(*azimuth.shape, 4, 4, dtype=torch.float64)
        c2w[..., :3, :] = torch.stack([right, down, -outward, outward * distance[..., None]], dim=-1)
        c2w[..., 3, 3] = 1
        focal = 0.5 / torch.tan(torch.deg2rad(fov) / 2)
        return cls(c2w.float(), intrinsics(focal, focal * aspect).float())

    @property
    def shape(self) -> torch.Size:
        """The leading axes, usually [B, V]."""
        return self.c2w_opencv.shape[:-2]

    @property
    def w2c_opencv(self) -> Tensor:
        """[..., 4, 4] world to camera, from the transposed rotation (exact, no solve)."""
        rotation = self.c2w_opencv[..., :3, :3].transpose(-1, -2)
        w2c = torch.zeros_like(self.c2w_opencv)
        w2c[..., :3, :3] = rotation
        w2c[..., :3, 3:] = -rotation @ self.c2w_opencv[..., :3, 3:]
        w2c[..., 3, 3] = 1
        return w2c

    @property
    def centres(self) -> Tensor:
        """[..., 3] camera centres in the world."""
        return self.c2w_opencv[..., :3, 3]

    def __getitem__(self, index: object) -> "Cameras":
        """Cameras at an index of the leading axes, as on a tensor of shape `self.shape`."""
        return Cameras(self.c2w_opencv[index], self.intrinsics_norm[index])  # type: ignore[index]

    def reshape(self, *shape: int) -> "Cameras":
        """Cameras with other leading axes."""
        return Cameras(self.c2w_opencv.reshape(*shape, 4, 4), self.intrinsics_norm.reshape(*shape, 3, 3))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Cameras":
        """Cameras on another device or in another dtype."""
        return Cameras(
            self.c2w_opencv.to(device=device, dtype=dtype), self.intrinsics_norm.to(device=device, dtype=dtype)
        )

    @staticmethod
    def cat(cameras: Sequence["Cameras"], dim: int = 1) -> "Cameras":
        """Concatenate along a leading axis counted from the front (1 = views)."""
        return Cameras(
            torch.cat([c.c2w_opencv for c in cameras], dim), torch.cat([c.intrinsics_norm for c in cameras], dim)
        )

    def rays(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """World rays through the pixel centres.

        Returns:
            origins [..., 3, H, W] (camera centres) and directions [..., 3, H, W] (unit).
        """
        device, dtype = self.c2w_opencv.device, self.c2w_opencv.dtype
        u = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
        v = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
        matrix = self.intrinsics_norm[..., None, None, :, :]
        x = ((u - matrix[..., 0, 2]) / matrix[..., 0, 0]).expand(*self.shape, height, width)
        y = ((v[:, None] - matrix[..., 1, 2]) / matrix[..., 1, 1]).expand(*self.shape, height, width)
        in_camera = torch.stack([x, y, torch.ones_like(x)], dim=-3)
        with full_precision(in_camera):
            directions = torch.einsum("...ij,...jhw->...ihw", self.c2w_opencv[..., :3, :3], in_camera)
        directions = torch.nn.functional.normalize(directions, dim=-3)
        return self.centres[..., None, None].expand_as(directions), directions

    def plucker(self, height: int, width: int) -> Tensor:
        """Plücker coordinates (o x d, d) of the pixel rays, [..., 6, H, W]; d is unit."""
        origins, directions = self.rays(height, width)
        return torch.cat([torch.linalg.cross(origins, directions, dim=-3), directions], dim=-3)

    def project(self, points_world: Tensor) -> tuple[Tensor, Tensor]:
        """Project world points into every camera.

        Args:
            points_world: [..., P, 3], leading axes as the cameras' (or broadcasting to them).

        Returns:
            uv_norm [..., P, 2] (0 to 1 inside the image) and depth [..., P] (visible where > 0).
        """
        with full_precision(points_world):
            in_camera = (points_world - self.centres[..., None, :]) @ self.c2w_opencv[..., :3, :3]
        depth = in_camera[..., 2]
        matrix = self.intrinsics_norm[..., None, :, :]
        u = matrix[..., 0, 0] * in_camera[..., 0] / depth + matrix[..., 0, 2]
        v = matrix[..., 1, 1] * in_camera[..., 1] / depth + matrix[..., 1, 2]
        return torch.stack([u, v], dim=-1), depth

    def unproject(self, uv_norm: Tensor, depth: Tensor) -> Tensor:
        """World points [..., P, 3] seen at uv_norm [..., P, 2] at z-depth [..., P]: the inverse of `project`."""
        matrix = self.intrinsics_norm[..., None, :, :]
        x = (uv_norm[..., 0] - matrix[..., 0, 2]) / matrix[..., 0, 0] * depth
        y = (uv_norm[..., 1] - matrix[..., 1, 2]) / matrix[..., 1, 1] * depth
        in_camera = torch.stack([x, y, depth], dim=-1)
        with full_precision(in_camera):
            return in_camera @ self.c2w_opencv[..., :3, :3].transpose(-1, -2) + self.centres[..., None, :]

    def transform(self, world: Tensor) -> "Cameras":
        """Cameras after a similarity of the world: world [..., 4, 4] maps old points to new points.

        A scale moves the centres and leaves the rotations rigid, so every point stays at its pixel.
        """
        c2w = world @ self.c2w_opencv
        scale = torch.linalg.det(world[..., :3, :3].double()).pow(1 / 3)[..., None, None]
        # By exactly one where nothing is scaled, so that rounding does not touch a rigid change.
        c2w[..., :3, :3] /= torch.where((scale - 1).abs() < 1e-5, 1, scale).to(c2w.dtype)
        return Cameras(c2w, self.intrinsics_norm)

    def relative_to_first(self) -> tuple["Cameras", Tensor]:
        """Cameras [B, V] in the input-relative frame, where view 0 has azimuth 0, elevation 0 and its own radius.

        The object's centre stays at the origin if view 0 looks at it. The frame is tilted: world up becomes
        (0, cos el0, sin el0), so ground-truth points and maps must be transformed too.

        Returns:
            the cameras and `world_from_relative` [B, 4, 4], which maps points of the new frame back to the old one.
        """
        first = self.c2w_opencv[:, 0].double()
        settle = _FLIP_YZ.to(first.device).repeat(first.shape[0], 1, 1)
        settle[:, 2, 3] = first[:, :3, 3].norm(dim=-1)
        relative_from_world = settle @ torch.linalg.inv(first)
        c2w = relative_from_world[:, None] @ self.c2w_opencv.double()
        world_from_relative = first @ torch.linalg.inv(settle)
        dtype = self.c2w_opencv.dtype
        return Cameras(c2w.to(dtype), self.intrinsics_norm), world_from_relative.to(dtype)


def full_precision(like: Tensor) -> torch.autocast:
    """A context for geometry on a tensor's device: mixed precision would turn a camera by half a degree."""
    return torch.autocast(like.device.type, enabled=False)


def intrinsics(fx: Tensor, fy: Tensor, cx: float | Tensor = 0.5, cy: float | Tensor = 0.5) -> Tensor:
    """Normalised intrinsics [..., 3, 3] from focal lengths [...] and principal points in image widths and heights."""
    matrix = torch.zeros(*fx.shape, 3, 3, dtype=fx.dtype, device=fx.device)
    matrix[..., 0, 0], matrix[..., 1, 1], matrix[..., 2, 2] = fx, fy, 1
    matrix[..., 0, 2], matrix[..., 1, 2] = cx, cy
    return matrix


def crop_intrinsics(intrinsics_norm: Tensor, left: float, top: float, right: float, bottom: float) -> Tensor:
    """Intrinsics [..., 3, 3] of the crop [left, right) x [top, bottom) of the image; beyond 0 to 1 = padding."""
    cropped = intrinsics_norm.clone()
    cropped[..., 0, 0] /= right - left
    cropped[..., 1, 1] /= bottom - top
    cropped[..., 0, 2] = (cropped[..., 0, 2] - left) / (right - left)
    cropped[..., 1, 2] = (cropped[..., 1, 2] - top) / (bottom - top)
    return cropped


def from_stored(
    matrix: Tensor,
    *,
    pose: Literal["c2w", "w2c"],
    axes: Literal["opengl", "opencv"],
    world: Literal["y_up", "z_up"],
) -> Tensor:
    """Internal `c2w_opencv` from a pose as a file stores it (docs/formats.md, section 1.2).

    Args:
        matrix: [..., 4, 4] or [..., 3, 4] (padded here), column-vector convention.
        pose: camera to world, or world to camera.
        axes: camera axes: OpenGL (x right, y up, z backward) or OpenCV (x right, y down, z forward).
        world: +Y up (glTF, internal) or +Z up (Blender).

    Returns:
        [..., 4, 4] float32, converted in float64.

    Raises:
        ValueError: the rotation is not orthonormal or mirrors (a wrong convention, or a scale inside it).
    """
    full = torch.zeros(*matrix.shape[:-2], 4, 4, dtype=torch.float64, device=matrix.device)
    full[..., :3, :] = matrix[..., :3, :].double()
    full[..., 3, 3] = 1
    c2w = torch.linalg.inv(full) if pose == "w2c" else full
    if axes == "opengl":
        c2w = c2w @ _FLIP_YZ.to(c2w.device)
    if world == "z_up":
        c2w = _Y_UP_FROM_Z_UP.to(c2w.device) @ c2w
    check_rigid(c2w)
    return c2w.float()


def y_up_from_z_up(vectors: Tensor) -> Tensor:
    """Points or normals [..., 3] of a Z-up (Blender) world in the internal Y-up world: (x, y, z) to (x, z, -y)."""
    return vectors @ _Y_UP_FROM_Z_UP[:3, :3].T.to(vectors)


def to_blender(c2w_opencv: Tensor) -> Tensor:
    """Blender's camera to world (OpenGL axes, Z-up world), [..., 4, 4] float64: what `meta.json` files store."""
    device = c2w_opencv.device
    return _Y_UP_FROM_Z_UP.T.to(device) @ c2w_opencv.double() @ _FLIP_YZ.to(device)


def check_rigid(c2w_opencv: Tensor, tolerance: float = 1e-4) -> None:
    """Raise ValueError unless every [..., 4, 4] pose has an orthonormal rotation, det +1 and last row 0 0 0 1."""
    rotation = c2w_opencv[..., :3, :3].double()
    error = (rotation @ rotation.transpose(-1, -2) - torch.eye(3, dtype=torch.float64, device=rotation.device)).abs()
    last = c2w_opencv[..., 3, :] - torch.tensor([0.0, 0.0, 0.0, 1.0], device=c2w_opencv.device)
    right, down, forward = rotation.unbind(-1)
    determinant = (torch.linalg.cross(right, down) * forward).sum(-1)
    worst = error.max().item()
    if not (worst <= tolerance and bool((determinant > 0).all()) and last.abs().max().item() <= tolerance):
        raise ValueError(
            "c2w_opencv: expected rigid poses (R R^T = 1, det +1, last row 0 0 0 1), got |R R^T - 1| up to "
            f"{worst:.2g} and det {determinant.min().item():.2g}; check the stored convention (mirrored axis, scale, "
            "transpose)."
        )


def from_gaussian_splatting(view: Tensor) -> Tensor:
    """Internal `c2w_opencv` [..., 4, 4] from 3DGS's row-vector world-to-camera matrix `view`."""
    c2w: Tensor = torch.linalg.inv(view.double().transpose(-1, -2))
    return c2w.to(view.dtype)


def to_gaussian_splatting(cameras: Cameras, near: float, far: float) -> tuple[Tensor, Tensor]:
    """Row-vector `view` and `full` (view times projection) matrices [..., 4, 4] of 3DGS rasterizers.

    u = (ndc_x + 1) / 2 for points (x, y, z, 1) @ full (graphdeco-inria/diff-gaussian-rasterization).
    """
    matrix = cameras.intrinsics_norm
    projection = torch.zeros_like(cameras.c2w_opencv)
    projection[..., 0, 0], projection[..., 0, 2] = 2 * matrix[..., 0, 0], 2 * matrix[..., 0, 2] - 1
    projection[..., 1, 1], projection[..., 1, 2] = 2 * matrix[..., 1, 1], 2 * matrix[..., 1, 2] - 1
    projection[..., 2, 2], projection[..., 2, 3] = far / (far - near), -far * near / (far - near)
    projection[..., 3, 2] = 1
    view = cameras.w2c_opencv.transpose(-1, -2)
    return view, view @ projection.transpose(-1, -2)


def to_pytorch3d(cameras: Cameras, height: int, width: int) -> "PerspectiveCameras":
    """PyTorch3D cameras (row vectors, +X left, +Y up, +Z into the scene), leading axes flattened, NDC intrinsics."""
    from pytorch3d.renderer import PerspectiveCameras

    flat = cameras.reshape(-1)
    flip = torch.tensor([-1.0, -1.0, 1.0], device=flat.c2w_opencv.device, dtype=flat.c2w_opencv.dtype)
    half = min(height, width) / 2
    size = torch.tensor([width, height], device=flip.device, dtype=flip.dtype)
    focal = torch.stack([flat.intrinsics_norm[:, 0, 0], flat.intrinsics_norm[:, 1, 1]], dim=-1) * size / half
    principal = -(flat.intrinsics_norm[:, :2, 2] - 0.5) * size / half
    return PerspectiveCameras(
        R=flat.c2w_opencv[:, :3, :3] * flip,
        T=flat.w2c_opencv[:, :3, 3] * flip,
        focal_length=focal,
        principal_point=principal,
        image_size=torch.tensor([[height, width]], device=flip.device).expand(flat.shape[0], 2),
        device=flip.device,
    )


def from_pytorch3d(rotation: Tensor, translation: Tensor) -> Tensor:
    """Internal `c2w_opencv` [..., 4, 4] from PyTorch3D's R [..., 3, 3] and T [..., 3]."""
    flip = torch.tensor([-1.0, -1.0, 1.0], device=rotation.device, dtype=rotation.dtype)
    c2w = torch.zeros(*rotation.shape[:-2], 4, 4, device=rotation.device, dtype=rotation.dtype)
    c2w[..., :3, :3] = rotation * flip
    c2w[..., :3, 3] = -(c2w[..., :3, :3] @ (translation * flip)[..., None])[..., 0]
    c2w[..., 3, 3] = 1
    return c2w

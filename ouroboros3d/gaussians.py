"""3D Gaussians: the typed object between reconstructor and renderer, and its exchange files (3DGS ply)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ouroboros3d.files import atomic_write

_SH_DEGREE_0 = 0.28209479177387814  # the constant spherical harmonic, sqrt(1 / (4 pi))

# What an exported file's axes are, seen from the internal ones (x right, y up, z toward the viewer at azimuth 0).
_EXPORT_ROTATION = {
    "gl_yup": torch.eye(3),
    "colmap": torch.diag(torch.tensor([1.0, -1.0, -1.0])),
    "blender_zup": torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]),
    "supersplat": torch.diag(torch.tensor([-1.0, -1.0, 1.0])),
}
_EXPORT_QUATERNION = {
    "gl_yup": torch.tensor([1.0, 0.0, 0.0, 0.0]),
    "colmap": torch.tensor([0.0, 1.0, 0.0, 0.0]),
    "blender_zup": torch.tensor([math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0]),
    "supersplat": torch.tensor([0.0, 0.0, 0.0, 1.0]),
}
PlyAxes = Literal["gl_yup", "colmap", "blender_zup", "supersplat"]
PlyLayout = Literal["lgm", "inria"]


@dataclass(frozen=True)
class Gaussians:
    """N anisotropic Gaussians for each of B objects, in the scene's frame.

    Args:
        means: [B, N, 3] centres, scene units.
        scales: [B, N, 3] standard deviations along the own axes, scene units, >= 0.
        quaternions: [B, N, 4] (w, x, y, z), unit, own axes to scene.
        opacities: [B, N, 1] in [0, 1].
        colours: [B, N, 3] sRGB in [0, 1].
    """

    means: Tensor
    scales: Tensor
    quaternions: Tensor
    opacities: Tensor
    colours: Tensor

    @property
    def shape(self) -> torch.Size:
        """[B, N]."""
        return self.means.shape[:-1]

    def __getitem__(self, index: object) -> "Gaussians":
        """Gaussians at an index of the leading axes, as on a tensor of shape [B, N]."""
        return Gaussians(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Gaussians":
        """Gaussians on another device or in another dtype."""
        return Gaussians(*(getattr(self, field.name).to(device=device, dtype=dtype) for field in fields(self)))

    def detach(self) -> "Gaussians":
        """Gaussians cut from the graph."""
        return Gaussians(*(getattr(self, field.name).detach() for field in fields(self)))

    @staticmethod
    def cat(items: Sequence["Gaussians"], dim: int = 0) -> "Gaussians":
        """Concatenate objects (dim 0) or the Gaussians of the same objects (dim 1)."""
        return Gaussians(*(torch.cat([getattr(g, field.name) for g in items], dim) for field in fields(Gaussians)))

    def rotations(self) -> Tensor:
        """Rotation matrices [B, N, 3, 3], own axes to scene, of the normalised quaternions."""
        return quaternion_to_matrix(self.quaternions)

    def covariances(self) -> Tensor:
        """[B, N, 3, 3] R diag(scales^2) R^T, scene units squared; for who reasons about their shapes."""
        factor = self.rotations() * self.scales[..., None, :]
        return factor @ factor.transpose(-1, -2)

    def transform(self, similarity: Tensor) -> "Gaussians":
        """Gaussians under a similarity of the scene.

        Args:
            similarity: [B, 4, 4] maps old points to new ones; rotation times one positive scale, and a translation.
        """
        linear = similarity[:, :3, :3]
        scale = torch.linalg.det(linear).pow(1 / 3)[:, None, None]
        rotation = linear / scale
        turn = matrix_to_quaternion(rotation)[:, None]
        return Gaussians(
            self.means @ linear.transpose(-1, -2) + similarity[:, None, :3, 3],
            self.scales * scale,
            quaternion_multiply(turn.expand_as(self.quaternions), self.quaternions),
            self.opacities,
            self.colours,
        )


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] (w, x, y, z), normalised here."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternions [..., 4] (w, x, y, z) of rotation matrices [..., 3, 3], w >= 0 where w is largest."""
    m = matrix
    # Four candidate quaternions, each scaled by twice one component; the largest component's is well conditioned.
    diagonal = torch.stack([m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]], dim=-1)
    w2 = 1 + diagonal.sum(-1)
    squares = torch.stack([w2, *(2 + 2 * diagonal[..., i] - w2 for i in range(3))], dim=-1)
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    candidates = torch.stack(
        [
            torch.stack([squares[..., 0], wx, wy, wz], dim=-1),
            torch.stack([wx, squares[..., 1], xy, xz], dim=-1),
            torch.stack([wy, xy, squares[..., 2], yz], dim=-1),
            torch.stack([wz, xz, yz, squares[..., 3]], dim=-1),
        ],
        dim=-2,
    )
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    return torch.nn.functional.normalize(candidates.gather(-2, best)[..., 0, :], dim=-1)


def quaternion_multiply(left: Tensor, right: Tensor) -> Tensor:
    """Hamilton product [..., 4] (w, x, y, z): the rotation `right` followed by the rotation `left`."""
    w1, x1, y1, z1 = left.unbind(-1)
    w2, x2, y2, z2 = right.unbind(-1)
    return torch.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        dim=-1,
    )


def save_ply(
    gaussians: Gaussians,
    path: Path,
    *,
    layout: PlyLayout = "inria",
    axes: PlyAxes = "gl_yup",
    comments: Sequence[str] = (),
    min_opacity: float = 0.005,
) -> int:
    """Write one object as a binary 3DGS ply (docs/formats.md, section 5).

    Args:
        gaussians: one object, B = 1.
        path: the file; written under a temporary name and renamed.
        layout: `inria` has normals (all zero; several viewers demand them), `lgm` has not.
        axes: the file's axes: internal (`gl_yup`), y and z negated (`colmap`), Z up (`blender_zup`), or x and y negated
            (`supersplat`, which turns every ply back by 180 degrees about z); docs/viewers.md says who expects which.
        comments: further header lines, for example the run's name.
        min_opacity: Gaussians below it are left out, as every 3DGS tool does.

    Returns:
        how many Gaussians were left out.

    Raises:
        ValueError: more than one object.
    """
    if gaussians.shape[0] != 1:
        raise ValueError(
            f"gaussians: expected one object, got {gaussians.shape[0]}; index one as gaussians[i : i + 1]."
        )
    kept = gaussians.detach()[:, gaussians.opacities[0, :, 0] >= min_opacity].to("cpu", torch.float32)
    means = kept.means[0] @ _EXPORT_ROTATION[axes].T
    turn = _EXPORT_QUATERNION[axes].expand(means.shape[0], 4)
    columns: dict[str, Tensor] = dict(zip("xyz", means.unbind(-1), strict=True))
    if layout == "inria":
        columns |= dict.fromkeys(("nx", "ny", "nz"), torch.zeros(means.shape[0]))
    columns |= {f"f_dc_{i}": (kept.colours[0, :, i] - 0.5) / _SH_DEGREE_0 for i in range(3)}
    columns["opacity"] = torch.logit(kept.opacities[0, :, 0], eps=1e-6)
    columns |= {f"scale_{i}": kept.scales[0, :, i].clamp_min(1e-12).log() for i in range(3)}
    columns |= {f"rot_{i}": quaternion_multiply(turn, kept.quaternions[0])[:, i] for i in range(4)}
    header = ["ply", "format binary_little_endian 1.0", f"comment axes {axes}", f"comment layout {layout}"]
    header += [f"comment {line}" for line in comments]
    header += [f"element vertex {means.shape[0]}", *(f"property float {name}" for name in columns), "end_header"]
    table = torch.stack(list(columns.values()), dim=-1).numpy().astype("<f4")
    with atomic_write(path) as part:
        part.write_bytes(("\n".join(header) + "\n").encode() + table.tobytes())
    return gaussians.shape[1] - means.shape[0]


def load_ply(path: Path) -> Gaussians:
    """Read a 3DGS ply of degree 0 (either layout, fields by name) into internal axes, B = 1, float32.

    The file's axes are taken from its `axes` comment, `gl_yup` where there is none.

    Raises:
        ValueError: not a binary little-endian ply of float vertices, a missing field, unknown axes, a truncated file.
    """
    content = path.read_bytes()
    head, separator, body = content.partition(b"end_header\n")
    lines = head.decode("ascii", errors="replace").splitlines()
    if not separator or lines[:2] != ["ply", "format binary_little_endian 1.0"]:
        raise ValueError(f"{path}: expected a binary little-endian ply, got {lines[:2]}.")
    names = [line.split()[-1] for line in lines if line.startswith("property float ")]
    number = next((line.split()[-1] for line in lines if line.startswith("element vertex ")), "0")
    count = int(number) if number.isdecimal() else -1  # no file has as many bytes
    needed = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *(f"scale_{i}" for i in range(3))]
    missing = [name for name in [*needed, *(f"rot_{i}" for i in range(4))] if name not in names]
    if missing or len(body) != 4 * count * len(names):
        raise ValueError(
            f"{path}: expected {number} vertices with 3DGS fields, got {len(body)} bytes and no {missing or 'gap'}; "
            "the file is truncated or of another kind."
        )
    table = torch.from_numpy(np.frombuffer(body, "<f4").reshape(count, len(names)).astype(np.float32))

    def columns(*fields: str) -> Tensor:
        return torch.stack([table[:, names.index(field)] for field in fields], dim=-1)

    axes = next((line.split()[-1] for line in lines if line.startswith("comment axes ")), "gl_yup")
    if axes not in _EXPORT_QUATERNION:
        raise ValueError(f"{path}: expected axes {', '.join(_EXPORT_QUATERNION)}, got {axes}; convert the file first.")
    undo = _EXPORT_QUATERNION[axes] * torch.tensor([1.0, -1.0, -1.0, -1.0])
    quaternions = torch.nn.functional.normalize(columns(*(f"rot_{i}" for i in range(4))), dim=-1)
    return Gaussians(
        (columns("x", "y", "z") @ _EXPORT_ROTATION[axes])[None],
        columns(*(f"scale_{i}" for i in range(3))).exp()[None],
        quaternion_multiply(undo.expand_as(quaternions), quaternions)[None],
        columns("opacity").sigmoid()[None],
        (columns(*(f"f_dc_{i}" for i in range(3))) * _SH_DEGREE_0 + 0.5)[None],
    )

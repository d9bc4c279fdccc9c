"""Writes trees of posed renders as their producers do, from the formats' own terms and without any code of the readers.

A scene of coloured balls is drawn by intersecting rays, so images, depth and normals are exact. Vectors are in the
internal world (+Y up) until a writer stores them.
"""

import io
import json
import math
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image

# Centre, radius and colour; nothing is symmetric, and all lie inside the normalised object's cube.
BALLS = (
    ((0.31, 0.12, -0.22), 0.13, (230, 20, 30)),
    ((-0.24, 0.33, 0.15), 0.11, (20, 200, 40)),
    ((0.05, -0.34, 0.28), 0.09, (30, 60, 240)),
)
SIZE = (48, 64)  # height, width


@dataclass(frozen=True)
class Pose:
    """A camera by its axes and place."""

    right: tuple[float, ...]
    down: tuple[float, ...]
    forward: tuple[float, ...]
    eye: tuple[float, ...]

    @property
    def c2w(self) -> np.ndarray:
        """Internal camera to world [4, 4]."""
        matrix = np.eye(4)
        matrix[:3] = np.stack([self.right, self.down, self.forward, self.eye], axis=1)
        return matrix


def pose(
    azimuth: float, elevation: float, radius: float, roll: float = 0.0, target: tuple[float, ...] = (0, 0, 0)
) -> Pose:
    """A camera at an azimuth from +Z toward +X and an elevation, in degrees, looking at a target, rolled."""
    az, el, turn = map(math.radians, (azimuth, elevation, roll))
    eye = radius * np.array([math.cos(el) * math.sin(az), math.sin(el), math.cos(el) * math.cos(az)])
    forward = np.array(target) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    tilted = math.cos(turn) * right + math.sin(turn) * down, math.cos(turn) * down - math.sin(turn) * right
    return Pose(tuple(tilted[0]), tuple(tilted[1]), tuple(forward), tuple(eye))


# Six cameras of one object: no two alike in azimuth, elevation, distance or roll, none looking quite at the centre.
RIG = (
    pose(10, 20, 1.9),
    pose(75, -15, 1.7, 10, (0.03, 0.0, -0.02)),
    pose(130, 40, 2.1, -20, (0.0, 0.05, 0.0)),
    pose(200, 5, 1.8, 35, (-0.02, 0.0, 0.04)),
    pose(265, -30, 2.2, 0, (0.0, 0.02, 0.03)),
    pose(330, 60, 2.0, -5, (0.02, -0.03, 0.0)),
)
ORBIT = tuple(pose(10 + 22.5 * view, 20, 1.7417) for view in range(16))


@dataclass(frozen=True)
class Lens:
    """Focal lengths and principal point in image widths and heights, height and width in pixels."""

    fx: float
    fy: float
    cx: float = 0.5
    cy: float = 0.5
    size: tuple[int, int] = SIZE

    @classmethod
    def of_fov(cls, degrees: float, size: tuple[int, int] = SIZE) -> "Lens":
        focal = 0.5 / math.tan(math.radians(degrees) / 2)
        return cls(focal, focal * size[1] / size[0], size=size)


@dataclass(frozen=True)
class Shot:
    """A drawn view: rgba [H, W, 4] uint8, z-depth [H, W] (0 = empty), unit normals [H, W, 3] (zero = empty)."""

    rgba: np.ndarray
    depth: np.ndarray
    normals: np.ndarray


@lru_cache(maxsize=1024)
def draw(camera: Pose, lens: Lens) -> Shot:
    """The balls as a camera sees them; alpha falls to 160 on the first ball, so that straight alpha shows."""
    height, width = lens.size
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    ray = ((u - lens.cx) / lens.fx)[..., None] * camera.right + ((v - lens.cy) / lens.fy)[..., None] * camera.down
    ray = ray + np.array(camera.forward)
    depth, rgba, normals = (
        np.full((height, width), np.inf),
        np.zeros((height, width, 4), np.uint8),
        np.zeros((height, width, 3)),
    )
    for number, (centre, radius, colour) in enumerate(BALLS):
        to_eye = np.array(camera.eye) - centre
        a, b, c = (ray**2).sum(-1), (ray @ to_eye), (to_eye**2).sum() - radius**2
        root = b**2 - a * c
        near = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
        seen = near < depth
        depth[seen] = near[seen]
        rgba[seen] = (*colour, 160 if number == 0 else 255)
        normals[seen] = ((np.array(camera.eye) + near[seen][:, None] * ray[seen]) - centre) / radius
    return Shot(rgba, np.where(np.isfinite(depth), depth, 0), normals)


@dataclass(frozen=True)
class Written:
    """What a tree holds: the lens and cameras of each view, in order, and the object's name."""

    uid: str
    poses: tuple[Pose, ...]
    lenses: tuple[Lens, ...]

    def shots(self) -> list[Shot]:
        return [draw(camera, lens) for camera, lens in zip(self.poses, self.lenses, strict=True)]


def z_up(vector: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """A vector of the +Y up world in Blender's: x stays, up becomes z, the front (+z) becomes -y."""
    x, y, z = np.moveaxis(np.asarray(vector, dtype=np.float64), -1, 0)
    return np.stack([x, -z, y], axis=-1)


def blender(camera: Pose, scale: float = 1.0) -> np.ndarray:
    """Camera to world [4, 4] as Blender's matrix_world: columns right, up, backward, place."""
    matrix = np.eye(4)
    columns = camera.right, np.negative(camera.down), np.negative(camera.forward), scale * np.array(camera.eye)
    matrix[:3] = np.stack([z_up(column) for column in columns], axis=1)
    return matrix


def blender_w2c(camera: Pose, scale: float = 1.0) -> np.ndarray:
    """World to camera [3, 4] with rows right, up, backward."""
    rows = np.stack([z_up(axis) for axis in (camera.right, np.negative(camera.down), np.negative(camera.forward))])
    return np.concatenate([rows, (-rows @ z_up(scale * np.array(camera.eye)))[:, None]], axis=1)


def cycled(cameras: tuple[Pose, ...], count: int) -> tuple[Pose, ...]:
    return tuple(cameras[view % len(cameras)] for view in range(count))


def save(path: Path, array: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def save_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def save_npy(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def official(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG) -> Written:
    lens = Lens.of_fov(39.598)
    folder = root / uid
    locations = []
    for view, camera in enumerate(cameras):
        save(folder / f"render_{view:04d}.webp", draw(camera, lens).rgba, lossless=True)
        locations.append(
            {
                "index": f"{view:04d}",
                "transform_matrix": blender(camera).tolist(),
                "frames": [{"name": f"render_{view:04d}.webp"}],
            }
        )
    save_text(folder / "meta.json", json.dumps({"camera_angle_x": math.radians(39.598), "locations": locations}))
    with (root / "train.txt").open("a") as file:
        file.write(f"{uid}\n")
    return Written(uid, cameras, (lens,) * len(cameras))


def epidiff(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG) -> Written:
    written = official(root / "00", uid, cameras)
    (root / "00/train.txt").unlink()
    meta = json.loads((root / "00" / uid / "meta.json").read_text())
    for location in meta["locations"]:
        x, y, z = np.array(location["transform_matrix"])[:3, 3]
        location["azimuth"], location["elevation"] = math.atan2(y, x), math.asin(z / math.hypot(x, y, z))
    save_text(root / "00" / uid / "meta.json", json.dumps(meta))
    with (root / "train.txt").open("a") as file:
        file.write(f"{uid}\ta thing with three balls\n")
    return written


def ours(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG) -> Written:
    """Two orbits, with depth and normals beside the views."""
    lens = Lens.of_fov(39.598)
    half = len(cameras) // 2
    for orbit, members in enumerate((cameras[:half], cameras[half:])):
        folder = root / f"{uid}-{orbit:02d}"
        locations = []
        for view, camera in enumerate(members):
            shot = draw(camera, lens)
            save(folder / f"render_{view:04d}.webp", shot.rgba, lossless=True)
            save(folder / f"depth_{view:04d}.png", np.round(shot.depth * 16384).astype(np.uint16))
            np.savez_compressed(folder / f"normal_world_{view:04d}.npz", normal=shot.normals.astype(np.float16))
            frames = [{"name": f"render_{view:04d}.webp"}]
            locations.append({"index": f"{view:04d}", "transform_matrix": blender(camera).tolist(), "frames": frames})
        meta = {
            "format": "ouroboros3d-orbit",
            "format_version": 1,
            "camera_angle_x": math.radians(39.598),
            "width": SIZE[1],
            "height": SIZE[0],
            "projection_type": "PERSP",
            "maps_frame": "opencv_yup",
            "depth_unit": 1 / 16384,
            "locations": locations,
        }
        save_text(folder / "meta.json", json.dumps(meta))
    return Written(uid, cameras, (lens,) * len(cameras))


def bpy_renderer(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG) -> Written:
    lenses = tuple(Lens.of_fov(40 + 3 * view) for view in range(len(cameras)))
    locations = []
    for view, (camera, lens) in enumerate(zip(cameras, lenses, strict=True)):
        shot = draw(camera, lens)
        save(root / uid / f"render_{view:04d}.webp", shot.rgba, lossless=True)
        axes = np.stack([camera.right, np.negative(camera.down), np.negative(camera.forward)])
        mapped = np.round((shot.normals @ axes.T + 1) / 2 * 255).astype(np.uint8)
        alpha = np.where(shot.depth > 0, 255, 0).astype(np.uint8)
        save(root / uid / f"normal_{view:04d}.webp", np.dstack([mapped, alpha]), lossless=True)
        locations.append(
            {
                "index": f"{view:04d}",
                "projection_type": "PERSP",
                "camera_angle_x": math.radians(40 + 3 * view),
                "transform_matrix": blender(camera).tolist(),
                "azimuth": 1.0,
            }
        )
    save_text(root / uid / "meta.json", json.dumps({"width": SIZE[1], "height": SIZE[0], "locations": locations}))
    return Written(uid, cameras, lenses)


def zero123(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG) -> Written:
    cameras = cycled(cameras, 12)
    lens = Lens(1.09375, 1.09375 * SIZE[1] / SIZE[0])
    for view, camera in enumerate(cameras):
        save(root / uid / f"{view:03d}.png", draw(camera, lens).rgba)
        save_npy(root / uid / f"{view:03d}.npy", blender_w2c(camera))
    return Written(uid, cameras, (lens,) * 12)


def objaverse_xl(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG, **metadata: object) -> Written:
    """As a folder; `zipped` packs it."""
    written = zero123(root, uid, cameras)
    entry = {"save_uid": uid, "sha256": "0" * 64, "missing_textures": {"count": 0, "files": []}, "animation_count": 0}
    save_text(root / uid / "metadata.json", json.dumps({**entry, **metadata}))
    return written


def zipped(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG) -> Written:
    written = objaverse_xl(root / "unpacked", uid, cameras)
    with zipfile.ZipFile(root / f"{uid}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((root / "unpacked" / uid).iterdir()):
            archive.write(path, f"{uid}/{path.name}")
            path.unlink()
    (root / "unpacked" / uid).rmdir()
    (root / "unpacked").rmdir()
    return written


def gobjaverse(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG, inside: str = "") -> Written:
    """`uid` is `<dict>_<inst>`."""
    cameras = cycled(cameras, 40)
    lens = Lens(0.5 / math.tan(0.35), 0.5 / math.tan(0.3))
    for view, camera in enumerate(cameras):
        shot = draw(camera, lens)
        stem = root / uid.replace("_", "/") / f"{inside}{view:05d}/{view:05d}"
        save(stem.with_suffix(".png"), shot.rgba)
        vectors = {"x": camera.right, "y": camera.down, "z": camera.forward, "origin": camera.eye}
        content = {name: z_up(vector).tolist() for name, vector in vectors.items()}
        save_text(stem.with_suffix(".json"), json.dumps({**content, "x_fov": 0.7, "y_fov": 0.6}))
        nx, ny, nz = np.moveaxis(shot.normals, -1, 0)
        channels = {"R": -nx, "G": ny, "B": nz, "A": shot.depth}
        exr = OpenEXR.File({}, {name: channel.astype(np.float32) for name, channel in channels.items()})
        exr.write(f"{stem}_nd.exr")
    return Written(uid, cameras, (lens,) * 40)


def gobjaverse_campos(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG) -> Written:
    return gobjaverse(root, uid, cameras, "campos_512_v4/")


def gobjaverse_tar(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG) -> Written:
    written = gobjaverse(root / "unpacked", uid, cameras, "campos_512_v4/")
    shard, inst = uid.split("_")
    (root / shard).mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / shard / f"{inst}.tar", "w") as archive:
        archive.add(root / "unpacked" / shard / inst, inst)
    for path in sorted((root / "unpacked").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "unpacked").rmdir()
    return written


def lgm(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG) -> Written:
    cameras = cycled(cameras, 100)
    lens = Lens.of_fov(49.1)
    for view, camera in enumerate(cameras):
        save(root / uid / f"rgb/{view:03d}.png", draw(camera, lens).rgba)
        matrix = np.eye(4)
        columns = camera.right, camera.down, camera.forward, camera.eye
        matrix[:3] = np.stack([z_up(column) for column in columns], axis=1)
        save_text(root / uid / f"pose/{view:03d}.txt", " ".join(repr(float(value)) for value in matrix.flatten()))
    return Written(uid, cameras, (lens,) * 100)


def openlrm(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG) -> Written:
    """The one format with a principal point of its own; the object fills the cube [-1, 1]^3."""
    cameras = cycled(cameras, 32)
    lens = Lens(1.2, 1.5, 0.47, 0.55)
    height, width = SIZE
    for view, camera in enumerate(cameras):
        save(root / uid / f"rgba/{view:03d}.png", draw(camera, lens).rgba)
        save_npy(root / uid / f"pose/{view:03d}.npy", blender(camera, scale=2)[:3])
    rows = [[1.2 * width, 1.5 * height], [0.47 * width, 0.55 * height], [width, height]]
    save_npy(root / uid / "intrinsics.npy", np.array(rows))
    return Written(uid, cameras, (lens,) * 32)


def instantmesh(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG) -> Written:
    cameras = cycled(cameras, 32)
    lens = Lens.of_fov(50)
    folder = root / "rendering_random_32views" / uid
    for view, camera in enumerate(cameras):
        shot = draw(camera, lens)
        save(folder / f"{view:03d}.png", shot.rgba)
        save(folder / f"{view:03d}_depth.png", np.round(shot.depth * 2 / 6 * 255).astype(np.uint8))
        mapped = np.round((z_up(shot.normals) + 1) / 2 * 255).astype(np.uint8)
        save(folder / f"{view:03d}_normal.png", np.where(shot.depth[..., None] > 0, mapped, 0).astype(np.uint8))
    np.savez(folder / "cameras.npz", cam_poses=np.stack([blender_w2c(camera, scale=2) for camera in cameras]))
    return Written(uid, cameras, (lens,) * 32)


def trellis(root: Path, uid: str, cameras: tuple[Pose, ...] = RIG, place: str = "renders") -> Written:
    lenses = tuple(Lens.of_fov(35 + 4 * view) for view in range(len(cameras)))
    frames = []
    for view, (camera, lens) in enumerate(zip(cameras, lenses, strict=True)):
        shot = draw(camera, lens)
        save(root / place / uid / f"{view:03d}.png", shot.rgba)
        low, high = 0.5, 3.0
        stored = np.where(shot.depth > 0, np.round((shot.depth - low) / (high - low) * 65535), 65535)
        save(root / place / uid / f"{view:03d}_depth.png", stored.astype(np.uint16))
        frames.append(
            {
                "file_path": f"{view:03d}.png",
                "camera_angle_x": math.radians(35 + 4 * view),
                "transform_matrix": blender(camera).tolist(),
                "depth": {"min": low, "max": high},
            }
        )
    content = {"aabb": [[-0.5] * 3, [0.5] * 3], "scale": 0.4, "offset": [0.1, 0.0, 0.2], "frames": frames}
    save_text(root / place / uid / "transforms.json", json.dumps(content))
    return Written(uid, cameras, lenses)


def turning(count: int) -> tuple[Pose, ...]:
    """A Blender orbit whose azimuth starts at +X and grows toward +Y, elevation 30 degrees, distance 1.5."""
    cameras = []
    for view in range(count):
        angle = 2 * math.pi * view / count
        x, y, z = 1.5 * math.cos(math.pi / 6) * math.cos(angle), 1.5 * math.cos(math.pi / 6) * math.sin(angle), 0.75
        eye = np.array([x, z, -y])  # x stays, z is up, -y is the front
        forward = -eye / 1.5
        right = np.cross(forward, [0, 1, 0])
        right /= np.linalg.norm(right)
        cameras.append(Pose(tuple(right), tuple(np.cross(forward, right)), tuple(forward), tuple(eye)))
    return tuple(cameras)


def syncdreamer_gso(root: Path, uid: str, cameras: tuple[Pose, ...] = turning(16)) -> Written:
    lens = Lens(1.09375, 1.09375 * SIZE[1] / SIZE[0])
    for view, camera in enumerate(cameras):
        shot = draw(camera, lens)
        save(root / uid / f"{view:03d}.png", shot.rgba)
        stored = np.where(shot.depth > 0, np.round((shot.depth - 0.6) / 1.8 * 65535), 65535).astype(np.uint16)
        save(root / uid / f"{view:03d}-depth.png", stored)
    (root / uid / "meta.pkl").write_bytes(b"never to be unpickled")
    return Written(uid, cameras, (lens,) * len(cameras))


def objaverse_rendering(root: Path, uid: str, cameras: tuple[Pose, ...] = turning(12)) -> Written:
    lens = Lens(1.09375, 1.09375 * SIZE[1] / SIZE[0])
    for view, camera in enumerate(cameras):
        save(root / "views" / uid / f"{view:03d}.png", draw(camera, lens).rgba)
    return Written(uid, cameras, (lens,) * len(cameras))


Writer = Callable[[Path, str], Written]
# Layout, the reader that must recognise it, an object's name in it, and its writer.
ANY_RIG: dict[str, tuple[str, str, Writer]] = {
    "official": ("ouroboros3d", "thing", official),
    "epidiff": ("ouroboros3d", "thing", epidiff),
    "ours": ("ouroboros3d", "thing", ours),
    "bpy_renderer": ("bpy_renderer", "thing", bpy_renderer),
    "zero123": ("zero123", "thing", zero123),
    "objaverse_xl": ("objaverse_xl", "thing", objaverse_xl),
    "objaverse_xl_zip": ("objaverse_xl", "thing", zipped),
    "gobjaverse": ("gobjaverse", "0_10005", gobjaverse),
    "gobjaverse_campos": ("gobjaverse", "0_10005", gobjaverse_campos),
    "gobjaverse_tar": ("gobjaverse", "0_10005", gobjaverse_tar),
    "lgm": ("lgm", "thing", lgm),
    "openlrm": ("openlrm", "thing", openlrm),
    "instantmesh": ("instantmesh", "thing", instantmesh),
    "trellis": ("trellis", "0f" * 32, trellis),
}
OWN_RIG: dict[str, tuple[str, str, Writer]] = {
    "syncdreamer_gso": ("syncdreamer_gso", "alarm", syncdreamer_gso),
    "objaverse_rendering": ("objaverse_rendering", "thing", objaverse_rendering),
}
LAYOUTS = {**ANY_RIG, **OWN_RIG}


def grey_png(size: tuple[int, int] = SIZE) -> bytes:
    """An opaque image, its background baked in."""
    content = io.BytesIO()
    Image.new("RGB", size[::-1], (128, 128, 128)).save(content, "PNG")
    return content.getvalue()

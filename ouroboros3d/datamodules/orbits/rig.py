"""Where the cameras of rendered orbits stand."""

from dataclasses import asdict, dataclass
from typing import Any

from ouroboros3d.cameras import ORBIT_FOV_DEG, ORBIT_RADIUS, Cameras
from ouroboros3d.datamodules.splits import hashed_uniform


@dataclass(frozen=True)
class OrbitRig:
    """Where the cameras of the cached views stand: several orbits per object, each at an elevation of its own.

    Args:
        image_size: height and width in pixels.
        orbits: orbits per object.
        views: views per orbit, evenly spread over 360 degrees.
        elevation_deg: lowest and highest elevation in degrees; the orbits' elevations are spread over this range.
        radius: distance of the cameras from the object's centre, scene units.
        fov_deg: the whole field of view in degrees.
        supersampling: rays per pixel along each axis.
        light: strength of the light from the camera in [0, 1]; 0 shows the unlit base colour.
        seed: draws the elevations and start azimuths, together with the uid.
    """

    image_size: int = 64
    orbits: int = 4
    views: int = 8
    elevation_deg: tuple[float, float] = (-5.0, 30.0)
    radius: float = ORBIT_RADIUS
    fov_deg: float = ORBIT_FOV_DEG
    supersampling: int = 2
    light: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges once.

        Raises:
            ValueError: a size or count below 1, an empty or impossible range of elevations, radius, fov or light.
        """
        for name in ("image_size", "orbits", "views", "supersampling"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        low, high = self.elevation_deg
        if not -90 <= low <= high <= 90:
            raise ValueError(f"elevation_deg: expected -90 <= low <= high <= 90 degrees, got [{low:g}, {high:g}].")
        if not self.radius > 0:
            raise ValueError(f"radius: expected a positive distance in scene units, got {self.radius:g}.")
        if not 1 <= self.fov_deg <= 179:
            raise ValueError(f"fov_deg: expected degrees in [1, 179], got {self.fov_deg:g}; radians need * 180 / pi.")
        if not 0 <= self.light <= 1:
            raise ValueError(f"light: expected a strength in [0, 1], got {self.light:g}.")

    def as_dict(self) -> dict[str, Any]:
        """The rig as JSON."""
        return {**asdict(self), "elevation_deg": list(self.elevation_deg)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "OrbitRig":
        """The rig that `as_dict` described."""
        low, high = fields["elevation_deg"]
        return cls(**{**fields, "elevation_deg": (low, high)})

    def elevations_deg(self, uid: str) -> list[float]:
        """One elevation per orbit of this object: one in each `orbits`-th part of the range, in random order."""
        low, high = self.elevation_deg
        order = sorted(range(self.orbits), key=lambda part: hashed_uniform("order", self.seed, uid, part))
        places = [(part + hashed_uniform("elevation", self.seed, uid, part)) / self.orbits for part in order]
        return [low + (high - low) * place for place in places]

    def cameras(self, uid: str, orbit: int) -> Cameras:
        """Cameras [views] of one orbit of this object, azimuth growing by 360 / views from a start of its own."""
        step = 360 / self.views
        start = step * hashed_uniform("azimuth", self.seed, uid, orbit)
        azimuth_deg = [start + step * view for view in range(self.views)]
        return Cameras.orbit(azimuth_deg, self.elevations_deg(uid)[orbit], self.radius, self.fov_deg)

"""Ranges of all cameras of a data set."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ouroboros3d.cameras import Cameras


@dataclass(frozen=True)
class CameraStatistics:
    """What the cameras of all objects are like: tuples with one number for each camera, and counts of objects.

    Args:
        radius: distance from the origin, scene units.
        elevation_deg: above the horizon, in the internal world.
        azimuth_deg: from 0 at +Z, growing toward +X.
        fov_deg: horizontal.
        varying_radius: objects whose views have different distances.
        varying_fov: objects whose views have different fields of view.
        at_origin: objects with cameras in the origin.
        off_centre: median distance of the optical axes from the origin, as a share of the radius.
    """

    radius: tuple[float, ...]
    elevation_deg: tuple[float, ...]
    azimuth_deg: tuple[float, ...]
    fov_deg: tuple[float, ...]
    varying_radius: int
    varying_fov: int
    at_origin: int
    off_centre: float

    @classmethod
    def of(cls, objects: Iterable[Cameras]) -> "CameraStatistics":
        """The statistics of objects, each given by its cameras [F]."""
        radii: list[float] = []
        elevations: list[float] = []
        azimuths: list[float] = []
        fovs: list[float] = []
        missed: list[float] = []
        varying_radius = varying_fov = at_origin = 0
        for cameras in objects:
            centres = cameras.centres.double()
            radius = centres.norm(dim=-1)
            fov = torch.rad2deg(2 * torch.atan(0.5 / cameras.intrinsics_norm[:, 0, 0].double()))
            safe = radius.clamp(min=1e-9)
            elevation = torch.rad2deg(torch.asin((centres[:, 1] / safe).clamp(-1, 1)))
            azimuth = torch.rad2deg(torch.atan2(centres[:, 0], centres[:, 2])) % 360
            radii += radius.tolist()
            elevations += elevation.tolist()
            azimuths += azimuth.tolist()
            fovs += fov.tolist()
            forward = cameras.c2w_opencv[:, :3, 2].double()
            missed += (torch.linalg.cross(centres, forward).norm(dim=-1) / safe).tolist()
            varying_radius += bool(radius.max() - radius.min() > 1e-3 * radius.max())
            varying_fov += bool(fov.max() - fov.min() > 0.01)
            at_origin += bool((radius < 1e-3).any())
        return cls(
            tuple(radii),
            tuple(elevations),
            tuple(azimuths),
            tuple(fovs),
            varying_radius,
            varying_fov,
            at_origin,
            float(np.median(missed)) if missed else 0.0,
        )

    def values(self, name: str) -> Sequence[float]:
        """The numbers of all cameras, by the name of the field."""
        column: Sequence[float] = getattr(self, name)
        return column

    def median(self, name: str) -> float:
        """The median over all cameras, by the name of the field."""
        return float(np.median(self.values(name)))

    def range(self, name: str, unit: str = "") -> str:
        """The lowest to the highest value of a field, or its one value, as text."""
        low, high = min(self.values(name)), max(self.values(name))
        digits = 3 if high < 10 and not unit else 1
        if f"{low:.{digits}f}" == f"{high:.{digits}f}":
            return f"{low:.{digits}f}{unit}"
        return f"{low:.{digits}f} to {high:.{digits}f}{unit}, median {self.median(name):.{digits}f}"

    def fov_under(self, factor: float) -> float:
        """The median field of view in degrees were focal lengths `factor` times as long."""
        return 2 * math.degrees(math.atan(math.tan(math.radians(self.median("fov_deg") / 2)) / factor))

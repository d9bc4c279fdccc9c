"""What can be wrong with an object of a tree, as far as readers and checks tell it apart."""

from ouroboros3d.datamodules.untrusted import UntrustedError


class SampleError(UntrustedError):
    """A view of an object, or what belongs to it, is missing or unreadable."""


class NoTransparency(SampleError):
    """A view has no alpha channel: its background is baked in."""


class MirroredPoses(SampleError):
    """Rotations of an object's poses have a negative determinant."""


class TransposedPoses(SampleError):
    """An object's 4x4 poses do not end with the row 0 0 0 1."""


class WrongFieldOfView(SampleError):
    """An angle of view is none in radians."""

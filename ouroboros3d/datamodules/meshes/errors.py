"""What can be wrong with a mesh file."""

from ouroboros3d.datamodules.untrusted import UntrustedError


class AssetError(UntrustedError):
    """An asset that cannot be used: one line with the path, what was expected and what was found."""

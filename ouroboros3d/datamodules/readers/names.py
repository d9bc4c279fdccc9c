"""The names of the formats that trees are read in, for command lines that are parsed before any reader is imported."""

from typing import Literal

ReaderName = Literal[
    "objaverse",
    "meshes",
    "google_scanned_objects",
    "ouroboros3d",
    "shards",
    "bpy_renderer",
    "objaverse_xl",
    "objaverse_rendering",
    "zero123",
    "gobjaverse",
    "lgm",
    "openlrm",
    "instantmesh",
    "trellis",
    "syncdreamer_gso",
]

MESH_READERS = ("objaverse", "meshes", "google_scanned_objects")
"""Those of meshes, which are rendered."""

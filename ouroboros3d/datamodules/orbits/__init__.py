"""Orbits of rendered views on disk, the one format that we write: cameras, files, maps and true geometry."""

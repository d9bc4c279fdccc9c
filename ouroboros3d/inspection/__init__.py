"""Checks of data before anyone trains on it: images, cameras, and whether they belong together."""

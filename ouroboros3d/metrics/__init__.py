"""Metrics of images, geometry and consistency."""

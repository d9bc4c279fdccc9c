"""Metrics of images and of geometry: one value an object, mean over objects (FORMATS.md 4.1)."""

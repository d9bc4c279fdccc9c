"""Metrics of images and of geometry: one value an object, mean over objects (docs/metrics.md)."""

"""Readers: one module per format on disk. A reader knows its format and nothing of splits, views or batches."""

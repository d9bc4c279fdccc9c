"""Comparisons of tested runs: paired statistics, tables, a page and a TensorBoard dashboard."""

"""Weights from files: strict loading, the sources of others, how their files are found, and files of our own."""

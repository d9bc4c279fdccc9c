"""Suites of ablations: every experiment with every seed trained, tested and compared, in one command that resumes."""

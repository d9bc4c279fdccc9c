"""Commands: one module each, and what they share: arguments, their parser, usage, and the folders of runs."""

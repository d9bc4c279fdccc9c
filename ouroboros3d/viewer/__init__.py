"""The viewer: results as pages that turn in a browser, each one file that loads nothing."""

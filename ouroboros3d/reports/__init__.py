"""What the pages of `compare` and `check-data` share: templates that escape by themselves, and plots."""

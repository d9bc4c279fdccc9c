"""The three variants as LightningModules on one base."""

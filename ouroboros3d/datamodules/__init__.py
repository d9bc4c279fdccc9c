"""Data: trees of meshes and of posed renders become batches, meshes by being rendered once into a cache."""

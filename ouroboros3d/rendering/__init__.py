"""`render`: trees of meshes to posed multi-view renders, on one machine or many, as folders or as shards."""

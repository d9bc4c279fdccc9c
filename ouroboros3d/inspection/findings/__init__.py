"""What check-data finds, one module a subject: cameras, images, maps, meshes."""

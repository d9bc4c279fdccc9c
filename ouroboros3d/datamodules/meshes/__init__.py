"""Mesh files: GLB, OBJ and PLY, each to one textured mesh; a file that is not what it claims to be is refused."""

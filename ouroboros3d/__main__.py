"""`python -m ouroboros3d`."""

from ouroboros3d.cli import main

if __name__ == "__main__":
    main()

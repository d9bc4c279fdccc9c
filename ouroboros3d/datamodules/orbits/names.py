"""The names of the maps beside views, for command lines that are parsed before numpy is imported."""

from typing import Literal

MapName = Literal["depth", "normal", "coordinate"]

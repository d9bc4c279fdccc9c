"""Configurations that earlier versions saved, with runs and in files of weights, under the names of today."""

from typing import Any

import yaml

# Arguments of a data module that are fields of its rig now.
_OF_THE_RIG = {
    "image_size": "image_size",
    "orbits": "orbits",
    "orbit_views": "views",
    "elevation_deg": "elevation_deg",
    "radius": "radius",
    "fov_deg": "fov_deg",
    "supersampling": "supersampling",
    "light": "light",
}


def brought_up_to_date(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as the classes of today take it; one that they take already is returned as it is.

    Args:
        config: `model`, `data` and the rest, or a part of them.
    """
    data = config.get("data")
    if not isinstance(data, dict) or not isinstance(arguments := data.get("init_args"), dict):
        return config
    # A photo's elevation was never the rig's: it is one number there, a range here.
    moved = [
        name
        for name in arguments
        if name in _OF_THE_RIG and not (name == "elevation_deg" and isinstance(arguments[name], (int, float)))
    ]
    if not moved:
        return config
    rig = {_OF_THE_RIG[name]: arguments[name] for name in moved}
    kept = {name: value for name, value in arguments.items() if name not in moved}
    return {**config, "data": {**data, "init_args": {**kept, "rig": {**rig, **kept.get("rig", {})}}}}


def text_up_to_date(content: str) -> str:
    """The same of a configuration's YAML or JSON; a text that is no configuration is returned as it is."""
    try:
        config = yaml.safe_load(content)
    except yaml.YAMLError:  # the parser says where it is wrong
        return content
    if not isinstance(config, dict) or (today := brought_up_to_date(config)) is config:
        return content
    text: str = yaml.safe_dump(today, sort_keys=False)
    return text

"""Configurations as files: read within bounds, and what of them is taken where they come from elsewhere.

A run's folder may have been downloaded. Of its configuration `test`, `validate`, `predict` and `export` take what the
weights need: `model`, `data`, and how results are computed. Classes come from the packages below, whichever file or
option names them.
"""

import logging
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

OF_RUNS = ("ouroboros3d", "torch.optim", "bitsandbytes.optim")
"""Packages whose classes the model and the data of a run's own configuration may name."""

PACKAGES = (
    *OF_RUNS,
    *(f"lightning.pytorch.{part}" for part in ("callbacks", "loggers", "plugins", "profilers", "strategies")),
    "diffusers.models",  # blocks that a strategy shards by
)
"""Packages whose classes the command line and the files that a user names may name."""

# A configuration of ours has 9 levels and 200 values.
_MAX_BYTES, _MAX_DEPTH, _MAX_VALUES, _MAX_COPIES = 2**24, 64, 500_000, 10_000
# Settings of the trainer that say what results are; who runs a command says where, and what watches.
_OF_RESULTS = ("precision", "deterministic", "limit_val_batches", "limit_test_batches", "limit_predict_batches")
# Values that are paths. A file in another's place would be read as a configuration.
_PATHS = ("base_weights", "svd", "lgm", "published", "root", "uids", "skip_uids", "cache_dir", "images")
_FOLDERS = ("dirpath", "save_dir", "root_dir", "default_root_dir")
_log = logging.getLogger("ouroboros3d")


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - what a YAML file holds
    """What a YAML file holds.

    Raises:
        ValueError: no YAML, or more than any configuration needs; one line that names the file.
        OSError: it cannot be read.
    """
    # What the kernel makes up has no end, and a pipe none that would come.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: expected a file of YAML, got what is no regular file.")
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{path}: expected at most {_MAX_BYTES / 2**20:.0f} MiB of YAML, got more.")
    return parse_yaml(content.decode("utf-8", errors="replace"), str(path))


def read_configuration(path: Path) -> dict[str, Any]:
    """The mapping that a configuration file holds; an empty one for an empty file.

    Raises:
        ValueError: as `read_yaml`, or it is no mapping.
        FileNotFoundError: no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"config: no file {path}.")
    content = {} if (found := read_yaml(path)) is None else found
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a configuration with model, data or trainer, got {type(content).__name__}.")
    return content


def parse_yaml(text: str, source: str) -> Any:  # noqa: ANN401 - what a YAML file holds
    """What a text of YAML holds.

    Args:
        text: the whole file.
        source: names it in messages.

    Raises:
        ValueError: as `read_yaml`.
    """
    try:
        check_yaml(text, source)
        try:
            return yaml.safe_load(text)
        except ValueError as error:  # such as a date that is none
            raise yaml.YAMLError(error) from error
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: expected YAML, got {' '.join(str(error).split())}.") from error


def check_yaml(text: str, source: str) -> None:
    """Whether a text is within the bounds of a configuration, before anything is made of it.

    Few letters can stand for more values than a machine has memory for: an alias copies what its anchor holds, other
    aliases included. Deep brackets use up the stack of what reads them.

    Args:
        text: YAML.
        source: names it in messages.

    Raises:
        ValueError: it is not.
        yaml.YAMLError: no YAML.
    """
    values, copies = 0, 0
    sizes: dict[str, int] = {}  # values that an anchor stands for
    above: list[tuple[str | None, int]] = []  # anchors of the collections around, and the values before each
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"{source}: expected an alias of a value before it, got *{event.anchor}.")
            values += sizes[event.anchor]
            copies += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            above.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = above.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        for what, count, most in (
            ("levels of brackets", len(above), _MAX_DEPTH),
            ("values", values, _MAX_VALUES),
            ("values through aliases", copies, _MAX_COPIES),
        ):
            if count > most:
                raise ValueError(f"{source}: expected at most {most:,} {what}, got more; no configuration needs them.")


def for_use(config: dict[str, Any], source: str, allowed: Sequence[str]) -> dict[str, Any]:
    """What is taken of a run's own configuration where its weights are used.

    Args:
        config: what the file holds.
        source: names it in messages.
        allowed: packages that the user trusts besides.

    Raises:
        ValueError: it lacks a part, or names a class of another package.
    """
    taken: dict[str, Any] = {}
    for part in ("model", "data"):
        if not isinstance(config.get(part), dict):
            raise ValueError(f"{source}: expected a run's configuration with model and data, got none of {part}.")
        taken[part] = config[part]
    check_classes(taken, source, [*OF_RUNS, *allowed])
    for place, node in _nodes(taken, ""):
        for name, value in node.items():
            if isinstance(value, str) and name not in _PATHS and os.path.isfile(value):
                raise ValueError(
                    f"{source}: {place}.{name}: expected a run's configuration to be in one file, got {value!r}, which "
                    "is another file; rename that one if this is no path."
                )
    trainer = config.get("trainer")
    settings: dict[str, Any] = trainer if isinstance(trainer, dict) else {}
    plain = {name: settings[name] for name in _OF_RESULTS if isinstance(settings.get(name), bool | int | float | str)}
    seed = config.get("seed_everything")
    return {
        **({"seed_everything": seed} if isinstance(seed, int) else {}),
        **({"trainer": plain} if plain else {}),
        **taken,
    }


def for_fit(config: dict[str, Any], source: str, allowed: Sequence[str]) -> dict[str, Any]:
    """What is taken of a run's own configuration where it trains again: all but the place of the run.

    Args:
        config: what the file holds.
        source: names it in messages.
        allowed: packages that the user trusts besides.

    Raises:
        ValueError: as `for_use`, or a part of the trainer names a folder of its own to write to.
    """
    for_use(config, source, allowed)
    check_classes(config, source, [*PACKAGES, *allowed])
    trainer = config.get("trainer")
    trainer = dict(trainer) if isinstance(trainer, dict) else {}
    logger = trainer.get("logger")
    if isinstance(logger, dict) and str(logger.get("class_path")).endswith(".TensorBoardLogger"):
        del trainer["logger"]  # it is given the run's folder
    for place, node in _nodes(trainer, "trainer"):
        for name in (*_FOLDERS, "filename"):
            if node.get(name) is not None and (name != "filename" or "/" in str(node[name])):
                raise ValueError(
                    f"{source}: {place}.{name}: expected a run that writes into its own folder, got {node[name]!r}; "
                    "give it on the command line if it is meant."
                )
    return {key: value for key, value in config.items() if key not in ("runs", "experiment", "version")}


def of_this_machine(config: dict[str, Any], source: str, given: Collection[str]) -> None:
    """Leave out of a run's own configuration what would write elsewhere on this machine.

    Args:
        config: with `data`; changed in place.
        source: names it in messages.
        given: settings of the data that the user gives a value of.

    Raises:
        ValueError: it asks for a download, which is the user's to say.
    """
    settings = config["data"].get("init_args")
    if not isinstance(settings, dict):
        return
    if settings.get("download") and "download" not in given:
        raise ValueError(
            f"{source}: expected data that is here, got a run that downloads its objects; add --data.download true "
            "if they may be fetched."
        )
    cache = settings.get("cache_dir")
    if cache is not None and "cache_dir" not in given and not _is_cache(Path(str(cache))):
        _log.info("data.cache_dir: %s of the run is no cache of this machine, so the default one is used.", cache)
        settings["cache_dir"] = None


def _is_cache(folder: Path) -> bool:
    """Whether a folder is where this package keeps views already."""
    kept = folder.expanduser()
    return any((kept / name).is_dir() for name in ("left_out", "checks")) or any(kept.glob("*px-*/index.jsonl"))


def check_classes(config: Any, source: str, packages: Sequence[str]) -> None:  # noqa: ANN401
    """Whether every class that a configuration names is of one of these packages.

    Args:
        config: what the file holds, or a part of it.
        source: names it in messages.
        packages: dotted names.

    Raises:
        ValueError: one is of another package.
    """
    for place, node in _nodes(config, ""):
        path = node.get("class_path", "ouroboros3d")
        # A name without dots is looked up among the classes of the packages.
        if "." in str(path) and not any(str(path).startswith(f"{package}.") for package in packages):
            raise ValueError(foreign_class(f"{source}: {place}", str(path)))


def foreign_class(place: str, path: str) -> str:
    """The message where a class of a package that is not allowed is named."""
    return (
        f"{place}: expected a class of {', '.join(PACKAGES[:2])} or another package that is known here, got {path}, "
        f"whose code would run; add --allow_package {path.split('.')[0]} if you trust it."
    )


def _nodes(tree: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401
    """Every mapping of a configuration with its place."""
    inner: Collection[tuple[Any, Any]] = ()
    if isinstance(tree, dict):
        yield place or "configuration", tree
        inner = tree.items()
    elif isinstance(tree, list):
        inner = list(enumerate(tree))
    for key, value in inner:
        yield from _nodes(value, f"{place}.{key}" if place else str(key))

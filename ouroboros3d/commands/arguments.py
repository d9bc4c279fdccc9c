"""Command lines: parsed by exact names before anything heavy is imported or decided."""

import argparse
import glob
import json
import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, NoReturn

from ouroboros3d.configurations import PACKAGES, check_classes, read_configuration
from ouroboros3d.files import refuse_taken
from ouroboros3d.weight_names import checkpoint_file, shipped_names

# Options of the commands that work with a variant, besides the values of its configuration.
_EVERYWHERE = ("config", "ckpt_path", "allow_package", "runs")
_OF_A_RUN = (*_EVERYWHERE, "experiment", "version", "print_config")
_OWN = {
    "fit": (*_OF_A_RUN, "resume"),
    "validate": _OF_A_RUN,
    "test": (*_OF_A_RUN, "axes"),
    "predict": (*_OF_A_RUN, "image", "elevation_deg", "removal", "axes", "out", "seed", "samples", "run", "mesh"),
    "export": (*_EVERYWHERE, "out", "dtype"),
}
# Values of a configuration: of these groups, or these themselves.
_GROUPS = ("model", "data", "trainer")
_VALUES = ("seed_everything", "moving_average", "weights_only", "verbose", "return_predictions")
_DTYPES = ("float32", "float16", "bfloat16")
_FLAGS = ("mesh",)  # options without a value
AXES = ("gl_yup", "colmap", "blender_zup", "supersplat")
"""`PlyAxes` of `gaussians.py`, which needs torch."""
# Options that print and stop. A class's name may follow the last two.
_PRINTING = ("print_config", "help", "help.all", "model.help", "data.help")
PHOTO_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
"""Of the files in a folder that are taken for photos."""

_FOLDER = re.compile(r"(?!\.{1,2}$)[^/\x00-\x1f\x7f]{1,200}")


class OneLineParser(argparse.ArgumentParser):
    """argparse's parser, whose errors are one line and leave the exit to `cli.main`; help is in `commands/usage.py`.

    Args:
        command: that it parses the arguments of.
    """

    def __init__(self, command: str) -> None:
        super().__init__(prog=command, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise the message as `ValueError`."""
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        meant = did_you_mean(unknown[1], self._option_string_actions) if unknown else ""
        raise ValueError(f"{self.prog}: {message}; {meant}{_list_of_options(self.prog)}")


def did_you_mean(option: str, known: Collection[str]) -> str:
    """`did you mean --that? ` for an option that nobody knows; empty where none is like it.

    Args:
        option: as it was written, with its dashes.
        known: those that there are.
    """
    plain = option.replace("-", "_").strip("_")
    names = {name.replace("-", "_").strip("_"): name for name in known if name.startswith("--")}
    begun = sorted((name for name in names if name.startswith(plain) or plain.startswith(f"{name}_")), key=len)
    ended = [name for name in names if name.endswith(f".{plain}")]  # a value without the group that it is in
    like = begun or ended or get_close_matches(plain, names, n=1, cutoff=0.6)
    return f"did you mean {names[like[0]]}? " if like else ""


def _list_of_options(command: str) -> str:
    return f"python -m ouroboros3d {command} --help lists the options."


Setting = tuple[str, str | None]
"""An option with its value, or with None where it may be without one."""


class RunOptions(NamedTuple):
    """The command line of `fit`, `validate`, `test`, `predict` or `export`.

    command: its name.
    settings: values of the configuration, in the order in which later ones win; files stand among them as `--config`.
    single: options that count once, by name; the last value of each.
    images: of `--image`.
    allowed: of `--allow_package`.
    """

    command: str
    settings: tuple[Setting, ...]
    single: dict[str, str]
    images: tuple[str, ...]
    allowed: tuple[str, ...]

    @property
    def configs(self) -> list[str]:
        """The configuration files."""
        return [value or "" for option, value in self.settings if option == "--config"]

    @property
    def only_prints(self) -> bool:
        """Whether nothing is to be done but to print a configuration or help."""
        return any(option.removeprefix("--") in _PRINTING for option, _ in self.settings)

    @property
    def given(self) -> list[str]:
        """What a run that goes on is told besides its own configuration, as a command line."""
        return as_arguments([*self.settings, *(("--allow_package", package) for package in self.allowed)])

    def gives(self, part: str) -> set[str]:
        """Names of the values of `model`, `data` or `trainer` that are given on the command line itself."""
        written = (option.removeprefix("--").replace(".init_args.", ".").split(".") for option, _ in self.settings)
        return {names[1].rstrip("+") for names in written if names[0] == part and len(names) > 1}


def parse_run_options(command: str, arguments: Sequence[str]) -> RunOptions:
    """Parse a command line of `fit`, `validate`, `test`, `predict` or `export`.

    Args:
        command: its name.
        arguments: what follows it.

    Raises:
        ValueError: an unknown option, one without its value, or a name that is none; in one line.
    """
    settings: list[Setting] = []
    single: dict[str, str] = {}
    several: dict[str, list[str]] = {"image": [], "allow_package": []}
    place = 0
    while place < len(arguments):
        option, equals, value = arguments[place].partition("=")
        place += 1
        option = "--config" if option == "-c" else option
        _check_known(command, option)
        name = option.removeprefix("--")
        following = arguments[place] if place < len(arguments) else "--"
        if name in _FLAGS and not equals:
            equals, value = "=", "true"
        elif not equals and not following.startswith("--") and following != "-c" and name not in _PRINTING[:3]:
            equals, value = "=", following
            place += 1
            following = arguments[place] if place < len(arguments) else "--"
        if not equals and name not in _PRINTING:
            raise ValueError(f"{command}: expected a value of {option}, got none; {_list_of_options(command)}")
        if not following.startswith("-"):
            raise ValueError(
                f"{command}: expected one value of {option}, got also {following!r}; a list is written {option} "
                "'[A, B]', and --image is given once for each file."
            )
        if name in several:
            several[name].append(value)
        elif name == "config" or name.split(".")[0].rstrip("+") in (*_GROUPS, *_VALUES) or name in _PRINTING:
            settings.append((option, value if equals else None))
        else:
            single[name] = value
    for package in several["allow_package"]:
        if not re.fullmatch(r"(?!jsonargparse\b)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", package):
            raise ValueError(f"allow_package: expected the name of a package such as my_project, got {package!r}.")
    for name in ("experiment", "version"):
        if name in single:
            single[name] = folder_name(name, single[name])
    return RunOptions(command, tuple(settings), single, tuple(several["image"]), tuple(several["allow_package"]))


def folder_name(option: str, name: str) -> str:
    """The name of a run's folder, or of the folder of an experiment.

    Args:
        option: `experiment` or `version`; of a version, a number alone is short for version_NUMBER.
        name: as given.

    Raises:
        ValueError: it is no name of one folder.
    """
    if not _FOLDER.fullmatch(name):
        raise ValueError(
            f"{option}: expected the name of one folder in {'its experiment' if option == 'version' else 'runs'}, got "
            f"{name!r}; --runs says where runs are kept."
        )
    return f"version_{name}" if option == "version" and name.isdigit() else name


def _check_known(command: str, option: str) -> None:
    own = [f"--{name}" for name in _OWN[command]]
    name = option.removeprefix("--")
    group, dot, _ = name.partition(".")
    if not option.startswith("--"):
        raise ValueError(
            f"{command}: expected options, which begin with --, got {option!r}; {_list_of_options(command)}"
        )
    if option in own or (group in _GROUPS and (dot or name == group)) or name.rstrip("+") in _VALUES:
        return
    if name == "help" or (name == "help.all" and command != "export"):
        return
    others = [*own, *(f"--{name}" for name in (*_GROUPS, *_VALUES)), "--help.all"]
    groups = "values of the configuration are written --model.X, --data.X and --trainer.X; "
    raise ValueError(
        f"{command}: expected one of its options, got {option}; {did_you_mean(option, others) or groups}"
        f"{_list_of_options(command)}"
    )


def check_run_options(options: RunOptions) -> None:
    """Check what can be known of a command line before seconds go by with what it needs.

    Raises:
        ValueError: a configuration that is none, a wrong value, or a folder that is taken; in one line.
        FileNotFoundError: no such file.
    """
    single = options.single
    for config in options.configs:
        check_classes(read_configuration(Path(config)), config, [*PACKAGES, *options.allowed])
    images_of(options)
    for name, least in (("seed", 0), ("samples", 1)):
        if not (single.get(name, "1").isdecimal() and int(single.get(name, "1")) >= least):
            raise ValueError(f"{name}: expected a whole number of at least {least}, got {single[name]!r}.")
    if single.get("mesh", "true") not in ("true", "false"):
        raise ValueError(f"mesh: expected nothing after it, or true or false, got {single['mesh']!r}.")
    if "run" in single and "ckpt_path" in single:
        raise ValueError("run: expected no --ckpt_path, which is in a run already; leave one of the two out.")
    if "run" in single and not Path(single["run"]).is_dir():
        raise FileNotFoundError(f"run: expected the folder of a run, such as runs/recursive, got {single['run']}.")
    if (run := single.get("resume")) is not None:
        if taken := [name for name in ("ckpt_path", "runs", "experiment", "version") if name in single]:
            raise ValueError(
                f"resume: expected no --{taken[0]}, since a run goes on from its own last checkpoint, where it is; "
                "leave one of the two out."
            )
        if not Path(run, "config.yaml").exists():
            raise FileNotFoundError(
                f"resume: expected the folder of a run, such as runs/recursive/version_0, got {run} without a "
                "config.yaml."
            )
    if "ckpt_path" in single:
        _check_checkpoint_file(single["ckpt_path"])
    for name, choices in (("dtype", _DTYPES), ("axes", AXES)):
        if single.get(name, choices[0]) not in choices:
            raise ValueError(f"{name}: expected {', '.join(choices)}, got {single[name]!r}.")
    if "out" in single and options.command == "export":
        refuse_taken(Path(single["out"]))


def images_of(options: RunOptions) -> list[str]:
    """The files of `--image`: those that are given, those of a folder, and those that match a pattern.

    Raises:
        FileNotFoundError: no such file, or none in a folder or of a pattern.
    """
    files: list[str] = []
    for given in options.images:
        path = Path(given)
        if path.is_file():
            files.append(given)
            continue
        if path.is_dir():
            found = [str(file) for file in path.iterdir() if file.suffix.lower() in PHOTO_ENDINGS and file.is_file()]
            among = f"expected photos ({', '.join(PHOTO_ENDINGS)}) in the folder {given}"
        else:
            found = [file for file in glob.glob(given, recursive=True) if Path(file).is_file()]
            among = f"no file {given}"
        if not found:
            raise FileNotFoundError(f"image: {among}{', got none' if path.is_dir() else ''}.")
        files += sorted(found)
    return list(dict.fromkeys(files))


def _check_checkpoint_file(name: str) -> None:
    file = checkpoint_file(name)
    if file.is_dir():
        raise ValueError(
            f"ckpt_path: expected one file, got the folder {name}, which DeepSpeed or FSDP wrote in shards; "
            "docs/clusters.md says how to make its weights one file, which --model.base_weights takes."
        )
    if not file.is_file():
        raise FileNotFoundError(
            f"ckpt_path: no file {name}; a run's checkpoints are in runs/NAME/VERSION/checkpoints, and "
            f"{' and '.join(shipped_names()) or 'no trained weights'} are what comes with this package."
        )


def as_arguments(settings: Sequence[Setting]) -> list[str]:
    """Settings as a command line for Lightning's parser."""
    return [option if value is None else f"{option}={value}" for option, value in settings]


def inline(config: object) -> Setting:
    """A configuration that is in no file, as a setting."""
    return "--config", json.dumps(config)

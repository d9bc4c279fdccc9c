"""Which folder, configuration and checkpoint a command line means: runs/EXPERIMENT/VERSION and what lies in it."""

import itertools
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml

from ouroboros3d.callbacks.processes import is_first_process
from ouroboros3d.files import lock
from ouroboros3d.lightning_modules.weights import (
    SHIPPED,
    checkpoint_file,
    checkpoint_name,
    read_checkpoint,
    shipped_names,
)
from ouroboros3d.networks.own_weights import is_variant

LOCK = ".fit.lock"
"""The file in a run's folder that a running fit holds."""

_EXAMPLE = Path(__file__).parent / "datamodules" / "bundled" / "example.png"
_VERSION_OF_LAUNCHER = "OUROBOROS3D_RUN_VERSION"  # processes that a strategy starts join the first one's run
_TO_USE = ("global_step", "pytorch-lightning_version")
_TO_RESUME = (*_TO_USE, "callbacks", "loops")
# Experiments whose weights are another one's, unless somebody trained them.
_TRAINED_AS = {"inference_combined": "staged"}


def place_fit(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Claim the run's folder, and refuse one that exists: the arguments that name it, and the folder if it is new."""
    if run := option_value(arguments, "--resume"):
        return _resume(without_option(arguments, "--resume"), Path(run)), None
    if checkpoint := option_value(arguments, "--ckpt_path"):
        _check_checkpoint(checkpoint, _TO_RESUME)
    runs = Path(option_value(arguments, "--runs") or "runs")
    experiment = option_value(arguments, "--experiment") or _experiment_name(_values(arguments, "--config")) or "staged"
    return _new_run(arguments, runs, experiment)


def lock_run(arguments: Sequence[str]) -> IO[str] | None:
    """Keep other fits out of a run's folder, which would mix their checkpoints and curves.

    Raises:
        ValueError: another process trains this run.
    """
    parts = [option_value(arguments, f"--{name}") for name in ("runs", "experiment", "version")]
    folder = Path(*(part for part in parts if part))
    if not is_first_process() or not folder.is_dir() or "--print_config" in arguments:
        return None
    try:
        return lock(folder / LOCK)
    except BlockingIOError as error:
        raise ValueError(
            f"fit: expected nobody else at work on {folder}, got a fit that is running; wait for it or end it."
        ) from error


def _resume(arguments: list[str], run: Path) -> list[str]:
    """Go on with a run in its own folder, from its last checkpoint, or from its beginning where it has none yet."""
    if not (run / "config.yaml").is_file():
        raise FileNotFoundError(
            f"resume: expected the folder of a run, such as runs/recursive/version_0, got {run} without a config.yaml."
        )
    for option in ("--ckpt_path", "--runs", "--experiment", "--version"):
        if option_value(arguments, option):
            raise ValueError(
                f"resume: expected no {option}, since a run goes on from its own last checkpoint in its own folder; "
                "leave one of the two out."
            )
    own = _named_folder(run / "config.yaml")
    if own is None or own.resolve() != run.resolve():  # the best score so far belongs to a path as it was written
        raise ValueError(
            f"resume: expected a run at the path that its config.yaml names, got {run} with {own}; call it where that "
            f"path is the run, or start another one with --config {run / 'config.yaml'} --ckpt_path CHECKPOINT."
        )
    last = own / "checkpoints" / "last.ckpt"
    arguments = [f"--config={run / 'config.yaml'}", *arguments]
    arguments += _run_arguments(own.parents[1], own.parent.name, own.name)
    if not last.exists():
        return arguments
    _check_checkpoint(str(last), _TO_RESUME)
    return [*arguments, f"--ckpt_path={last}", "--model.init_args.base_weights=null"]  # it holds every weight


def _new_run(arguments: list[str], runs: Path, experiment: str) -> tuple[list[str], Path | None]:
    version = option_value(arguments, "--version")
    if not is_first_process():
        # Lightning tells every rank the first one's folder before anything is written.
        version = os.environ.get(_VERSION_OF_LAUNCHER, version or "version_0")
        return [*arguments, *_run_arguments(runs, experiment, version)], runs / experiment / version
    if "--print_config" in arguments:
        return [*arguments, *_run_arguments(runs, experiment, version or "version_0")], None
    folder = claim(runs / experiment, version)
    os.environ[_VERSION_OF_LAUNCHER] = folder.name
    return [*arguments, *_run_arguments(runs, experiment, folder.name)], folder


def _run_arguments(runs: Path, experiment: str, version: str) -> list[str]:
    return [f"--runs={runs}", f"--experiment={experiment}", f"--version={version}"]


def claim(experiment: Path, version: str | None) -> Path:
    """Make a run's folder: the named one, or the first version_N that is free; of two processes each gets its own."""
    for name in [version] if version else map("version_{}".format, itertools.count()):
        with suppress(FileExistsError):
            (experiment / name).mkdir(parents=True)
            return experiment / name
    raise FileExistsError(
        f"run folder: {experiment / str(version)} exists already, and a run never overwrites another; "
        "choose another --version or leave it out."
    )


def _check_checkpoint(name: str, needs: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint holds, if that is what a command needs."""
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
    content = read_checkpoint(file)
    lacks = [key for key in needs if key not in content]
    if lacks:
        raise ValueError(
            f"ckpt_path: expected a checkpoint that a run wrote, got {name} without {', '.join(lacks)}; weights "
            "alone are what --model.base_weights takes."
        )
    return content


def place_use(command: str, arguments: list[str], shipped: Path = SHIPPED) -> tuple[list[str], Path | None]:
    """Choose the checkpoint, its configuration and the folder that the results go to; the folder if it is new."""
    arguments, configs, checkpoint = choose(command, arguments, shipped)
    run = _run_of(configs)
    if run and not (option_value(arguments, "--experiment") or option_value(arguments, "--version")):
        return [*arguments, *_run_arguments(run.parents[1], run.parent.name, run.name)], None
    own_name = "staged" if configs else checkpoint.stem  # weights that describe themselves are called as their file
    experiment = option_value(arguments, "--experiment") or _experiment_name(configs) or own_name
    return _new_run(arguments, Path(option_value(arguments, "--runs") or "runs"), experiment)


class Choice(NamedTuple):
    """What `choose` returns.

    arguments: with the checkpoint and its configuration.
    configs: the configuration's files; none where the checkpoint describes itself and no other was named.
    checkpoint: the file.
    """

    arguments: list[str]
    configs: list[str]
    checkpoint: Path


def choose(command: str, arguments: list[str], shipped: Path = SHIPPED) -> Choice:
    """Choose the checkpoint and its configuration.

    Args:
        command: the name of the command, for messages.
        arguments: the command line after it.
        shipped: the folder of the weights that are used where no run is.

    Raises:
        ValueError: a checkpoint that cannot be used.
        FileNotFoundError: no checkpoint, or no configuration of it.
    """
    configs = _values(arguments, "--config")
    name = option_value(arguments, "--ckpt_path")
    if name is None:
        runs = Path(option_value(arguments, "--runs") or "runs")
        name = checkpoint_name(_find_checkpoint(command, runs, configs, shipped))
    content, checkpoint = _check_checkpoint(name, _TO_USE), checkpoint_file(name)
    # Last, because a run's configuration says `ckpt_path: null`, and a later value wins over an earlier one.
    # The checkpoint holds every weight: where training started from may be gone by now.
    arguments = [*arguments, f"--ckpt_path={checkpoint_name(checkpoint)}", "--model.init_args.base_weights=null"]
    if configs:
        return Choice(arguments, configs, checkpoint)
    if "ouroboros3d_config" in content:
        return Choice([f"--config={json.dumps(content['ouroboros3d_config'])}", *arguments], [], checkpoint)
    config = checkpoint.resolve().parents[1] / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(f"config: no {config} beside the checkpoint; name one with --config.")
    return Choice([f"--config={config}", *arguments], [str(config)], checkpoint)


def _find_checkpoint(command: str, runs: Path, configs: Sequence[str], shipped: Path) -> Path:
    """The best checkpoint of the newest run that the configuration means, or the shipped weights of its experiment."""
    if run := _run_of(configs):
        runs, patterns, names = run, ["."], []
    else:
        experiment = _experiment_name(configs)
        names = [name for name in (experiment, _TRAINED_AS.get(experiment or "")) if name]
        patterns = [f"{name}/*" for name in names] or ["*/*"]
        names = names or ["recursive"]
        if any(Path(config).parent.name == "scales" for config in configs):
            names = []  # what is shipped is of the desk scale
    for pattern in patterns:
        if found := newest_checkpoint(runs, pattern):
            print(f"{command}: the newest run's best checkpoint, {found}", flush=True)
            return found
    for name in names:
        if is_variant(file := shipped / f"{name}.safetensors"):
            searched = " or ".join(f"{runs}/{pattern}" for pattern in patterns)
            ours = f"the weights that come with this package, {checkpoint_name(file)}"
            print(f"{command}: no run in {searched}, so {ours}", flush=True)
            return file
    raise FileNotFoundError(
        f"runs: no checkpoint in {runs}/{patterns[0]}/checkpoints; train first (python -m ouroboros3d fit --config "
        "ablations/recursive.yaml) or name a checkpoint with --ckpt_path."
    )


def _run_of(configs: Sequence[str]) -> Path | None:
    """The run whose own configuration is the first one named."""
    if not configs or Path(configs[0]).name != "config.yaml":
        return None
    folder = Path(configs[0]).resolve().parent
    if folder.is_relative_to(Path.cwd()) and len(folder.relative_to(Path.cwd()).parts) > 2:
        folder = folder.relative_to(Path.cwd())  # shorter to read
    named = _named_folder(Path(configs[0]))  # a run that only tests has no checkpoints
    is_run = (folder / "checkpoints").is_dir() or (named is not None and named.parts[-2:] == folder.parts[-2:])
    return folder if is_run else None


def _named_folder(config: Path) -> Path | None:
    """The folder that a run's configuration names; None for a file without one, of which the parser says more."""
    try:
        named = yaml.safe_load(config.read_text())
        return Path(named["runs"], named["experiment"], named["version"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None


def take_images(arguments: list[str]) -> list[str]:
    """Turn `--image FILE` and the options of photos into a `PhotoDataModule` that keeps the run's camera settings.

    Without an image it is the one that comes with this package.
    """
    images = _values(arguments, "--image")
    if not images:
        print(f"predict: no --image, so the example that comes with this package, {_EXAMPLE}", flush=True)
        images = [str(_EXAMPLE)]
    missing = [image for image in images if not Path(image).is_file()]
    if missing:
        raise FileNotFoundError(f"image: no file {missing[0]}.")
    given = {name: option_value(arguments, f"--{name}") for name in ("elevation_deg", "removal")}
    kept = without_option(arguments, "--image")
    for name in given:
        kept = without_option(kept, f"--{name}")
    return [
        *kept,
        "--data=ouroboros3d.datamodules.photos.PhotoDataModule",
        f"--data.init_args.images={json.dumps(images)}",
        *(f"--data.init_args.{name}={value}" for name, value in given.items() if value is not None),
    ]


def newest_checkpoint(runs: Path, pattern: str = "*/*") -> Path | None:
    """The best checkpoint of the run that saved one last, None where no run has one.

    Args:
        runs: where runs are kept.
        pattern: of their folders in it.
    """
    names = ("best*.ckpt", "last.ckpt")  # a run that ended before its first validation has only the last one
    found = [path for name in names for path in runs.glob(f"{pattern}/checkpoints/{name}")]
    newest_run = max((path.stat().st_mtime, path.parent) for path in found)[1] if found else None
    return next((path for path in found if path.parent == newest_run), None)


def _experiment_name(configs: Sequence[str]) -> str | None:
    """An experiment is called as its ablation's file, or as the experiment whose run's configuration is used again."""
    run = _run_of(configs)
    if run:
        return run.parent.name
    names = [Path(config).stem for config in configs if Path(config).parent.name not in ("scales", "strategies")]
    return names[0] if names else None


def _values(arguments: Sequence[str], option: str) -> list[str]:
    """All values given to an option, as `--option value` or `--option=value`."""
    found = []
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            found.append(arguments[index + 1])
        elif argument.startswith(f"{option}="):
            found.append(argument.removeprefix(f"{option}="))
    return found


def option_value(arguments: Sequence[str], option: str) -> str | None:
    """The last value given to an option, None where it is not given."""
    values = _values(arguments, option)
    if not values:
        return None
    # Lightning's logger takes a bare number for version_NUMBER.
    return f"version_{values[-1]}" if option == "--version" and values[-1].isdigit() else values[-1]


def without_option(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments less an option and its values."""
    befores = ["", *arguments]
    return [
        argument
        for before, argument in zip(befores, arguments, strict=False)
        if option not in (before, argument) and not argument.startswith(f"{option}=")
    ]

"""Which folder, configuration and checkpoint a command line means: runs/EXPERIMENT/VERSION and what lies in it."""

import itertools
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from ouroboros3d.callbacks.processes import is_first_process
from ouroboros3d.commands.arguments import RunOptions, Setting, folder_name, images_of, inline
from ouroboros3d.configurations import for_fit, for_use, of_this_machine, read_configuration
from ouroboros3d.files import lock
from ouroboros3d.lightning_modules.weights import read_checkpoint
from ouroboros3d.networks.pretrained.base import is_variant
from ouroboros3d.weight_names import SHIPPED, checkpoint_file, checkpoint_name

LOCK = ".fit.lock"
"""The file in a run's folder that a running fit holds."""

_EVENTS = "events.out.tfevents."  # TensorBoard's
_EXAMPLE = Path(__file__).parents[1] / "datamodules" / "bundled" / "example.png"
_VERSION_OF_LAUNCHER = "OUROBOROS3D_RUN_VERSION"  # processes that a strategy starts join the first one's run
_TO_USE = ("global_step", "pytorch-lightning_version")
_TO_RESUME = (*_TO_USE, "callbacks", "loops")
# Experiments whose weights are another one's, unless somebody trained them.
_TRAINED_AS = {"inference_combined": "staged"}


class Placed(NamedTuple):
    """What a command does where.

    settings: for Lightning's parser.
    folder: of the run; None where nothing is done.
    is_new: whether this command made it.
    """

    settings: list[Setting]
    folder: Path | None
    is_new: bool


def place_fit(options: RunOptions) -> Placed:
    """Claim the run's folder, and refuse one that exists."""
    if "resume" in options.single:
        return _resume(options, Path(options.single["resume"]))
    settings = list(_taken(options, for_fit))
    if checkpoint := options.single.get("ckpt_path"):
        _read_checkpoint(checkpoint, _TO_RESUME)
        settings.append(("--ckpt_path", checkpoint))
    named = _named(options)
    experiment = named.get("experiment") or _experiment_name(options.configs) or "staged"
    return _new_run(options, settings, Path(named.get("runs", "runs")), experiment, named.get("version"))


def lock_run(folder: Path | None) -> IO[str] | None:
    """Keep other fits out of a run's folder, which would mix their checkpoints and curves.

    Raises:
        ValueError: another process trains this run.
    """
    if folder is None or not is_first_process():
        return None
    try:
        return lock(folder / LOCK)
    except BlockingIOError as error:
        raise ValueError(
            f"fit: expected nobody else at work on {folder}, got a fit that is running; wait for it or end it."
        ) from error


def _resume(options: RunOptions, run: Path) -> Placed:
    """Go on with a run in its own folder, from its last checkpoint, or from its beginning where it has none yet."""
    if named := _named(options):
        raise ValueError(
            f"resume: expected configurations without {', '.join(named)}, since a run goes on in its own folder, got "
            f"{', '.join(options.configs)}."
        )
    config = run / "config.yaml"
    content = read_configuration(config)
    own = _named_folder(content)
    if own is None or own.resolve() != run.resolve():  # the best score so far belongs to a path as it was written
        raise ValueError(
            f"resume: expected a run at the path that its config.yaml names, got {run} with {own}; call it where that "
            f"path is the run, or start another one with --config {config} --ckpt_path CHECKPOINT."
        )
    settings = [inline(for_fit(content, str(config), options.allowed)), *_taken(options, for_fit)]
    settings += _place(own.parents[1], own.parent.name, own.name)
    last = own / "checkpoints" / "last.ckpt"
    if last.exists():
        _read_checkpoint(str(last), _TO_RESUME)
        settings += [("--ckpt_path", str(last)), ("--model.init_args.base_weights", "null")]  # it holds every weight
    return Placed(settings, None if options.only_prints else own, is_new=False)


def _new_run(
    options: RunOptions, settings: Sequence[Setting], runs: Path, experiment: str, version: str | None
) -> Placed:
    if not is_first_process():
        # Lightning tells every rank the first one's folder before anything is written.
        folder = runs / experiment / os.environ.get(_VERSION_OF_LAUNCHER, version or "version_0")
    elif options.only_prints:
        return Placed([*settings, *_place(runs, experiment, version)], None, is_new=False)
    else:
        folder = claim(runs / experiment, version)
        os.environ[_VERSION_OF_LAUNCHER] = folder.name
    return Placed([*settings, *_place(runs, experiment, folder.name)], folder, is_new=True)


def _place(runs: Path, experiment: str, version: str | None) -> list[Setting]:
    place: list[Setting] = [("--runs", str(runs)), ("--experiment", experiment)]
    return [*place, ("--version", version)] if version else place


def claim(experiment: Path, version: str | None) -> Path:
    """Make a run's folder: the named one, or the first version_N that is free; of two processes each gets its own.

    A named one may be there if nothing began in it: what was stopped while it prepared its data can be called again.
    """
    for name in [version] if version else map("version_{}".format, itertools.count()):
        with suppress(FileExistsError):
            (experiment / name).mkdir(parents=True)
            return experiment / name
    if version and _nothing_began(experiment / version):
        for path in (experiment / version).glob(f"{_EVENTS}*"):
            path.unlink()
        return experiment / version
    raise FileExistsError(
        f"run folder: {experiment / str(version)} exists already, and a run never overwrites another; "
        "choose another --version or leave it out."
    )


def _nothing_began(folder: Path) -> bool:
    """Whether a folder holds no more than the lock, and events without a run, of what ended before its first step."""
    if not folder.is_dir() or not _is_empty(folder):
        return False
    try:
        lock(folder / LOCK).close()
    except BlockingIOError:
        return False
    return True


def _is_empty(folder: Path) -> bool:
    return all(path.name == LOCK or path.name.startswith(_EVENTS) for path in folder.iterdir())


def remove_claim(folder: Path) -> None:
    """Remove a run's folder, and those around it, as far as nothing began in it."""
    if folder.is_dir() and _is_empty(folder):
        for path in folder.iterdir():
            path.unlink()
    for empty in (folder, *folder.parents[:2]):
        with suppress(OSError):  # not empty, or gone
            empty.rmdir()


def _read_checkpoint(name: str, needs: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint holds, if that is what a command needs."""
    content = read_checkpoint(checkpoint_file(name))
    lacks = [key for key in needs if key not in content]
    if lacks:
        raise ValueError(
            f"ckpt_path: expected a checkpoint that a run wrote, got {name} without {', '.join(lacks)}; weights "
            "alone are what --model.base_weights takes."
        )
    return content


def place_use(options: RunOptions, shipped: Path = SHIPPED) -> Placed:
    """Choose the checkpoint, its configuration and the folder that the results go to."""
    settings, configs, checkpoint = choose(options, shipped)
    named, run = _named(options), _run_of(configs)
    if run and not {"experiment", "version"} & named.keys():
        return Placed([*settings, *_place(run.parents[1], run.parent.name, run.name)], run, is_new=False)
    own_name = "staged" if configs else checkpoint.stem  # weights that describe themselves are called as their file
    experiment = named.get("experiment") or _experiment_name(configs) or own_name
    return _new_run(options, settings, Path(named.get("runs", "runs")), experiment, named.get("version"))


class Choice(NamedTuple):
    """What `choose` returns.

    settings: with the checkpoint and its configuration.
    configs: the configuration's files; none where the checkpoint describes itself and no other was named.
    checkpoint: the file.
    """

    settings: list[Setting]
    configs: list[str]
    checkpoint: Path


def choose(options: RunOptions, shipped: Path = SHIPPED) -> Choice:
    """Choose the checkpoint and its configuration.

    Args:
        options: the command line.
        shipped: the folder of the weights that are used where no run is.

    Raises:
        ValueError: a checkpoint or a run's configuration that cannot be used.
        FileNotFoundError: no checkpoint, or no configuration of it.
    """
    configs = options.configs
    name = options.single.get("ckpt_path")
    if name is None and (run := options.single.get("run")) is not None:
        found = newest_checkpoint(Path(run), "." if Path(run, "checkpoints").is_dir() else "*")
        if found is None:
            raise FileNotFoundError(f"run: expected a run with checkpoints, or an experiment's folder, got {run}.")
        name = str(found)
    if name is None:
        runs = Path(_named(options).get("runs", "runs"))
        name = checkpoint_name(_find_checkpoint(options.command, runs, configs, shipped))
    content, checkpoint = _read_checkpoint(name, _TO_USE), checkpoint_file(name)

    def take(config: Any, source: str, allowed: Sequence[str]) -> dict[str, Any]:  # noqa: ANN401
        taken = for_use(config, source, allowed)
        of_this_machine(taken, source, options.gives("data"))
        return taken

    settings = list(_taken(options, take))
    # Last, because a run's configuration says `ckpt_path: null`, and a later value wins over an earlier one.
    # The checkpoint holds every weight: where training started from may be gone by now.
    settings += [("--ckpt_path", checkpoint_name(checkpoint)), ("--model.init_args.base_weights", "null")]
    if configs:
        return Choice(settings, configs, checkpoint)
    if "ouroboros3d_config" in content:
        return Choice([inline(take(content["ouroboros3d_config"], name, options.allowed)), *settings], [], checkpoint)
    config = checkpoint.resolve().parents[1] / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(f"config: no {config} beside the checkpoint; name one with --config.")
    own = take(read_configuration(config), str(config), options.allowed)
    return Choice([inline(own), *settings], [str(config)], checkpoint)


def _taken(options: RunOptions, take: Callable[[Any, str, Sequence[str]], dict[str, Any]]) -> list[Setting]:
    """The settings of a command line, with what is taken of a run's own configuration in place of its file."""
    return [
        inline(take(read_configuration(Path(value)), value, options.allowed))
        if option == "--config" and value is not None and _is_run(Path(value))
        else (option, value)
        for option, value in options.settings
    ]


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


def _named(options: RunOptions) -> dict[str, str]:
    """`runs`, `experiment` and `version` as they are named: on the command line, or else in the last file that does.

    What a run's own configuration says of them is where that run is, and not where another one goes.
    """
    named: dict[str, str] = {}
    for config in options.configs:
        content = {} if _is_run(Path(config)) else read_configuration(Path(config))
        for name in ("runs", "experiment", "version"):
            if (value := content.get(name)) is not None:
                named[name] = str(value) if name == "runs" else folder_name(name, str(value))
    return {
        **named,
        **{name: options.single[name] for name in ("runs", "experiment", "version") if name in options.single},
    }


def _run_of(configs: Sequence[str]) -> Path | None:
    """The run whose own configuration is the first one named."""
    if not configs or not _is_run(Path(configs[0])):
        return None
    folder = Path(configs[0]).resolve().parent
    if folder.is_relative_to(Path.cwd()) and len(folder.relative_to(Path.cwd()).parts) > 2:
        folder = folder.relative_to(Path.cwd())  # shorter to read
    return folder


def _is_run(config: Path) -> bool:
    """Whether a configuration is a run's own: it lies beside checkpoints, or where it says that the run is."""
    if config.name != "config.yaml":
        return False
    folder = config.resolve().parent
    named = _named_folder(read_configuration(config))  # a run that only tests has no checkpoints
    return (folder / "checkpoints").is_dir() or (named is not None and named.parts[-2:] == folder.parts[-2:])


def _named_folder(config: dict[str, Any]) -> Path | None:
    """The folder that a run's configuration names; None for one without."""
    parts = [part for name in ("runs", "experiment", "version") if isinstance(part := config.get(name), str)]
    return Path(*parts) if len(parts) == 3 else None


def take_images(options: RunOptions) -> RunOptions:
    """Turn `--image FILE` and the options of photos into a `PhotoDataModule` that keeps the run's camera settings.

    Without an image it is the one that comes with this package.
    """
    images = images_of(options)
    if not images:
        print(f"predict: no --image, so the example that comes with this package, {_EXAMPLE}", flush=True)
        images = [str(_EXAMPLE)]
    of_photos = {n: options.single[n] for n in ("elevation_deg", "removal", "samples") if n in options.single}
    settings: list[Setting] = [
        ("--data", "ouroboros3d.datamodules.photos.PhotoDataModule"),
        ("--data.init_args.images", json.dumps(images)),
        *((f"--data.init_args.{name}", value) for name, value in of_photos.items()),
        *([("--model.init_args.sampler.seed", options.single["seed"])] if "seed" in options.single else []),
    ]
    return options._replace(settings=(*options.settings, *settings))


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

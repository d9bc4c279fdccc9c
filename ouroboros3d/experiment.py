"""Runs: which configuration, which folder and which checkpoint a command works with; the LightningCLI behind it."""

import hashlib
import itertools
import json
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ouroboros3d.callbacks.predictions import PredictionWriter
from ouroboros3d.callbacks.processes import ProcessWatch, is_first_process, lost_a_process
from ouroboros3d.callbacks.results import ResultsWriter
from ouroboros3d.files import lock, remove_parts, sha256_of, whole
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.lightning_modules.weights import PaperWeights, adapted, check_files, read_checkpoint

_DEFAULTS = Path(__file__).with_name("defaults.yaml")
_LONG_HELP = {
    "--help.all": "--help",
    "--model.help": "--model.help=ouroboros3d.lightning_modules.staged.Staged",
    "--data.help": "--data.help=ouroboros3d.datamodules.objaverse.ObjaverseDataModule",
}
# Settings of the data that say how fast it comes and not what it is.
_WITHOUT_EFFECT = {
    *("batch_size", "num_workers", "memory_limit_mb"),
    *("cache_dir", "render_workers", "render_timeout_s", "retry_failed"),
}
_VERSION_OF_LAUNCHER = "OUROBOROS3D_RUN_VERSION"  # processes that a strategy starts join the first one's run
_LOCK = ".fit.lock"
_OF_A_RUN = ("global_step", "callbacks", "loops", "pytorch-lightning_version")
_log = logging.getLogger("ouroboros3d")


class Parser(LightningArgumentParser):
    """LightningCLI's parser, whose errors are one line and leave the exit to `cli.main`."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as `ValueError`."""
        raise ValueError(_meant(message)) from ex


class WholeConfig(SaveConfigCallback):
    """Write a run's config.yaml whole or not at all: what is cut off could be read as another configuration."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it under another name first."""
        folder = _folder(self.config)
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / "config.yaml") as part:
            self.parser.save(self.config, part, skip_none=False, overwrite=True, multifile=False)
        reports = pl_module.weights_report if isinstance(pl_module, ImageTo3D) else {}
        if reports:
            lines = (f"# {name}: {report}\n{report.table()}" for name, report in reports.items())
            (folder / "weights.txt").write_text("".join(lines), encoding="utf-8")


class ResumeHistory(SaveConfigCallback):
    """Add to a run's resumed.yaml from which step it went on, and with which options besides its own configuration.

    Args:
        parser: of the command line.
        config: what it made of it.
        save_to_log_dir: Lightning's way of saving.
        options: of the command line as they were given.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, save_to_log_dir: bool, options: Sequence[str]
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=save_to_log_dir)
        self.options = list(options)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Append one entry."""
        entry = {"step": _first_step(self.config), "options": self.options}
        with (_folder(self.config) / "resumed.yaml").open("a") as file:
            file.write(yaml.safe_dump([entry], sort_keys=False))


class Commands(LightningCLI):
    """LightningCLI with the project's defaults and the project's run folders."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add where a run goes."""
        parser.add_argument("--runs", type=str, default="runs", help="where runs are kept")
        parser.add_argument("--experiment", type=str, default="experiment", help="first folder of the run")
        parser.add_argument("--version", type=str, default="version_0", help="second folder of the run")

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401 - LightningCLI's own hook
        """Use the one-line parser."""
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action="config", help="a configuration file")
        return parser

    def before_test(self) -> None:
        """Tell the results which checkpoint, configuration and training seed they belong to."""
        checkpoint = str(self.config["test"].ckpt_path)
        content = read_checkpoint(Path(checkpoint))
        config = yaml.safe_load(self._parser("test").dump(self.config["test"]))
        data = {name: value for name, value in config["data"]["init_args"].items() if name not in _WITHOUT_EFFECT}
        text = json.dumps({"model": config["model"], "data": data}, sort_keys=True)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined] # set at run time
            if isinstance(callback, ResultsWriter):
                callback.settings = {
                    "checkpoint": checkpoint,
                    "checkpoint_sha256": sha256_of(Path(checkpoint)),
                    "config_hash": hashlib.sha256(text.encode()).hexdigest(),
                    "training_seed": content.get("ouroboros3d_seed"),
                    "training_steps": content["global_step"],
                }

    def before_instantiate_classes(self) -> None:
        """Look for the files that training starts from, before large networks are built; place the logger."""
        config = self.config[self.subcommand]
        weights = config.model.init_args.base_weights
        if weights is not None:
            weights = PaperWeights(**weights) if isinstance(weights, Namespace) else weights
            check_files(weights, config.model.init_args.reconstructor.init_args.get("rotation_norm", "per_gaussian"))
        logger = config.trainer.logger  # a run's saved configuration names its own folder, which is not this run's
        if logger in (None, True) or getattr(logger, "class_path", "").endswith(".TensorBoardLogger"):
            config.trainer.logger = {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": config.runs, "name": config.experiment, "version": config.version},
                # What a run wrote after the checkpoint that it goes on from comes again.
                "dict_kwargs": {"purge_step": _first_step(config)} if self.subcommand == "fit" else {},
            }

    def before_fit(self) -> None:
        """Remove best checkpoints later than the one that a run goes on from, which come again, and unfinished ones."""
        if not is_first_process():
            return  # it alone knows the run's folder
        config = self.config["fit"]
        folder = _folder(config) / "checkpoints"
        remove_parts(folder)
        known = [
            Path(path).name
            for state in (read_checkpoint(Path(config.ckpt_path))["callbacks"] if config.ckpt_path else {}).values()
            for path in state.get("best_k_models", ())
        ]
        for path in folder.glob("best*.ckpt"):
            if path.name not in known:
                path.unlink()


def run(command: str, arguments: Sequence[str]) -> None:
    """Run `fit`, `validate`, `test` or `predict`.

    Args:
        command: its name.
        arguments: the command line after it.

    Raises:
        ValueError: a wrong argument or input, in one line.
        FileNotFoundError: no such file.
        FileExistsError: the run's folder exists.
        ConnectionError: another process of the run ended.
        SystemExit: code 128 + signal, told to stop by one.
    """
    _quieten()
    resumed = command == "fit" and _value(arguments, "--resume") is not None
    options = _without(arguments, "--resume")
    arguments = ["--config" if argument == "-c" else argument for argument in arguments]
    claimed: Path | None = None
    if any(argument.startswith(("--help.all", "--model.help", "--data.help")) for argument in arguments):
        arguments = [_LONG_HELP[a] if a in _LONG_HELP and a == arguments[-1] else a for a in arguments]
    elif command == "fit":
        arguments, claimed = _place_fit(arguments)
    else:
        if command == "predict":
            arguments = _take_images(arguments)
        arguments, claimed = _place_use(command, arguments)
    watch = ProcessWatch()
    writers: dict[str, list[Callback]] = {"test": [ResultsWriter()], "predict": [PredictionWriter()]}
    callbacks = [watch, *writers.get(command, [])]
    training = _lock_run(arguments) if command == "fit" else None
    try:
        Commands(
            ImageTo3D,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=WholeConfig if claimed else ResumeHistory if resumed else None,  # else it has one
            save_config_kwargs={  # not in Lightning's way, but by the callback's own hook
                "save_to_log_dir": False,
                **({"options": options} if resumed else {}),
            },
            trainer_class=Trainer,
            trainer_defaults={"callbacks": callbacks},
            parser_kwargs={
                name: {"default_config_files": [str(_DEFAULTS)]} for name in ("fit", "validate", "test", "predict")
            },
            seed_everything_default=0,
            args=[command, *arguments],
        )
    except (ArgumentError, ValueError) as error:  # of the parser, or of a class that it instantiates
        raise ValueError(_meant(str(error))) from error
    except RuntimeError as error:
        if not lost_a_process(error):
            raise
        raise ConnectionError(watch.explain()) from error
    except SIGTERMException as stopped:  # a SystemExit that would say success
        raise SystemExit(128 + signal.SIGTERM) from stopped
    finally:
        if training:
            training.close()
        if claimed and is_first_process():  # a command that was refused leaves nothing behind
            if [path.name for path in claimed.iterdir()] == [_LOCK]:
                (claimed / _LOCK).unlink()
            for folder in (claimed, *claimed.parents[:2]):
                with suppress(OSError):  # not empty
                    folder.rmdir()


class Loading(Commands):
    """The command line of a command that works with a variant itself: no run, no Trainer, no data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what commands that run write into a configuration."""
        super().add_arguments_to_parser(parser)
        for name in ("ckpt_path", "weights_only", "verbose", "return_predictions"):
            parser.add_argument(f"--{name}", default=None)

    def before_instantiate_classes(self) -> None:
        """Nothing: a checkpoint holds every weight, and nothing is logged."""

    def instantiate_classes(self) -> None:
        """Build the variant alone."""
        self.model = self.parser.instantiate_classes(Namespace(model=self.config.model)).model  # type: ignore[no-untyped-call]


class Loaded(NamedTuple):
    """What `load` returns.

    variant: with the weights of the checkpoint.
    config: resolved, as in a run's config.yaml, but with the data settings that `predict` would have.
    checkpoint: the file.
    content: what it holds.
    """

    variant: ImageTo3D
    config: dict[str, Any]
    checkpoint: Path
    content: dict[str, Any]


def load(command: str, arguments: Sequence[str]) -> Loaded:
    """The variant that `predict` would work with, of the same arguments less the images.

    Args:
        command: the name of the command that asks, for messages.
        arguments: the command line after it.

    Raises:
        ValueError: a wrong argument or checkpoint, in one line.
        FileNotFoundError: no such file.
    """
    _quieten()
    arguments, _ = _choose(command, ["--config" if argument == "-c" else argument for argument in arguments])
    photos = ["--data=ouroboros3d.datamodules.photos.PhotoDataModule", "--data.init_args.images=[]"]
    try:
        loading = Loading(
            ImageTo3D,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_class=Trainer,
            parser_kwargs={"default_config_files": [str(_DEFAULTS)]},
            seed_everything_default=0,
            run=False,
            args=arguments + photos,
        )
    except (ArgumentError, ValueError) as error:  # of the parser, or of a class that it instantiates
        raise ValueError(_meant(str(error))) from error
    variant = loading.model
    assert isinstance(variant, ImageTo3D)
    checkpoint = Path(loading.config.ckpt_path)
    content = read_checkpoint(checkpoint)
    variant.load_state_dict(adapted(variant, content, str(checkpoint)))
    config = yaml.safe_load(loading.parser.dump(loading.config, skip_none=False))
    return Loaded(variant, config, checkpoint, content)


def _place_fit(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Claim the run's folder, and refuse one that exists: the arguments that name it, and the folder if it is new."""
    if run := _value(arguments, "--resume"):
        return _resume(_without(arguments, "--resume"), Path(run)), None
    _check_checkpoint(_value(arguments, "--ckpt_path"))
    runs = Path(_value(arguments, "--runs") or "runs")
    experiment = _value(arguments, "--experiment") or _experiment_name(_values(arguments, "--config")) or "staged"
    return _new_run(arguments, runs, experiment)


def _lock_run(arguments: Sequence[str]) -> IO[str] | None:
    """Keep other fits out of a run's folder, which would mix their checkpoints and curves.

    Raises:
        ValueError: another process trains this run.
    """
    parts = [_value(arguments, f"--{name}") for name in ("runs", "experiment", "version")]
    folder = Path(*(part for part in parts if part))
    if not is_first_process() or not folder.is_dir() or "--print_config" in arguments:
        return None
    try:
        return lock(folder / _LOCK)
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
        if _value(arguments, option):
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
    _check_checkpoint(str(last))
    return [*arguments, f"--ckpt_path={last}", "--model.init_args.base_weights=null"]  # it holds every weight


def _new_run(arguments: list[str], runs: Path, experiment: str) -> tuple[list[str], Path | None]:
    version = _value(arguments, "--version")
    if not is_first_process():
        # Lightning tells every rank the first one's folder before anything is written.
        version = os.environ.get(_VERSION_OF_LAUNCHER, version or "version_0")
        return [*arguments, *_run_arguments(runs, experiment, version)], runs / experiment / version
    if "--print_config" in arguments:
        return [*arguments, *_run_arguments(runs, experiment, version or "version_0")], None
    folder = _claim(runs / experiment, version)
    os.environ[_VERSION_OF_LAUNCHER] = folder.name
    return [*arguments, *_run_arguments(runs, experiment, folder.name)], folder


def _run_arguments(runs: Path, experiment: str, version: str) -> list[str]:
    return [f"--runs={runs}", f"--experiment={experiment}", f"--version={version}"]


def _first_step(config: Any) -> int:  # noqa: ANN401 - jsonargparse's Namespace
    """The step that a fit goes on from."""
    return int(read_checkpoint(Path(config.ckpt_path))["global_step"]) if config.ckpt_path else 0


def _folder(config: Any) -> Path:  # noqa: ANN401 - jsonargparse's Namespace has what is put into it
    return Path(config.runs, config.experiment, config.version)


def _claim(experiment: Path, version: str | None) -> Path:
    """Make a run's folder: the named one, or the first version_N that is free; of two processes each gets its own."""
    for name in [version] if version else map("version_{}".format, itertools.count()):
        with suppress(FileExistsError):
            (experiment / name).mkdir(parents=True)
            return experiment / name
    raise FileExistsError(
        f"run folder: {experiment / str(version)} exists already, and a run never overwrites another; "
        "choose another --version or leave it out."
    )


def _check_checkpoint(checkpoint: str | None) -> None:
    if checkpoint is None:
        return
    if Path(checkpoint).is_dir():
        raise ValueError(
            f"ckpt_path: expected one file, got the folder {checkpoint}, which DeepSpeed or FSDP wrote in shards; "
            "docs/clusters.md says how to make its weights one file, which --model.base_weights takes."
        )
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f"ckpt_path: no file {checkpoint}; a run's checkpoints are in runs/NAME/VERSION/checkpoints."
        )
    lacks = [key for key in _OF_A_RUN if key not in read_checkpoint(Path(checkpoint))]
    if lacks:
        raise ValueError(
            f"ckpt_path: expected a checkpoint that a run wrote, got {checkpoint} without {', '.join(lacks)}; weights "
            "alone are what --model.base_weights takes."
        )


def _place_use(command: str, arguments: list[str]) -> tuple[list[str], Path | None]:
    """Choose the checkpoint, its configuration and the folder that the results go to; the folder if it is new."""
    arguments, configs = _choose(command, arguments)
    run = _run_of(configs)
    if run and not (_value(arguments, "--experiment") or _value(arguments, "--version")):
        return [*arguments, *_run_arguments(run.parents[1], run.parent.name, run.name)], None
    experiment = _value(arguments, "--experiment") or _experiment_name(configs) or "staged"
    return _new_run(arguments, Path(_value(arguments, "--runs") or "runs"), experiment)


def _choose(command: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Choose the checkpoint and its configuration: the arguments with both, and the configuration's files."""
    runs = Path(_value(arguments, "--runs") or "runs")
    checkpoint = _value(arguments, "--ckpt_path")
    configs = _values(arguments, "--config")
    if checkpoint is None:
        run = _run_of(configs)
        checkpoint = str(
            newest_checkpoint(run, ".") if run else newest_checkpoint(runs, f"{_experiment_name(configs) or '*'}/*")
        )
        print(f"{command}: the newest run's best checkpoint, {checkpoint}", flush=True)
    _check_checkpoint(checkpoint)
    # Last, because a run's configuration says `ckpt_path: null`, and a later value wins over an earlier one.
    arguments.append(f"--ckpt_path={checkpoint}")
    # The checkpoint holds every weight: where training started from may be gone by now.
    arguments.append("--model.init_args.base_weights=null")
    if not configs:
        config = Path(checkpoint).resolve().parents[1] / "config.yaml"
        if not config.is_file():
            raise FileNotFoundError(f"config: no {config} beside the checkpoint; name one with --config.")
        configs = [str(config)]
        arguments = [f"--config={config}", *arguments]
    return arguments, configs


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


def _take_images(arguments: list[str]) -> list[str]:
    """Turn `--image FILE` and `--elevation_deg D` into a `PhotoDataModule` that keeps the run's own camera settings."""
    images = _values(arguments, "--image")
    if not images:
        raise ValueError("predict: expected --image FILE, got none; it may be given several times.")
    missing = [image for image in images if not Path(image).is_file()]
    if missing:
        raise FileNotFoundError(f"image: no file {missing[0]}.")
    elevation = _value(arguments, "--elevation_deg") or "10"
    kept = _without(_without(arguments, "--image"), "--elevation_deg")
    return [
        *kept,
        "--data=ouroboros3d.datamodules.photos.PhotoDataModule",
        f"--data.init_args.images={json.dumps(images)}",
        f"--data.init_args.elevation_deg={elevation}",
    ]


def newest_checkpoint(runs: Path, pattern: str = "*/*") -> Path:
    """The best checkpoint of the run that saved one last.

    Args:
        runs: where runs are kept.
        pattern: of their folders in it.

    Raises:
        FileNotFoundError: there is none.
    """
    names = ("best*.ckpt", "last.ckpt")  # a run that ended before its first validation has only the last one
    found = [path for name in names for path in runs.glob(f"{pattern}/checkpoints/{name}")]
    newest_run = max((path.stat().st_mtime, path.parent) for path in found)[1] if found else None
    found = [path for path in found if path.parent == newest_run]
    if not found:
        raise FileNotFoundError(
            f"runs: no checkpoint in {runs}/{pattern}/checkpoints; train first (python -m ouroboros3d fit --config "
            "ablations/recursive.yaml) or name a checkpoint with --ckpt_path."
        )
    return found[0]


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


def _value(arguments: Sequence[str], option: str) -> str | None:
    values = _values(arguments, option)
    if not values:
        return None
    # Lightning's logger takes a bare number for version_NUMBER.
    return f"version_{values[-1]}" if option == "--version" and values[-1].isdigit() else values[-1]


def _without(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments less an option and its values."""
    befores = ["", *arguments]
    return [
        argument
        for before, argument in zip(befores, arguments, strict=False)
        if option not in (before, argument) and not argument.startswith(f"{option}=")
    ]


def _meant(message: str) -> str:
    """Of jsonargparse's list of failed alternatives the one that was meant: an optional object is not None."""
    if missing := re.search(r"No module named '([\w.]+)'. Got value: (\S+)", message):
        package = missing[1].split(".")[0]
        return f"{missing[2]}: no module named {missing[1]!r}; pip install {package}, or name another class."
    alternatives = r'(?:Parser key "(\w+)":\s*)?Does not validate.*?Errors:\s*- (.*?)\s*- Expected a'
    found = re.search(alternatives, message, re.DOTALL)
    return f"{found[1] or 'model or data'}: {found[2]}" if found else message


def _quieten() -> None:
    """Show our own log lines; leave out remarks of libraries that a user can do nothing about."""
    if not _log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        _log.addHandler(handler)
        _log.setLevel(logging.INFO)
    # Advertisements of other products, and hardware that is not there.
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.connectors.accelerator_connector"):
        logging.getLogger(name).addFilter(_has_news)
    # Desk-scale data comes from memory: worker processes would only cost.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # `main(args)` is the one entry, also for the process's own arguments.
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def _has_news(record: logging.LogRecord) -> bool:
    return not re.search("litlogger|used: False|using: 0", record.getMessage())

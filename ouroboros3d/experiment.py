"""Runs: which configuration, which folder and which checkpoint a command works with; the LightningCLI behind it."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentError
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from ouroboros3d.callbacks.predictions import PredictionWriter
from ouroboros3d.callbacks.results import ResultsWriter
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D

_DEFAULTS = Path(__file__).with_name("defaults.yaml")
_VERSION_OF_LAUNCHER = "OUROBOROS3D_RUN_VERSION"  # processes that a strategy starts join the first one's run
_log = logging.getLogger("ouroboros3d")


class Parser(LightningArgumentParser):  # type: ignore[misc]
    """LightningCLI's parser, whose errors are one line and leave the exit to `cli.main`."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as `ValueError`."""
        raise ValueError(message) from ex


class Commands(LightningCLI):  # type: ignore[misc]
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

    def before_instantiate_classes(self) -> None:
        """Send the logger to the run's folder."""
        config = self.config[self.subcommand]
        if config.trainer.logger in (None, True):
            config.trainer.logger = {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": config.runs, "name": config.experiment, "version": config.version},
            }


def run(command: str, arguments: Sequence[str]) -> None:
    """Run `fit`, `validate`, `test` or `predict`.

    Args:
        command: its name.
        arguments: the command line after it.

    Raises:
        ValueError: a wrong argument or input, in one line.
        FileNotFoundError: no such file.
        FileExistsError: the run's folder exists.
    """
    _quieten()
    arguments = list(arguments)
    if "--help.all" in arguments:
        arguments = ["--help"]
    elif command == "fit":
        arguments = _place_fit(arguments)
    else:
        arguments = _place_use(command, arguments)
    callbacks = {"test": [ResultsWriter()], "predict": [PredictionWriter()]}.get(command, [])
    try:
        Commands(
            ImageTo3D,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfigCallback if command == "fit" else None,
            trainer_class=Trainer,
            trainer_defaults={"callbacks": callbacks} if callbacks else None,
            parser_kwargs={name: {"default_config_files": [str(_DEFAULTS)]} for name in ("fit", "validate", "test", "predict")},
            seed_everything_default=0,
            args=[command, *arguments],
        )
    except ArgumentError as error:
        raise ValueError(str(error)) from error


def _place_fit(arguments: list[str]) -> list[str]:
    """Name the run's folder and refuse one that exists."""
    runs = Path(_value(arguments, "--runs") or "runs")
    experiment = _value(arguments, "--experiment") or _experiment_name(_values(arguments, "--config")) or "staged"
    version = _value(arguments, "--version") or os.environ.get(_VERSION_OF_LAUNCHER)
    joins = os.environ.get(_VERSION_OF_LAUNCHER) is not None
    if version is None:
        number = 0
        while (runs / experiment / f"version_{number}").exists():
            number += 1
        version = f"version_{number}"
    elif not joins and (runs / experiment / version).exists():
        raise FileExistsError(
            f"run folder: {runs / experiment / version} exists already, and a run never overwrites another; "
            "choose another --version or leave it out."
        )
    if not any(argument.startswith("--print_config") for argument in arguments):
        os.environ[_VERSION_OF_LAUNCHER] = version
    return [*arguments, f"--runs={runs}", f"--experiment={experiment}", f"--version={version}"]


def _place_use(command: str, arguments: list[str]) -> list[str]:
    """Choose the checkpoint, its configuration and the folder that the results go to."""
    runs = Path(_value(arguments, "--runs") or "runs")
    checkpoint = _value(arguments, "--ckpt_path")
    configs = _values(arguments, "--config")
    if checkpoint is None and not configs:
        checkpoint = str(newest_checkpoint(runs))
        print(f"{command}: the newest run's best checkpoint, {checkpoint}", flush=True)
        arguments.append(f"--ckpt_path={checkpoint}")
    elif checkpoint is not None and not Path(checkpoint).is_file():
        raise FileNotFoundError(f"ckpt_path: no file {checkpoint}; a run's checkpoints are in runs/NAME/VERSION/checkpoints.")
    if not configs:
        assert checkpoint is not None
        config = Path(checkpoint).resolve().parents[1] / "config.yaml"
        if not config.is_file():
            raise FileNotFoundError(f"config: no {config} beside the checkpoint; name one with --config.")
        configs = [str(config)]
        arguments = [f"--config={config}", *arguments]
    last = Path(configs[0])
    if last.name == "config.yaml":
        runs, experiment, version = last.parents[2], last.parents[1].name, last.parent.name
    else:
        experiment = _value(arguments, "--experiment") or _experiment_name(configs) or "staged"
        number = 0
        while (runs / experiment / f"version_{number}").exists():
            number += 1
        version = _value(arguments, "--version") or f"version_{number}"
    return [*arguments, f"--runs={runs}", f"--experiment={experiment}", f"--version={version}"]


def newest_checkpoint(runs: Path) -> Path:
    """The best checkpoint of the run in `runs` that saved one last.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(runs.glob("*/*/checkpoints/best*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(
            f"runs: no {runs}/*/*/checkpoints/best*.ckpt; train first (python -m ouroboros3d fit --config "
            "ablations/recursive.yaml) or name a checkpoint with --ckpt_path."
        )
    return found[-1]


def _experiment_name(configs: Sequence[str]) -> str | None:
    """The name of the first configuration that is no scale: an experiment is called as its ablation's file."""
    names = [Path(config).stem for config in configs if Path(config).parent.name != "scales"]
    return names[0] if names else None


def _values(arguments: Sequence[str], option: str) -> list[str]:
    """All values given to an option, as `--option value` or `--option=value`."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    return [
        following if argument == option else argument.removeprefix(f"{option}=")
        for argument, following in pairs
        if argument == option or argument.startswith(f"{option}=")
    ]


def _value(arguments: Sequence[str], option: str) -> str | None:
    values = _values(arguments, option)
    return values[-1] if values else None


def _quieten() -> None:
    """Show our own log lines; leave out remarks of libraries that a user can do nothing about."""
    if not _log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        _log.addHandler(handler)
        _log.setLevel(logging.INFO)
    # Desk-scale data comes from memory: worker processes would only cost.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")

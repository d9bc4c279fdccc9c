"""Runs: which configuration, which folder and which checkpoint a command works with; the LightningCLI behind it."""

import hashlib
import json
import logging
import re
import signal
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ouroboros3d.callbacks.averaging import MovingAverage
from ouroboros3d.callbacks.checkpoints import of_a_restore
from ouroboros3d.callbacks.optimizer import ConfiguredOptimizer
from ouroboros3d.callbacks.predictions import PredictionWriter
from ouroboros3d.callbacks.processes import ProcessWatch, is_first_process, lost_a_process
from ouroboros3d.callbacks.results import ResultsWriter
from ouroboros3d.callbacks.run_folder import RunFolderWatch, check_folder
from ouroboros3d.commands.arguments import (
    AXES,
    RunOptions,
    Setting,
    as_arguments,
    check_run_options,
    parse_run_options,
)
from ouroboros3d.commands.parsing import Parser, meant, parsing
from ouroboros3d.commands.run_folders import Placed, choose, lock_run, place_fit, place_use, remove_claim, take_images
from ouroboros3d.files import atomic_write, naming, remove_parts, sha256_of
from ouroboros3d.gaussians import PlyAxes
from ouroboros3d.lightning_modules.image_to_3d import ImageTo3D
from ouroboros3d.lightning_modules.loaded import Loaded
from ouroboros3d.lightning_modules.weights import PaperWeights, adapted, check_files, read_checkpoint
from ouroboros3d.training_record import FIELDS, read_training_record, record_of_variant
from ouroboros3d.weight_names import SHIPPED, checkpoint_file

_DEFAULTS = Path(__file__).parents[1] / "defaults.yaml"
_LONG_HELP: dict[Setting, Setting] = {
    ("--help.all", None): ("--help", None),
    ("--model.help", None): ("--model.help", "ouroboros3d.lightning_modules.staged.Staged"),
    ("--data.help", None): ("--data.help", "ouroboros3d.datamodules.objaverse.ObjaverseDataModule"),
}
_log = logging.getLogger("ouroboros3d")


class WholeConfig(SaveConfigCallback):
    """Write a run's config.yaml whole or not at all: what is cut off could be read as another configuration."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it under another name first."""
        folder = _folder(self.config)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "config.yaml") as part:
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
        """Add where a run goes, and what becomes a callback of it."""
        parser.add_argument("--runs", type=str, default="runs", help="where runs are kept")
        parser.add_argument("--experiment", type=str | None, default=None, help="first folder of the run")
        parser.add_argument("--version", type=str | None, default=None, help="second folder of the run")
        parser.add_argument(
            "--moving_average",
            type=float,
            default=0.0,
            help="share of itself that the moving average of the weights keeps at a step of fit, 0 = none; a callback "
            "of Lightning's that averages weights, among trainer.callbacks, takes its place",
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401 - LightningCLI's own hook
        """Use the one-line parser."""
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action="config", help="a configuration file")
        return parser

    def _parse_ckpt_path(self) -> None:
        """Nothing: LightningCLI looks for hyper-parameters in a file of torch's, and no checkpoint of ours has any."""

    def before_test(self) -> None:
        """Tell the results which checkpoint, configuration and training seed they belong to."""
        checkpoint = str(self.config["test"].ckpt_path)
        file = checkpoint_file(checkpoint)
        content = read_checkpoint(file)
        config = yaml.safe_load(self._parser("test").dump(self.config["test"]))
        ignored: frozenset[str] = getattr(self.datamodule, "without_effect", frozenset())
        data = {name: value for name, value in config["data"]["init_args"].items() if name not in ignored}
        text = json.dumps({"model": config["model"], "data": data}, sort_keys=True)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined] # set at run time
            if isinstance(callback, ResultsWriter):
                callback.settings = {
                    "checkpoint": checkpoint,
                    "checkpoint_sha256": sha256_of(file),
                    "config_hash": hashlib.sha256(text.encode()).hexdigest(),
                    "training_seed": content.get("ouroboros3d_seed"),
                    "training_steps": content["global_step"],
                    **_trained(file, content),
                }

    def before_predict(self) -> None:
        """Tell the predictions which checkpoint they belong to."""
        checkpoint = str(self.config["predict"].ckpt_path)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined] # set at run time
            if isinstance(callback, PredictionWriter):
                callback.settings = {
                    "checkpoint": checkpoint,
                    "checkpoint_sha256": sha256_of(checkpoint_file(checkpoint)),
                }

    def before_instantiate_classes(self) -> None:
        """Look for the files that training starts from, before large networks are built; place the logger."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            _check_work(config.trainer)
        weights = config.model.init_args.base_weights
        if weights is not None:
            weights = PaperWeights(**weights) if isinstance(weights, Namespace) else weights
            check_files(weights, config.model.init_args.reconstructor.init_args.get("rotation_norm", "per_gaussian"))
        logger = config.trainer.logger  # a run's saved configuration names its own folder, which is not this run's
        if logger in (None, True) or getattr(logger, "class_path", "").endswith(".TensorBoardLogger"):
            config.trainer.logger = {
                "class_path": "ouroboros3d.callbacks.tensorboard.TensorBoardLogger",
                "init_args": {"save_dir": config.runs, "name": config.experiment, "version": config.version},
                # What a run wrote after the checkpoint that it goes on from comes again.
                "dict_kwargs": {"purge_step": _first_step(config)} if self.subcommand == "fit" else {},
            }

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - LightningCLI's own hook
        """A Trainer that averages the weights where the configuration says so."""
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        callbacks = trainer.callbacks  # type: ignore[attr-defined] # set at run time
        decay = self.config[self.subcommand].moving_average if self.subcommand == "fit" else 0.0
        if decay and not any(isinstance(callback, WeightAveraging) for callback in callbacks):
            callbacks.insert(0, MovingAverage(decay))  # before those that save
        return trainer

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


def run(command: str, arguments: Sequence[str], shipped: Path = SHIPPED) -> None:
    """Run `fit`, `validate`, `test` or `predict`.

    Args:
        command: its name.
        arguments: the command line after it.
        shipped: the folder of the weights that all but `fit` use where no run is.

    Raises:
        ValueError: a wrong argument or input, in one line.
        FileNotFoundError: no such file.
        FileExistsError: the run's folder exists.
        ConnectionError: another process of the run ended.
        SystemExit: code 128 + signal, told to stop by one; or 1, some photos were left out.
    """
    _quieten()
    options = parse_run_options(command, arguments)
    check_run_options(options)
    placed = _place(options, shipped)
    axes = cast(PlyAxes, options.single.get("axes", AXES[0]))
    predictions = PredictionWriter(
        axes,
        mesh=options.single.get("mesh") == "true",
        out=Path(options.single["out"]) if "out" in options.single else None,
    )
    watch = ProcessWatch()
    watched = RunFolderWatch(placed.folder if command == "fit" and is_first_process() else None)
    own: dict[str, list[Callback]] = {
        "fit": [ConfiguredOptimizer(), watched],
        "test": [ResultsWriter(axes)],
        "predict": [predictions],
    }
    callbacks = [watch, *own.get(command, [])]
    training = lock_run(placed.folder) if command == "fit" else None
    resumed = "resume" in options.single
    try:
        with parsing(options.allowed), naming(placed.folder or Path(".")):
            commands = Commands(
                ImageTo3D,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=WholeConfig if placed.is_new else ResumeHistory if resumed else None,
                save_config_kwargs={  # not in Lightning's way, but by the callback's own hook
                    "save_to_log_dir": False,
                    **({"options": options.given} if resumed else {}),
                },
                trainer_class=Trainer,
                trainer_defaults={"callbacks": callbacks},
                parser_kwargs={
                    name: {"default_config_files": [str(_DEFAULTS)]} for name in ("fit", "validate", "test", "predict")
                },
                seed_everything_default=0,
                args=[command, *as_arguments(placed.settings)],
            )
    except (ArgumentError, ValueError) as error:  # of the parser, or of a class that it instantiates
        raise ValueError(meant(str(error))) from error
    except SIGTERMException as stopped:  # a SystemExit that would say success
        raise SystemExit(128 + signal.SIGTERM) from stopped
    except Exception as error:
        if isinstance(error, RuntimeError) and lost_a_process(error):
            raise ConnectionError(watch.explain()) from error
        if watched.folder and not watched.folder.is_dir():  # what writes into it in a thread of its own found out first
            check_folder(watched.folder)
        if not of_a_restore(error):
            raise
        checkpoint = dict(placed.settings).get("--ckpt_path")
        raise ValueError(
            f"{checkpoint}: expected a checkpoint that a run wrote, got one that nothing can go on from "
            f"({type(error).__name__}: {error}); it is damaged or of another version, so use another one."
        ) from error
    finally:
        if training:
            training.close()
        if placed.is_new and placed.folder and is_first_process():  # a command that was refused leaves nothing behind
            remove_claim(placed.folder)
    if command == "predict" and commands.datamodule.failed:
        for photo, reason in commands.datamodule.failed.items():
            print(f"predict: {photo} was left out: {reason}", file=sys.stderr)
        raise SystemExit(1)


def _place(options: RunOptions, shipped: Path) -> Placed:
    """What a command line means; help needs no place."""
    if {option for option, _ in options.settings} & {option for option, _ in _LONG_HELP}:
        return Placed([_LONG_HELP.get(setting, setting) for setting in options.settings], None, is_new=False)
    if options.command == "fit":
        return place_fit(options)
    return place_use(take_images(options) if options.command == "predict" else options, shipped)


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


def load(command: str, arguments: Sequence[str], shipped: Path = SHIPPED) -> Loaded:
    """The variant that `predict` would work with, of the same arguments less the images.

    Args:
        command: the name of the command that asks, for messages.
        arguments: the command line after it.
        shipped: the folder of the weights that are used where no run is.

    Raises:
        ValueError: a wrong argument or checkpoint, in one line.
        FileNotFoundError: no such file.
    """
    _quieten()
    options = parse_run_options(command, arguments)
    check_run_options(options)
    chosen = choose(options, shipped)
    settings: list[Setting] = [
        *chosen.settings,
        ("--runs", options.single.get("runs", "runs")),
        ("--data", "ouroboros3d.datamodules.photos.PhotoDataModule"),
        ("--data.init_args.images", "[]"),
    ]
    try:
        with parsing(options.allowed):
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
                args=as_arguments(settings),
            )
    except (ArgumentError, ValueError) as error:  # of the parser, or of a class that it instantiates
        raise ValueError(meant(str(error))) from error
    variant = loading.model
    assert isinstance(variant, ImageTo3D)
    content = read_checkpoint(chosen.checkpoint)
    variant.load_state_dict(adapted(variant, content, str(chosen.checkpoint))[0])
    config = yaml.safe_load(loading.parser.dump(loading.config, skip_none=False))
    return Loaded(variant, config, chosen.checkpoint, content)


def _check_work(trainer: Namespace) -> None:
    """Refuse values of the Trainer with which nothing would be trained.

    Raises:
        ValueError: in one line.
    """
    if trainer.accumulate_grad_batches < 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches: expected at least 1 batch a step, got {trainer.accumulate_grad_batches}."
        )
    for name in ("limit_train_batches", "max_steps", "max_epochs"):
        if trainer[name] == 0:
            raise ValueError(f"trainer.{name}: expected something to train, got 0; leave it out for all there is.")


def _trained(checkpoint: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """How the weights were trained, as far as the checkpoint or its run's folder tells: `FIELDS`."""
    unknown = dict.fromkeys(FIELDS)
    if "ouroboros3d_config" in content:
        record = record_of_variant(content["ouroboros3d_config"], content["ouroboros3d_sources"])
        return {**unknown, **record, "training_length": content["global_step"]}
    folder = checkpoint.resolve().parent
    config, last = folder.with_name("config.yaml"), folder / "last.ckpt"
    if folder.name != "checkpoints" or not config.is_file():  # of no run
        return unknown
    steps = read_checkpoint(last)["global_step"] if last.is_file() else None
    return {**unknown, **read_training_record(config), "training_length": steps}


def _first_step(config: Any) -> int:  # noqa: ANN401 - jsonargparse's Namespace
    """The step that a fit goes on from."""
    return int(read_checkpoint(Path(config.ckpt_path))["global_step"]) if config.ckpt_path else 0


def _folder(config: Any) -> Path:  # noqa: ANN401 - jsonargparse's Namespace has what is put into it
    return Path(config.runs, config.experiment, config.version)


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
    # Of a first step that is no tails: DDP then finds no unused parameters, which later ones have.
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")
    threading.excepthook = report_thread


def report_thread(raised: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread that ended, unless it is TensorBoard's: who writes next raises the same error."""
    if not type(raised.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(raised)


def _has_news(record: logging.LogRecord) -> bool:
    return not re.search("litlogger|used: False|using: 0", record.getMessage())

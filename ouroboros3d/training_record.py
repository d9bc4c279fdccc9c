"""How weights were trained, in the words of a configuration: the fields by which comparisons tell runs apart."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ouroboros3d.configurations import read_configuration

FIELDS = ("training_length", "training_batch", "training_base_weights", "training_data", "training_rates")
NOT_OF_TRAINING = {
    *("batch_size", "num_workers", "memory_limit_mb"),
    *("cache_dir", "render_workers", "render_timeout_s", "retry_failed", "ignore_check"),
    *("seed", "download", "test_split", "test_uids", "surface_points"),
}
"""Arguments of the data that say how fast it comes, with which seed, or what is tested, and not what is trained on."""


def training_record(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs of a comparison should have in common, as fields of a result.

    Args:
        config: of the run that trained, as in its config.yaml.

    Returns:
        `training_batch`: objects a step, None where the number of processes is not known; `training_base_weights`,
        `training_data` and `training_rates`: sorted lists of `name=value`.

    Raises:
        ValueError: no such configuration.
    """
    try:
        model, data, trainer = config["model"]["init_args"], config["data"]["init_args"], config["trainer"]
        kept = {name: value for name, value in data.items() if name not in NOT_OF_TRAINING and value is not None}
        optimizer = model["optimizer"]
        rates = {
            "optimizer": optimizer["class_path"].rpartition(".")[2],
            **optimizer["init_args"],
            **{name: model.get(name) for name in ("learning_rates", "warmup_steps", "decay")},
        }
        return {
            "training_batch": _batch(data, trainer),
            "training_base_weights": sorted(_named("", model.get("base_weights"))),
            "training_data": sorted(_named("", {"root": "bundled", **kept})),
            "training_rates": sorted(_named("", rates)),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a run's configuration, got one without {error}.") from error


def read_training_record(path: Path) -> dict[str, Any]:
    """The same of a file.

    Args:
        path: of a run's config.yaml.

    Raises:
        ValueError: it is damaged, or something else.
    """
    try:
        return training_record(read_configuration(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected the configuration of a training, got none that can be read.") from error


def record_of_variant(config: Mapping[str, Any], sources: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a trained variant's file, which says nothing of batches and base weights.

    Args:
        config: its model and data.
        sources: of the data that it was trained on.
    """
    known = training_record({**config, "trainer": {}})
    return {
        **known,
        "training_batch": None,
        "training_base_weights": None,
        "training_data": [*sorted(sources), *(text for text in known["training_data"] if not text.startswith("root="))],
    }


def _batch(data: Mapping[str, Any], trainer: Mapping[str, Any]) -> int | None:
    """Objects of all processes and accumulated batches that one step of the optimiser sees."""
    parts = [
        data.get("batch_size"),
        *(trainer.get(name, 1) for name in ("devices", "num_nodes", "accumulate_grad_batches")),
    ]
    parts = [len(part) if isinstance(part, list) else part for part in parts]  # devices may be listed
    if not all(isinstance(part, int) and part > 0 for part in parts):  # devices: auto
        return None
    batch, devices, nodes, accumulated = parts
    return int(batch * devices * nodes * accumulated)


def _named(name: str, value: object) -> Iterator[str]:
    """`name=value` of every leaf; what is not set is left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _named(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list):
        yield f"{name}=" + "+".join(map(str, value))
    elif value is not None:
        yield f"{name}={value}" if name else str(value)

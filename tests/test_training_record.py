"""What a configuration says of a training, in fields that comparisons can hold side by side."""

import inspect
from pathlib import Path

import pytest
import yaml

from ouroboros3d.datamodules.objaverse import ObjaverseDataModule
from ouroboros3d.training_record import NOT_OF_TRAINING, read_training_record, record_of_variant, training_record

CONFIG = {
    "model": {
        "init_args": {
            "base_weights": {"svd": "weights/svd", "lgm": None},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 2e-4, "betas": [0.9, 0.95]}},
            "learning_rates": {"adapters": 8.0},
            "decay": "cosine",
            "warmup_steps": 50,
        }
    },
    "data": {"init_args": {"root": ["chairs", "games"], "batch_size": 4, "num_views": 4, "uids": None, "seed": 3}},
    "trainer": {"devices": 2, "num_nodes": 3, "accumulate_grad_batches": 5},
}


def test_a_record_says_what_trained(tmp_path: Path) -> None:
    expected = {
        "training_batch": 4 * 2 * 3 * 5,
        "training_base_weights": ["svd=weights/svd"],
        "training_data": ["num_views=4", "root=chairs+games"],  # neither the seed nor how fast the data comes
        "training_rates": [
            *("betas=0.9+0.95", "decay=cosine", "learning_rates.adapters=8.0"),
            *("lr=0.0002", "optimizer=AdamW", "warmup_steps=50"),
        ],
    }
    assert training_record(CONFIG) == expected
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert read_training_record(tmp_path / "config.yaml") == expected


def test_what_is_not_of_training_are_arguments_of_the_data() -> None:
    known = inspect.signature(ObjaverseDataModule).parameters.keys()
    assert ObjaverseDataModule.without_effect < NOT_OF_TRAINING < known


@pytest.mark.parametrize(("devices", "batch"), [([0, 3], 120), ("auto", None), (-1, None)])
def test_the_batch_is_of_all_processes_or_unknown(devices: object, batch: int | None) -> None:
    config = {**CONFIG, "trainer": {**CONFIG["trainer"], "devices": devices}}
    assert training_record(config)["training_batch"] == batch


def test_a_variants_file_leaves_open_what_it_does_not_say() -> None:
    config = {"model": CONFIG["model"], "data": {"init_args": {"num_views": 4}}}
    record = record_of_variant(config, {"games": "GPL", "chairs": "CC0"})
    assert (record["training_batch"], record["training_base_weights"]) == (None, None)
    assert record["training_data"] == ["chairs", "games", "num_views=4"]
    assert "lr=0.0002" in record["training_rates"]


@pytest.mark.parametrize("text", ["a: [", "[1]", "model: {}", ""])
def test_what_is_no_configuration_gets_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml: expected the configuration of a training, got none"):
        read_training_record(tmp_path / "config.yaml")

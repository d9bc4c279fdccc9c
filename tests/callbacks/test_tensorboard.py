"""What a plain run's TensorBoard begins with."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ouroboros3d.callbacks.tensorboard import TensorBoardLogger


def test_the_epoch_is_no_curve(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="staged", version="version_0")
    logger.log_metrics({"epoch": 0.0, "train/loss": 0.5}, step=3)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 0.5)]

"""TensorBoard's logger, without what would stand before the losses."""

from collections.abc import Mapping

from lightning.pytorch.loggers import TensorBoardLogger as LightningLogger


class TensorBoardLogger(LightningLogger):
    """Lightning's logger without the curve `epoch`, which would be the first card of every run.

    Steps are what a run counts: the bundled objects make epochs of a few steps.
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write all curves but that one."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

"""The records of a training, ``metrics.csv`` and ``summary.json``, consistent with its checkpoints."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Timer

from robustsmooth.evaluation import fingerprint_in
from robustsmooth.files import write_whole
from robustsmooth.loggers import CsvLogger, as_text
from robustsmooth.methods.callbacks import EpochTimer


class TrainingRecord(Callback):
    """Keep ``metrics.csv`` and ``summary.json`` of a training consistent with its checkpoints.

    The checkpoint of an epoch is written before the epoch's metrics are logged. It contains the rows of
    ``metrics.csv``, including those that are about to be logged. A training that continues from it writes the
    whole file again, so rows that were lost or damaged are repaired.

    Args:
        folder: The run folder.
        timer: Has the seconds of the epochs.
    """

    def __init__(self, folder: Path, timer: EpochTimer) -> None:
        self.folder, self.timer = folder, timer
        self._kept: dict[str, Any] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the metrics and the rows."""
        metrics = self._metrics(trainer)  # of all ranks together
        rows = [_with_epoch(trainer, item.rows(), metrics) for item in _csv(trainer)]
        checkpoint.setdefault("robustsmooth", {}).update(metrics=metrics, rows=rows[0] if rows else [])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read the metrics and the rows; adapt the paths of checkpoints in a folder that was moved."""
        self._kept = checkpoint.get("robustsmooth", {})
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and "best_model_path" in state:
                state.update(_moved(state, (self.folder / "checkpoints").resolve()))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows of a training that continues.

        Remove drafts that a kill may have left, and the summary of fewer epochs: a run folder with a summary
        holds a training that has ended.
        """
        if trainer.is_global_zero:
            for draft in [*self.folder.glob("*.tmp"), *self.folder.glob("checkpoints/*.tmp")]:
                draft.unlink()
            (self.folder / "summary.json").unlink(missing_ok=True)
        for logger in _csv(trainer):
            if self._kept.get("rows"):
                logger.restore(self._kept["rows"])

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """``summary.json``: the last metrics, the epochs and the seconds that they took.

        Also the fingerprint of the network in ``last.ckpt``, and that a time limit has ended the training,
        which is not complete then.
        """
        summary = {
            **({"stopped": stopped} if (stopped := _out_of_time(trainer)) else {}),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seconds": sum(self.timer.seconds),
            "seconds_per_epoch": self.timer.seconds,
            "network": fingerprint_in(self.folder / "checkpoints" / "last.ckpt"),
            "metrics": dict(sorted(self._metrics(trainer).items())),
        }
        if trainer.is_global_zero:
            if stopped:
                print(stopped, file=sys.stderr, flush=True)
            write_whole(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")

    def _metrics(self, trainer: pl.Trainer) -> dict[str, float]:
        now = {key: float(value) for key, value in trainer.callback_metrics.items()}
        return {**self._kept.get("metrics", {}), **now}


def _out_of_time(trainer: pl.Trainer) -> str | None:
    """A sentence, if the time limit has ended a training before the end of its last epoch."""
    limits = [item.time_remaining() for item in trainer.callbacks if isinstance(item, Timer)]  # type: ignore[attr-defined]
    complete = trainer.current_epoch == trainer.max_epochs and trainer.is_last_batch
    if complete or all(left is None or left > 0 for left in limits):
        return None
    return f"stopped by trainer.max_time in epoch {trainer.current_epoch} of {trainer.max_epochs}"


def _moved(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The state of a ``ModelCheckpoint`` whose files are in this folder now."""

    def here(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    paths = {key: here(state[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
    best = {here(path): score for path, score in state["best_k_models"].items()}
    return {**paths, "best_k_models": best, "dirpath": str(folder)}


def _csv(trainer: pl.Trainer) -> list[CsvLogger]:
    """The loggers that write ``metrics.csv``, on the rank that writes it."""
    return [logger for logger in trainer.loggers if isinstance(logger, CsvLogger) and trainer.is_global_zero]


def _with_epoch(
    trainer: pl.Trainer, rows: list[dict[str, str]], metrics: Mapping[str, float]
) -> list[dict[str, str]]:
    """The rows, including those that Lightning will log for an epoch that has just ended."""
    if not (trainer.is_last_batch or trainer.should_stop):  # by a time limit, within an epoch
        return rows
    epoch = str(trainer.current_epoch)
    if not rows or rows[-1].get("epoch") != epoch:  # without validation in this epoch
        rows.append({"step": str(trainer.global_step - 1), "epoch": epoch})
    training = {key: as_text(key, value) for key, value in metrics.items() if key.startswith("train/")}
    return [*rows[:-1], {**rows[-1], **training}]


def trained_epochs(folder: Path) -> int:
    """The number of epochs of a finished training, from ``summary.json``."""
    return int(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["epochs"])


def summary_metric(folder: Path, name: str) -> float | None:
    """The last value of a metric, from ``summary.json``; None if the run has no such metric."""
    path = folder / "summary.json"
    if not path.is_file():  # on another rank, before the first one has written it
        return None
    value = json.loads(path.read_text(encoding="utf-8"))["metrics"].get(name)
    return None if value is None else float(value)

"""Callbacks that every training run has."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torchmetrics import Metric

from robustsmooth.data import check_class_names
from robustsmooth.methods.base import ClassificationModule


class SaveConfig(Callback):
    """Put the resolved config into every checkpoint, so that a single file can be evaluated.

    A training that continues must have the classes and the number of images of its checkpoint.

    Args:
        config: Plain values only: a checkpoint is data, not code.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the config under ``"robustsmooth"``, with the names of the classes as ``classes``.

        Beside it ``images``, the number of images of the training split.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        config = {**self.config, "classes": list(data.class_names)}
        checkpoint.setdefault("robustsmooth", {}).update(config=config, images=len(data.part("train")))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Compare the data.

        Raises:
            ValueError: If the classes have other names or another order, or if images were added or removed.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        saved, folder = checkpoint["robustsmooth"], self.config["run_dir"]
        way_out = "; put the data back as they were, or choose another folder with hydra.run.dir=..."
        check_class_names(saved["config"].get("classes", ()), data.class_names, folder, f"the data{way_out}")
        then, now = saved.get("images"), len(data.part("train"))  # older checkpoints do not have it
        if then not in (None, now):
            raise ValueError(
                f"the training in `{folder}` began with {then} images in the training split, which has {now} "
                f"now{way_out}"
            )


class KeepMetrics(Callback):
    """Save the metrics of an unfinished epoch in its checkpoints: a resumed epoch logs the same values.

    Each rank has counted its own images. With the same number of ranks, each rank gets exactly its own state
    back; with another number, the first rank gets the sums.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the states, one entry for each rank; none at the end of an epoch, when they are logged."""
        if trainer.is_last_batch or trainer.should_stop:
            return
        own = {
            name: {key: torch.as_tensor(value).cpu() for key, value in metric.metric_state.items()}
            for name, metric in _metrics(pl_module).items()
        }
        states = [own]
        if trainer.world_size > 1:
            states = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(states, own)
        checkpoint.setdefault("robustsmooth", {})["metric_states"] = states

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the states until the training starts."""
        self._states = checkpoint.get("robustsmooth", {}).get("metric_states", [])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the metrics their states back."""
        assert isinstance(pl_module, ClassificationModule)
        for name in {name for states in self._states for name in states if name.startswith("train_others.")}:
            pl_module.mean_metric(name.removeprefix("train_others."))
        if len(self._states) != trainer.world_size:
            self._states = [_merged(self._states, _metrics(pl_module))] if trainer.is_global_zero else []
        states = self._states[trainer.global_rank] if trainer.global_rank < len(self._states) else {}
        metrics = _metrics(pl_module)
        for name in states.keys() & metrics.keys():
            for key, value in states[name].items():
                setattr(metrics[name], key, value.to(metrics[name].device))
        self._states = []


def _metrics(module: torch.nn.Module) -> dict[str, Metric]:
    """The metrics of a module whose state is made of tensors."""
    found = {name: part for name, part in module.named_modules() if isinstance(part, Metric)}
    return {
        name: metric
        for name, metric in found.items()
        if all(torch.is_tensor(value) for value in metric.metric_state.values())
    }


def _merged(states: list[dict[str, Any]], metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """The states of all ranks merged, reduced as each metric defines it."""
    merged: dict[str, Any] = {}
    for name, metric in metrics.items():
        parts = [state[name] for state in states if name in state]
        if parts:
            reduce: dict[str, Any] = metric._reductions
            merged[name] = {key: reduce[key](torch.stack([part[key] for part in parts])) for key in parts[0]}
    return merged


class StopAtDivergence(Callback):
    """Stop a run whose weights are NaN or infinite, before its checkpoint replaces a good one.

    Tensors that contain infinities from the start, such as the mask of an attention layer, are ignored.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find such tensors, before a checkpoint is restored."""
        self._constant = set(_not_finite(pl_module.state_dict()))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check the weights and the statistics of the layers.

        Raises:
            ValueError: If one is NaN or infinite.
        """
        weights = checkpoint["state_dict"]
        broken = [name for name in _not_finite(weights) if name not in self._constant]
        if broken:
            raise ValueError(
                f"training diverged in epoch {trainer.current_epoch + 1}: {len(broken)} of {len(weights)} "
                f"tensors hold NaN or infinite values, {broken[0]} first; train in a new run folder with a "
                "smaller method.optimizer.lr, trainer.gradient_clip_val or trainer.precision=32-true"
            )


def _not_finite(state: Mapping[str, Any]) -> list[str]:
    """Names of the floating-point tensors that hold NaN or infinite values."""
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    plain = {
        name: value
        for name, value in state.items()
        if torch.is_tensor(value) and value.layout == torch.strided and value.dtype in kinds
    }
    return [name for name, value in plain.items() if not value.isfinite().all()]


class EpochTimer(Callback):
    """Measure the seconds of each training epoch, validation left out; survives a resume.

    Attributes:
        seconds: One entry per finished epoch.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0
        self._before = 0.0  # what the epoch had taken when it was interrupted

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, forgetting epochs that were trained after the resumed checkpoint."""
        del self.seconds[trainer.current_epoch :]
        self._start, self._before = time.perf_counter() - self._before, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Read the clock after the last batch, before validation starts."""
        if trainer.is_last_batch:
            self.seconds.append(time.perf_counter() - self._start)
            self._start = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far, including the unfinished epoch."""
        return {"seconds": self.seconds, "begun": time.perf_counter() - self._start if self._start else 0.0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the seconds so far."""
        self.seconds = list(state_dict["seconds"])
        self._before = float(state_dict.get("begun", 0.0))


class NamedCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the epoch with the best or worst value of a validation metric.

    Lightning distinguishes checkpoint callbacks by metric and mode only, and refuses two with the same.

    Args:
        dirpath: The folder of the checkpoints.
        filename: The file's name, without ``.ckpt``.
        monitor: The metric.
        mode: ``max`` or ``min``.
    """

    def __init__(self, dirpath: str, filename: str, monitor: str, mode: Literal["max", "min"]) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

    @property
    def state_key(self) -> str:
        """The key of this callback's state in checkpoints."""
        return self._generate_state_key(filename=self.filename, monitor=self.monitor, mode=self.mode)


class WithinEpochs(ModelCheckpoint):
    """Writes ``last.ckpt`` at regular steps, but not after the last step of an epoch.

    The checkpoint of the finished epoch follows there. When Lightning resumes from a checkpoint of a last
    step, it skips the end of the epoch, such as the schedule's step.
    """

    _steps_before = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Remember the steps so far."""
        self._steps_before = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Save after a batch that ends a step, but not the epoch: checkpoints have no unfinished steps."""
        if trainer.global_step != self._steps_before and not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args, **kwargs)


def checkpoints(folder: Path, monitor: str, every_steps: int | None = None) -> list[ModelCheckpoint]:
    """``checkpoints/best.ckpt`` by a validation metric and ``checkpoints/last.ckpt`` of every epoch.

    ``last.ckpt`` is written last, so that it contains the state of the callback for ``best.ckpt``.

    Args:
        folder: The run folder.
        monitor: The metric to maximise, such as ``val/noisy_top1`` or ``val/acr``.
        every_steps: Write ``last.ckpt`` also every this many steps, for epochs that take hours.
    """
    common: dict[str, Any] = {
        "dirpath": folder / "checkpoints",
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
    }
    at_epochs = {"save_on_train_epoch_end": True, **common}
    within_epochs = [WithinEpochs(filename="last", every_n_train_steps=every_steps, **common)]
    return [
        *(within_epochs if every_steps else []),
        ModelCheckpoint(filename="best", monitor=monitor, mode="max", **at_epochs),
        ModelCheckpoint(filename="last", **at_epochs),
    ]

"""The progress display of a training."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robustsmooth.terminal import Terminal, Turn, duration, say


class TrainingProgress(Callback):
    """One bar for the whole training with the time left, and one line per finished epoch.

    If the output is not a terminal, a line after some seconds and then every minute replaces the bar.

    Args:
        metrics: Logged keys to show on a line, if they exist.
        every: Print a line every this many epochs, and for the last epoch.
    """

    def __init__(self, metrics: list[str], every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"`every` must be at least 1, got {every}")
        self.metrics = list(metrics)
        self.every = every
        self.console = Terminal()
        self._bar: Progress | None = None
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what is trained, and where."""
        if not trainer.is_global_zero:
            return
        name = type(pl_module).__name__
        parameters = sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad)
        again = f", continued after step {trainer.global_step}" if trainer.global_step else ""
        say(
            self.console,
            f"[bold]{name}[/]: {parameters:,} trained parameters, "
            f"{trainer.num_training_batches} steps per epoch, "
            f"{trainer.world_size} x {trainer.strategy.root_device.type}{again}",
        )
        self._started = time.perf_counter()
        self._turn = Turn()
        self._first: float | None = None  # time of the first step, which includes the set-up
        self._steps = 0  # since then
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("steps,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._bar.add_task("train", total=_total(trainer), completed=_done(trainer))
        self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Move the bar, or print the progress."""
        if self._bar is None:
            return
        self._bar.advance(self._bar.task_ids[0])
        now = time.perf_counter()
        if self._first is None:
            self._first = now
            return
        self._steps += 1
        if not self.console.is_terminal and self._turn.is_due(now):
            done, total = _done(trainer, within=True), _total(trainer)
            speed = self._steps / (now - self._first)
            say(
                self.console,
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, step {done}/{total}, "
                f"{speed:.3g} steps/s, {duration((total - done) / speed)} left",
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch's line."""
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs
        if self._bar is None or (epoch % self.every and epoch != last):
            return
        values = trainer.callback_metrics
        shown = "  ".join(f"{key} {float(values[key]):.4g}" for key in self.metrics if key in values)
        seconds = time.perf_counter() - self._started
        say(self._bar.console, f"epoch {epoch:>3}/{last}  {shown}  {seconds:.0f} s")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the bar, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _total(trainer: pl.Trainer) -> int:
    """Steps of the whole training."""
    return (trainer.max_epochs or 0) * int(trainer.num_training_batches)


def _done(trainer: pl.Trainer, within: bool = False) -> int:
    """Steps of the finished epochs and, if `within`, of the current one."""
    steps = trainer.fit_loop.epoch_loop.batch_progress.current.ready if within else 0
    return trainer.current_epoch * int(trainer.num_training_batches) + steps

"""A vote count inside ``trainer.test``: rows as images finish, resumable, on any number of ranks."""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.table import Table
from torch import nn

from robustsmooth.data import Batch
from robustsmooth.evaluation.context import fingerprint, gather, image_shape, images_here, network_of
from robustsmooth.evaluation.progress import VotingProgress, duration
from robustsmooth.evaluation.records import RecordLog
from robustsmooth.models import is_random
from robustsmooth.smoothing import Finished, Noise, Numerics, Procedure, Tuning, VoteEngine, tune

__all__ = ["VotingCallback", "counts_as_text"]


class VotingCallback(Callback):
    """Runs a procedure for every test image and writes one row per image.

    Works with any module whose ``network`` (or itself) maps images in [0, 1] to logits and any test
    loader that yields `Batch`. Started again in the same folder it goes on where it stopped.

    Args:
        procedure: What is asked of each image.
        smoothing: The noise.
        folder: Where the rows and the summary are written.
        numerics: Precision, memory format, compilation.
        seed: Addresses all noise.
        settings: What else the rows depend on, as plain values (the data set, say).
        progress: Show a bar, a sentence before and a table after.
    """

    name: ClassVar[str]
    columns: ClassVar[list[str]]
    verb: ClassVar[str]

    def __init__(
        self,
        procedure: Procedure,
        smoothing: Noise,
        folder: Path | str,
        *,
        numerics: Numerics | None = None,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        self.procedure, self.noise, self.folder = procedure, smoothing, Path(folder)
        self.numerics, self.seed, self.settings = numerics or Numerics(), seed, dict(settings or {})
        self.progress = progress
        self.console = Console(stderr=True)
        self.summary: dict[str, Any] = {}
        """What ``summary.json`` holds, once the test is over."""
        self.num_classes = 10
        """Of the tested network, once the test has begun."""
        self._bar: VotingProgress | None = None

    # ------------------------------------------------------------------ what a subclass says

    @abstractmethod
    def row(self, finished: Finished) -> dict[str, Any]:
        """The row of one image, a value for each of `columns`."""

    @abstractmethod
    def weakness(self) -> str | None:
        """Why this setting cannot conclude anything, whatever the classifier; None if it can."""

    @abstractmethod
    def summarize(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float], dict[str, Any]]:
        """Metrics to log, by key, and further facts for ``summary.json``, from the rows of all ranks."""

    @abstractmethod
    def report(self, summary: Mapping[str, Any]) -> tuple[Table, list[str]]:
        """What is printed at the end: a table and lines below it."""

    # ------------------------------------------------------------------ the test

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fix the numerics, open the log, and say what to expect."""
        network = network_of(pl_module)
        self.num_classes = int(getattr(network, "num_classes", self.num_classes))
        found = self._tune(network, trainer, pl_module.device) if trainer.is_global_zero else None
        tuning: Tuning = trainer.strategy.broadcast(found)  # type: ignore[assignment]
        settings = self._settings(network, tuning, pl_module.device)
        self._log = RecordLog(
            self.folder, self.name, self.columns, ["idx"], settings, rank=trainer.global_rank
        )
        self._engine = VoteEngine(
            network,
            self.noise,
            self.procedure,
            seed=self.seed,
            numerics=self.numerics,
            random_inside=True if is_random(network) else None,
            tuning=tuning,
        )
        self._seen: list[int] = []
        self._speak(trainer, tuning)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *args: Any
    ) -> None:
        """Hand the batch's unfinished images to the engine and write what comes out."""
        indices = batch.indices.tolist()
        self._seen += indices
        finished = {index for index in indices if index in self._log}
        self._engine.submit(batch.images, batch.indices, batch.labels, finished)
        self._write(flush=False)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish all images; merge the ranks' rows; log the metrics."""
        self._write(flush=True)
        self._close()
        expected = gather(self._seen)
        if trainer.is_global_zero:
            self._log.merge(expected)
        trainer.strategy.barrier()
        rows = self._log.rows()
        metrics, facts = self.summarize(rows)
        cost = {
            "votes_per_image": sum(int(row["votes"]) for row in rows) / len(rows),
            "seconds_per_image": sum(float(row["time"]) for row in rows) / len(rows),
        }
        self._metrics = metrics | {f"test/{name}": value for name, value in cost.items()}
        self.summary = {"images": len(rows), **cost, **facts, "settings": self._log.settings}
        pl_module.log_dict(self._metrics, sync_dist=trainer.world_size > 1)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``summary.json`` and print the table."""
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        metrics = dict(sorted({**logged, **self._metrics}.items()))  # ours in full precision
        self.summary = {"metrics": metrics, **self.summary}
        if not trainer.is_global_zero:
            return
        draft = self.folder / "summary.json.tmp"
        draft.write_text(json.dumps(self.summary, indent=2) + "\n", encoding="utf-8")
        draft.replace(self.folder / "summary.json")
        if self.progress:
            table, lines = self.report(self.summary)
            self.console.print(table)
            for line in lines:
                self.console.print(line, highlight=False, soft_wrap=True)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave file and terminal in order; finished rows stay."""
        self._close()

    # ------------------------------------------------------------------ parts of it

    def _tune(self, network: nn.Module, trainer: pl.Trainer, device: torch.device) -> Tuning:
        """Batch size and memory format: those of the rows that are there, given ones, or quick ones."""
        then = RecordLog.written_settings(self.folder, self.name).get("numerics", {})
        numerics, batch_size = self.numerics, self.procedure.batch_size
        if batch_size == "auto":
            batch_size = then.get("batch_size", batch_size)
        if numerics.channels_last == "auto" and "channels_last" in then:
            numerics = Numerics(numerics.precision, then["channels_last"], numerics.compile)
        return tune(
            network,
            image_shape(trainer),
            device,
            batch_size,
            numerics,
            random_inside=is_random(network),
        )

    def _settings(self, network: nn.Module, tuning: Tuning, device: torch.device) -> dict[str, Any]:
        procedure = {key: value for key, value in asdict(self.procedure).items() if key != "batch_size"}
        return {
            "procedure": {"name": type(self.procedure).__name__, **procedure},
            "noise": {"name": type(self.noise).__name__, **asdict(self.noise)},
            "network": fingerprint(network),
            "numerics": {
                **tuning.numerics.described(device),
                "batch_size": tuning.batch_size,
                "torch": torch.__version__,
            },
            "seed": self.seed,
            **self.settings,
        }

    def _speak(self, trainer: pl.Trainer, tuning: Tuning) -> None:
        """One sentence when nothing can come of it, one on how long it will take."""
        images = images_here(trainer)
        left = max(0, images - len(self._log.finished) // trainer.world_size)
        shown = self.progress and trainer.is_global_zero
        if shown:
            problem = self.weakness()
            if problem:
                self.console.print(f"[yellow]Warning:[/] {problem}", highlight=False, soft_wrap=True)
            seconds = left * self.procedure.max_votes / tuning.votes_per_second
            already = f" ({len(self._log.finished)} are done already)" if self._log.finished else ""
            self.console.print(
                f"{self.verb} {images * trainer.world_size} images{already} with at most "
                f"{self.procedure.max_votes:,} votes each, {tuning.batch_size} at a time: "
                f"at most about {duration(seconds)}",
                highlight=False,
                soft_wrap=True,
            )
        self._bar = VotingProgress(self.verb, left, self.procedure.max_votes, self.console, disable=not shown)
        bar = self._bar

        def after_pass(votes: int) -> None:
            bar.update(votes)
            if trainer.received_sigterm:  # Lightning looks between batches only, and not after the last
                raise SIGTERMException

        self._engine.watch = after_pass

    def _write(self, flush: bool) -> None:
        for finished in self._engine.run(flush=flush):
            self._log.append(self.row(finished))
            if self._bar is not None:
                self._bar.advance(finished.record.votes)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if hasattr(self, "_log"):
            self._log.close()


def counts_as_text(counts: Sequence[tuple[int, int]]) -> str:
    """Votes per class in one cell: ``3:98,5:2``."""
    return ",".join(f"{label}:{votes}" for label, votes in counts)

"""The life of an evaluation inside ``trainer.test``: resumable, on any number of ranks, one row per image.

Every evaluation is an `Evaluation`. It says what its rows depend on, computes the rows of a batch, and says
what all rows together mean. The base does the rest: it opens the log, refuses rows of other settings or of
other images, leaves finished images out, merges the ranks' rows, writes ``summary.json`` and prints it.
"""

import json
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import RenderableType
from torch import nn

from robustsmooth.data import Batch, ImageDataModule
from robustsmooth.evaluation.context import (
    answers_of,
    fingerprint,
    gather,
    image_names,
    image_shape,
    images_here,
    network_of,
)
from robustsmooth.evaluation.progress import EvaluationProgress
from robustsmooth.evaluation.records import Extension, RecordLog
from robustsmooth.files import write_whole
from robustsmooth.terminal import Terminal, say

__all__ = ["Evaluation"]

_LOOKS = 64
"""Rows whose images are compared before anything is computed; the others when their batch comes."""


class Evaluation(Callback):
    """What certifies, attacks and measures during a test; writes ``<name>.tsv`` and ``summary.json``.

    Works with any module whose ``network`` (or itself) maps images in [0, 1] to logits and any test
    loader that yields `Batch`. Started again in the same folder it goes on where it stopped.

    Args:
        folder: Where the rows and the summary are written.
        seed: Addresses all randomness.
        settings: What else the rows depend on, as plain values (the data set, say).
        progress: Show a bar and a table after.

    Attributes:
        summary: What ``summary.json`` holds, once the test is over.
    """

    name: ClassVar[str]
    """Of the log."""
    verb: ClassVar[str]
    """What is being done, for the progress bar."""
    columns: ClassVar[list[str]]
    """Of the log; the last one, ``image``, is the base's."""
    key: ClassVar[list[str]] = ["idx"]
    """The columns that identify a row; the first is ``idx``."""
    unit: ClassVar[str] = "passes"
    """What `heed` counts."""

    def __init__(
        self,
        folder: Path | str,
        *,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        self.folder, self.seed, self.settings = Path(folder), seed, dict(settings or {})
        self.progress = progress
        self.console = Terminal()
        self.summary: dict[str, Any] = {}
        self._log: RecordLog | None = None
        self._bar: EvaluationProgress | None = None

    # ------------------------------------------------------------------ what a subclass says

    @abstractmethod
    def begin(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Any]:
        """Get ready. All checks belong here: nothing has been written.

        Args:
            trainer: The trainer, about to test.
            network: Maps images in [0, 1] to logits.

        Returns:
            What the rows depend on, as plain values; the base adds the network and `settings`.
        """

    @abstractmethod
    def evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch) -> None:
        """Compute the rows of a batch, or keep it for later; leave out what `is_finished`. See `write`."""

    @abstractmethod
    def summarize(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """Metrics to log, by key, and further facts for ``summary.json``, from the rows of all ranks."""

    @abstractmethod
    def report(self, summary: Mapping[str, Any]) -> Iterable[RenderableType]:
        """What is printed at the end: tables and lines."""

    def variants(self) -> list[tuple[Any, ...]]:
        """The rows of one image: values of the key's columns after ``idx``. One row by default."""
        return [()]

    def may_change(self) -> Collection[str]:
        """Settings, with dotted names, that may be others when rows are continued."""
        return ()

    def extension(self) -> Extension | None:
        """Which finished rows are continued; none by default."""
        return None

    def wants(self, place: int) -> bool:
        """Whether this rank's image at `place` (0, 1, ...) is evaluated; all are by default."""
        return True

    def finish(self, trainer: pl.Trainer) -> None:
        """Compute the rows that were kept for later."""

    def after_merge(self, trainer: pl.Trainer) -> None:
        """On rank 0, once all rows are there."""

    def most_passes(self) -> int | None:
        """Passes (see `unit`) that an image takes at most; None if nobody knows."""
        return None

    def opening(self, images: int, finished: int) -> Iterable[str]:
        """Lines to print before the first image.

        Args:
            images: How many there are.
            finished: How many rows are there already.
        """
        return ()

    # ------------------------------------------------------------------ what a subclass uses

    def is_finished(self, index: int) -> bool:
        """Whether all rows of an image are there."""
        assert self._log is not None
        return all((index, *variant) in self._log for variant in self.variants())

    def begun_row(self, index: int) -> dict[str, str] | None:
        """The row of an image that is to be continued (see `extension`); None if there is none."""
        assert self._log is not None
        return self._log.begun.get((str(index),))

    def has(self, index: int, *variant: Any) -> bool:
        """Whether a row is there."""
        assert self._log is not None
        return (index, *variant) in self._log

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row to the log, unless it is there."""
        assert self._log is not None
        if tuple(row[name] for name in self.key) not in self._log:
            self._log.append({**row, "image": self._names[row["idx"]]})

    def heed(self, passes: int = 0, images: int = 0, of_images: int | None = None) -> None:
        """Between two passes: move the bar.

        Args:
            passes: How many there were since the last call.
            images: How many images were finished since then.
            of_images: The passes of these; all passes so far belong to finished images if None.
        """
        if self._bar is not None:
            self._bar.advance(passes, images, of_images)

    @staticmethod
    def written_settings(folder: Path | str, name: str) -> dict[str, Any]:
        """The settings of rows that are there already, to go on alike; empty if there are none."""
        return RecordLog.written_settings(folder, name)

    # ------------------------------------------------------------------ the test

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check everything, open the log, and say what to expect."""
        self._names: dict[int, str] = {}
        self._places = 0
        self._seen: list[int] = []
        network = network_of(pl_module)
        settings = {
            "network": fingerprint(network),
            "answers": answers_of(network, image_shape(trainer), pl_module.device),
            **self.begin(trainer, network),
            **self.settings,
        }
        columns = [*self.columns, "image"]
        self._log = RecordLog(
            self.folder,
            self.name,
            columns,
            self.key,
            settings,
            trainer.global_rank,
            self.may_change(),
            self.extension(),
        )
        self._check_images(trainer)
        self._speak(trainer)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *args: Any
    ) -> None:
        """Evaluate a batch."""
        names = image_names(batch.images)
        self._compare(batch.indices.tolist(), batch.labels.tolist(), names)
        self._names |= zip(batch.indices.tolist(), names, strict=True)
        chosen = [place for place in range(len(names)) if self.wants(self._places + place)]
        self._places += len(names)
        if len(chosen) < len(names):
            batch = Batch(*(part[chosen] for part in batch))
        self._seen += batch.indices.tolist()
        if chosen:
            self.evaluate(trainer, pl_module, batch)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish all images; merge the ranks' rows; log the metrics."""
        assert self._log is not None
        self.finish(trainer)
        self._close()
        images = gather(self._seen)
        keys = [(str(index), *map(str, variant)) for index in images for variant in self.variants()]
        if trainer.is_global_zero:
            self._log.merge(keys)
            self.after_merge(trainer)
        trainer.strategy.barrier()
        wanted = set(keys)
        rows = [row for row in self._log.rows() if tuple(row[name] for name in self.key) in wanted]
        self._metrics, facts = self._summarize(rows)
        self.summary = {"images": len(images), **facts, "settings": self._log.settings}
        finite = {key: value for key, value in self._metrics.items() if value is not None}
        pl_module.log_dict(finite, sync_dist=trainer.world_size > 1)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``summary.json`` and print what was found."""
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        metrics = dict(sorted({**logged, **self._metrics}.items()))  # ours in full precision
        self.summary = {"metrics": metrics, **self.summary}
        if not trainer.is_global_zero:
            return
        write_whole(self.folder / "summary.json", json.dumps(self.summary, indent=2) + "\n")
        if self.progress:
            for each in self.report(self.summary):
                self._print(each)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave file and terminal in order; finished rows stay."""
        self._close()

    # ------------------------------------------------------------------ parts of it

    def _check_images(self, trainer: pl.Trainer) -> None:
        """Refuse rows of images that are not those of now, before anything is computed."""
        assert self._log is not None
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule) or not self._log.known:
            return
        now = data.test_indices
        stray = sorted(self._log.known.keys() - {str(index) for index in now})
        if stray and trainer.limit_test_batches == 1.0:
            raise ValueError(
                f"`{self.folder}` holds {self.name} rows of images that are not evaluated now, the first is "
                f"{stray[0]}: the data set has changed; {_WAY_OUT}"
            )
        done = [index for index in now if str(index) in self._log.known]
        chosen = (
            sorted({done[place * (len(done) - 1) // _LOOKS] for place in range(_LOOKS + 1)}) if done else []
        )
        if chosen:
            batch = data.convert(data.part(data.evaluated).__getitems__(chosen))
            self._compare(chosen, batch.labels.tolist(), image_names(batch.images))

    def _compare(self, indices: Sequence[int], labels: Sequence[int], names: Sequence[str]) -> None:
        """Refuse an image that is not the one its row is of."""
        assert self._log is not None
        for index, label, name in zip(indices, labels, names, strict=True):
            then = self._log.known.get(str(index), {})
            if then.get("label", str(label)) != str(label) or then.get("image", name) not in (name, "-"):
                raise ValueError(
                    f"`{self.folder}` holds a {self.name} row of another image {index}: the data set has "
                    f"changed since; {_WAY_OUT}"
                )

    def _speak(self, trainer: pl.Trainer) -> None:
        """Say what is going to happen, and show a bar."""
        assert self._log is not None
        here, shown = images_here(trainer), self.progress and trainer.is_global_zero
        here = sum(self.wants(place) for place in range(here))
        done = len(self._log.finished) // len(self.variants())
        if shown:
            for line in self.opening(here * trainer.world_size, done):
                self._print(line)
        left = max(0, here - done // trainer.world_size)
        self._bar = EvaluationProgress(
            self.verb, left, self.most_passes(), self.unit, self.console, disable=not shown
        )

    def _summarize(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        assert self._log is not None
        try:
            return self.summarize(rows)
        except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
            if not rows:
                raise ValueError("there is no image to evaluate; see data.subset") from error
            raise ValueError(
                f"`{self._log.path}` holds a damaged row ({error}); delete its line, and the same command "
                "computes it again"
            ) from error

    def _print(self, what: RenderableType) -> None:
        if isinstance(what, str):
            say(self.console, what)
        else:
            self.console.print(what)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._log is not None:
            self._log.close()


_WAY_OUT = "put the images back as they were, or choose another folder with hydra.run.dir=..."

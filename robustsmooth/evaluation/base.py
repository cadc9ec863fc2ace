"""Evaluations inside ``trainer.test``: resumable, on any number of ranks, one row per image.

A subclass of `Evaluation` says what its rows depend on, computes the rows of a batch, and summarises all
rows. The base class does the rest: it opens the log, refuses rows of other settings or of other images, skips
finished images, merges the rows of all ranks, writes ``summary.json`` and prints it.
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
    gather,
    image_shape,
    images_here,
    network_of,
)
from robustsmooth.evaluation.evaluation_progress import EvaluationProgress
from robustsmooth.evaluation.records import Extension, RecordLog
from robustsmooth.files import write_whole
from robustsmooth.kinds import LogKind
from robustsmooth.smoothing.addressing import fingerprint, image_names
from robustsmooth.terminal import Terminal, say

_COMPARED = 64
"""How many finished rows are checked against their images at the start; the others when their batch comes."""


class Evaluation(Callback):
    """Base of the callbacks that certify, attack or measure; writes ``<name>.tsv`` and ``summary.json``.

    Works with any module whose ``network`` (or itself) maps images in [0, 1] to logits and any test
    loader that yields `Batch`. Started again in the same folder, it continues where it stopped.

    Args:
        folder: Where the rows and the summary are written.
        seed: Addresses all randomness.
        settings: What else the rows depend on, as plain values, such as the data set.
        progress: Show a progress bar, and a table at the end.

    Attributes:
        summary: What ``summary.json`` holds, once the test is over.
    """

    kind: ClassVar[LogKind]
    """The log that it writes; the base adds the column ``image``."""
    verb: ClassVar[str]
    """What is being done, for the progress bar."""
    unit: ClassVar[str] = "passes"
    """What `advance` counts."""
    _log: RecordLog  # from the beginning of the test on

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
        self._bar: EvaluationProgress | None = None

    # ------------------------------------------------------------------ what a subclass defines

    @abstractmethod
    def begin(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Any]:
        """Prepare the evaluation. All checks belong here: nothing has been written yet.

        Args:
            trainer: The trainer, about to test.
            network: Maps images in [0, 1] to logits.

        Returns:
            What the rows depend on, as plain values; the base class adds the network and `settings`.
        """

    @abstractmethod
    def evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch) -> None:
        """Compute and `write` the rows of a batch, without finished images; or keep it for `finish`."""

    @abstractmethod
    def summarize(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """Metrics to log, by key, and further facts for ``summary.json``, from the rows of all ranks."""

    @abstractmethod
    def report(self, summary: Mapping[str, Any]) -> Iterable[RenderableType]:
        """What is printed at the end: tables and lines."""

    def variants(self) -> list[tuple[Any, ...]]:
        """The rows of one image, by the values of the key columns after ``idx``. One row by default."""
        return [()]

    def may_change(self) -> Collection[str]:
        """Settings (dotted names) that may differ when a log is continued."""
        return ()

    def extension(self) -> Extension | None:
        """Which finished rows are extended; none by default."""
        return None

    def wants(self, place: int) -> bool:
        """Whether this rank's image at `place` (0, 1, ...) is evaluated; all are by default."""
        return True

    def finish(self, trainer: pl.Trainer) -> None:
        """Compute the rows that were kept for later."""

    def after_merge(self, trainer: pl.Trainer) -> None:
        """Called on rank 0 when all rows are written."""

    def most_passes(self) -> int | None:
        """The most passes (see `unit`) that an image can take; None if unknown."""
        return None

    def opening(self, images: int, finished: int) -> Iterable[str]:
        """Lines to print before the first image.

        Args:
            images: How many there are.
            finished: How many images are finished already.
        """
        return ()

    # ------------------------------------------------------------------ what a subclass uses

    def is_finished(self, index: int) -> bool:
        """Whether all rows of an image have been written."""
        return all((index, *variant) in self._log for variant in self.variants())

    def begun_row(self, index: int) -> dict[str, str] | None:
        """The row of an image that is to be extended (see `extension`); None if there is none."""
        return self._log.begun.get((str(index),))

    def has(self, index: int, *variant: Any) -> bool:
        """Whether a row has been written."""
        return (index, *variant) in self._log

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row to the log, unless it is there already."""
        if tuple(row[name] for name in self.kind.key) not in self._log:
            self._log.append({**row, "image": self._names[row["idx"]]})

    def advance(self, passes: int = 0, images: int = 0, of_images: int | None = None) -> None:
        """Called between two passes: move the progress bar.

        Args:
            passes: How many since the last call.
            images: How many images were finished since then.
            of_images: How many passes those images took; if None, all passes so far belong to finished
                images.
        """
        if self._bar is not None:
            self._bar.advance(passes, images, of_images)

    def written_settings(self) -> dict[str, Any]:
        """The settings of the rows that are there already, to continue with them; empty if there are none."""
        return RecordLog.written_settings(self.folder, self.kind.name)

    # ------------------------------------------------------------------ the test

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check everything, open the log, and print what to expect."""
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
        self._log = RecordLog(
            self.folder,
            self.kind.name,
            [*self.kind.columns, "image"],
            self.kind.key,
            settings,
            trainer.global_rank,
            self.may_change(),
            self.extension(),
            self._asked(trainer),
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
        """Finish all images, merge the rows of all ranks, log the metrics."""
        self.finish(trainer)
        self._close()
        images = gather(self._seen)
        keys = [(str(index), *map(str, variant)) for index in images for variant in self.variants()]
        if trainer.is_global_zero:
            self._log.merge(keys)
            self.after_merge(trainer)
        trainer.strategy.barrier()
        wanted = set(keys)
        rows = [row for row in self._log.rows() if tuple(row[name] for name in self.kind.key) in wanted]
        self._metrics, facts = self._summarize(rows)
        self.summary = {"images": len(images), **facts, "settings": self._log.settings}
        finite = {key: value for key, value in self._metrics.items() if value is not None}
        pl_module.log_dict(finite, sync_dist=trainer.world_size > 1)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``summary.json`` and print the results."""
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        metrics = dict(sorted({**logged, **self._metrics}.items()))  # those of the summary in full precision
        self.summary = {"metrics": metrics, **self.summary}
        if not trainer.is_global_zero:
            return
        write_whole(self.folder / "summary.json", json.dumps(self.summary, indent=2) + "\n")
        if self.progress:
            for item in self.report(self.summary):
                self._print(item)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the file and the progress bar; finished rows stay."""
        self._close()

    # ------------------------------------------------------------------ helpers

    def _asked(self, trainer: pl.Trainer) -> list[tuple[str, ...]] | None:
        """The keys of the rows of all images; None if the data or the trainer do not say which ones."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule) or trainer.limit_test_batches != 1.0:
            return None
        alone = trainer.world_size == 1  # else `wants` counts the images of each rank
        images = [at for place, at in enumerate(data.test_indices) if not alone or self.wants(place)]
        return [(str(index), *map(str, variant)) for index in images for variant in self.variants()]

    def _check_images(self, trainer: pl.Trainer) -> None:
        """Refuse rows of images that are not part of the data now, before anything is computed."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule) or not self._log.known:
            return
        now = data.test_indices
        stray = sorted(self._log.known.keys() - {str(index) for index in now})
        if stray and trainer.limit_test_batches == 1.0:
            raise ValueError(
                f"`{self.folder}` holds {self.kind.name} rows of images that are not evaluated now, the "
                f"first is {stray[0]}: the data set has changed; {_WAY_OUT}"
            )
        done = [index for index in now if str(index) in self._log.known]
        if done:
            chosen = sorted({done[place * (len(done) - 1) // _COMPARED] for place in range(_COMPARED + 1)})
            batch = data.convert(data.part(data.evaluated).__getitems__(chosen))
            self._compare(chosen, batch.labels.tolist(), image_names(batch.images))

    def _compare(self, indices: Sequence[int], labels: Sequence[int], names: Sequence[str]) -> None:
        """Refuse an image that differs from the one in its row."""
        for index, label, name in zip(indices, labels, names, strict=True):
            then = self._log.known.get(str(index), {})
            if then.get("label", str(label)) != str(label) or then.get("image", name) not in (name, "-"):
                raise ValueError(
                    f"`{self.folder}` holds a {self.kind.name} row of another image {index}: the data set "
                    f"has changed since; {_WAY_OUT}"
                )

    def _speak(self, trainer: pl.Trainer) -> None:
        """Print what is about to happen, and show a progress bar."""
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
        if hasattr(self, "_log"):
            self._log.close()


_WAY_OUT = "put the images back as they were, or choose another folder with hydra.run.dir=..."

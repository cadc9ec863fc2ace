"""Base of the evaluations that count votes: one row as each image finishes."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
from torch import nn

from robustsmooth.data import Batch
from robustsmooth.evaluation.base import Evaluation
from robustsmooth.evaluation.context import images_here, named, numerics_settings, vote_engine
from robustsmooth.smoothing import Begun, Finished, Noise, Numerics, Procedure


class VotingCallback(Evaluation):
    """Runs a procedure for every test image and writes one row per image; see `Evaluation`.

    Args:
        procedure: What is asked of each image.
        smoothing: The noise.
        folder: Where the rows and the summary are written.
        numerics: Precision, memory format, compilation.
        seed: Addresses all noise.
        settings: What else the rows depend on, as plain values, such as the data set.
        progress: Show what to expect, a progress bar, and a table at the end.
    """

    unit: ClassVar[str] = "votes"

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
        super().__init__(folder, seed=seed, settings=settings, progress=progress)
        self.procedure, self.noise, self.numerics = procedure, smoothing, numerics or Numerics()
        self.num_classes = 10
        """Number of classes of the tested network, once the test has begun."""

    # ------------------------------------------------------------------ what a subclass defines

    @abstractmethod
    def row(self, finished: Finished) -> dict[str, Any]:
        """The row of one image, a value for each of `columns`."""

    @abstractmethod
    def weakness(self) -> str | None:
        """Why this setting can never certify or predict anything, whatever the classifier; None if it can."""

    @abstractmethod
    def outcome(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """As `summarize`, without the cost of the votes."""

    def begun(self, index: int) -> Begun | None:
        """Votes of an earlier run from which the image's procedure continues; none by default."""
        return None

    def may_change(self) -> list[str]:
        """See `Evaluation.may_change`."""
        return [f"procedure.{name}" for name in self.procedure.may_change]

    # ------------------------------------------------------------------ the evaluation

    def begin(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Any]:
        """See `Evaluation.begin`."""
        self.num_classes = int(getattr(network, "num_classes", self.num_classes))
        self._engine = vote_engine(
            trainer,
            network,
            self.noise,
            self.procedure,
            numerics=self.numerics,
            seed=self.seed,
            then=self.written_settings().get("numerics", {}),
            images=images_here(trainer),
        )
        self._engine.watch = self.advance
        assert self._engine.tuning is not None
        self._tuning = self._engine.tuning
        procedure = named(self.procedure)
        del procedure["batch_size"]
        return {
            "procedure": procedure,
            "noise": named(self.noise),
            "numerics": numerics_settings(self._tuning, trainer.strategy.root_device),
            "seed": self.seed,
        }

    def opening(self, images: int, finished: int) -> Iterable[str]:
        """See `Evaluation.opening`; warns if this setting can certify or predict nothing."""
        problem = self.weakness()
        if problem:
            yield f"[yellow]Warning:[/] {problem}"
        already = f" ({finished} are done already)" if finished else ""
        yield (
            f"{self.verb} {images} images{already} with at most {self.procedure.max_votes:,} votes each, "
            f"{self._tuning.batch_size} at a time"
        )

    def most_passes(self) -> int:
        """See `Evaluation.most_passes`."""
        return self.procedure.max_votes

    def evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch) -> None:
        """See `Evaluation.evaluate`: submit unfinished images and write the rows of those that finish."""
        finished = {index for index in batch.indices.tolist() if self.is_finished(index)}
        begun = {index: votes for index in batch.indices.tolist() if (votes := self.begun(index))}
        self._engine.submit(batch.images, batch.indices, batch.labels, finished, begun)
        self._collect(flush=False)

    def finish(self, trainer: pl.Trainer) -> None:
        """See `Evaluation.finish`."""
        self._collect(flush=True)

    def summarize(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """See `Evaluation.summarize`."""
        metrics, facts = self.outcome(rows)
        cost = {
            "votes_per_image": sum(int(row["votes"]) for row in rows) / len(rows),
            "seconds_per_image": sum(float(row["time"]) for row in rows) / len(rows),
        }
        return metrics | {f"test/{name}": value for name, value in cost.items()}, {**cost, **facts}

    # ------------------------------------------------------------------ helpers

    def _collect(self, flush: bool) -> None:
        for finished in self._engine.run(flush=flush):
            self.write(self.row(finished))
            self.advance(0, 1, finished.record.votes)


def counts_as_text(counts: Sequence[tuple[int, int]]) -> str:
    """Votes per class as text, such as ``3:98,5:2``."""
    return ",".join(f"{label}:{votes}" for label, votes in counts)


def counts_from_text(text: str) -> tuple[tuple[int, int], ...]:
    """The inverse of `counts_as_text`; ``-`` or nothing for no votes."""
    pairs = (pair.split(":") for pair in text.split(",") if pair not in ("", "-"))
    return tuple((int(label), int(votes)) for label, votes in pairs)

"""A vote count inside ``trainer.test``: rows as images finish, resumable, on any number of ranks."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import nn

from robustsmooth.data import Batch
from robustsmooth.evaluation.base import Evaluation
from robustsmooth.evaluation.context import image_shape
from robustsmooth.models import is_random
from robustsmooth.smoothing import Begun, Finished, Noise, Numerics, Procedure, Tuning, VoteEngine, tune

__all__ = ["VotingCallback", "counts_as_text", "counts_from_text"]


class VotingCallback(Evaluation):
    """Runs a procedure for every test image and writes one row per image; see `Evaluation`.

    Args:
        procedure: What is asked of each image.
        smoothing: The noise.
        folder: Where the rows and the summary are written.
        numerics: Precision, memory format, compilation.
        seed: Addresses all noise.
        settings: What else the rows depend on, as plain values (the data set, say).
        progress: Show a bar, a sentence before and a table after.
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
        """Of the tested network, once the test has begun."""

    # ------------------------------------------------------------------ what a subclass says

    @abstractmethod
    def row(self, finished: Finished) -> dict[str, Any]:
        """The row of one image, a value for each of `columns`."""

    @abstractmethod
    def weakness(self) -> str | None:
        """Why this setting cannot conclude anything, whatever the classifier; None if it can."""

    @abstractmethod
    def outcome(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """As `summarize`, without what the votes cost."""

    def begun(self, index: int) -> Begun | None:
        """Votes of an earlier run that the image's procedure goes on from; none by default."""
        return None

    def may_change(self) -> list[str]:
        """See `Evaluation.may_change`."""
        return [f"procedure.{name}" for name in self.procedure.may_change]

    # ------------------------------------------------------------------ the life of an evaluation

    def begin(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Any]:
        """See `Evaluation.begin`; rank 0 chooses batch size and memory format for all."""
        device = trainer.strategy.root_device
        self.num_classes = int(getattr(network, "num_classes", self.num_classes))
        found = self._tune(network, trainer, device) if trainer.is_global_zero else None
        self._tuning: Tuning = trainer.strategy.broadcast(found)  # type: ignore[assignment]
        self._engine = VoteEngine(
            network,
            self.noise,
            self.procedure,
            seed=self.seed,
            numerics=self.numerics,
            random_inside=True if is_random(network) else None,
            tuning=self._tuning,
        )
        self._votes = 0
        self._engine.watch = self._after_pass
        procedure = {key: value for key, value in asdict(self.procedure).items() if key != "batch_size"}
        return {
            "procedure": {"name": type(self.procedure).__name__, **procedure},
            "noise": {"name": type(self.noise).__name__, **asdict(self.noise)},
            "numerics": {
                **self._tuning.numerics.described(device),
                "batch_size": self._tuning.batch_size,
                "torch": torch.__version__,
            },
            "seed": self.seed,
        }

    def opening(self, images: int, finished: int) -> Iterable[str]:
        """See `Evaluation.opening`; says it when nothing can come of this setting."""
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
        """See `Evaluation.evaluate`: hand unfinished images to the engine and write what comes out."""
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

    # ------------------------------------------------------------------ parts of it

    def _tune(self, network: nn.Module, trainer: pl.Trainer, device: torch.device) -> Tuning:
        """Batch size and memory format: those of the rows that are there, given ones, or quick ones."""
        then = self.written_settings(self.folder, self.name).get("numerics", {})
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

    def _after_pass(self, votes: int) -> None:
        self.heed(votes - self._votes)
        self._votes = votes

    def _collect(self, flush: bool) -> None:
        for finished in self._engine.run(flush=flush):
            self.write(self.row(finished))
            self.heed(0, 1, finished.record.votes)


def counts_as_text(counts: Sequence[tuple[int, int]]) -> str:
    """Votes per class in one cell: ``3:98,5:2``."""
    return ",".join(f"{label}:{votes}" for label, votes in counts)


def counts_from_text(text: str) -> tuple[tuple[int, int], ...]:
    """The inverse of `counts_as_text`; ``-`` or nothing for no votes."""
    pairs = (pair.split(":") for pair in text.split(",") if pair not in ("", "-"))
    return tuple((int(label), int(votes)) for label, votes in pairs)

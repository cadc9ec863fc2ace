"""The time of an answer: of a single pass, and of a vote over n noisy copies (HeatSmoothing, Table 2)."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from robustsmooth.data import Batch
from robustsmooth.evaluation.base import Evaluation
from robustsmooth.evaluation.context import precision_settings
from robustsmooth.kinds import TIMING, LogKind
from robustsmooth.models import is_random
from robustsmooth.smoothing import GaussianNoise, NoNoise, Numerics, Predict, Tuning, VoteEngine
from robustsmooth.smoothing.numerics import Precision, synchronize


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The shortest time of several runs of `work`; waits for the device before and after.

    Args:
        work: What to time.
        device: Where it runs.
        repeats: Number of runs, at least 1. The shortest one counts, since other processes only add time.
    """
    quickest = float("inf")
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        quickest = min(quickest, time.perf_counter() - start)
    return quickest


class InferenceTime(Evaluation):
    """Write, per image, the seconds of a single pass and of a vote to ``timing.tsv``.

    One image at a time, as in use. The vote is that of PREDICT: its n copies go through the network in
    batches of `batch_size`; drawing the noise and counting the votes are included. Logged:
    ``test/single_seconds`` and ``test/vote_seconds``, the medians over the images.

    Args:
        folder: The run folder.
        sigma: Noise level of the vote, in pixel units.
        n: Votes per answer, at least 1.
        images: How many images are timed: the first ones, over all ranks.
        repeats: Runs per image; the shortest counts.
        batch_size: Of the vote's passes.
        settings: What else the rows depend on, such as the data set.
        progress: Show a progress bar, and a table at the end.

    Raises:
        ValueError: If a count is not positive or `sigma` is negative.
    """

    kind: ClassVar[LogKind] = TIMING
    verb: ClassVar[str] = "timing"

    def __init__(
        self,
        folder: Path | str,
        sigma: float,
        n: int = 100,
        images: int = 100,
        repeats: int = 3,
        batch_size: int = 100,
        settings: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(folder, settings=settings, progress=progress)
        for name, count in (("n", n), ("images", images), ("repeats", repeats), ("batch_size", batch_size)):
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1, got {count}")
        if sigma < 0:
            raise ValueError(f"`sigma` must be at least 0, got {sigma}")
        self.sigma, self.n, self.images = sigma, n, images
        self.repeats, self.batch_size = repeats, batch_size

    def begin(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Any]:
        """See `Evaluation.begin`; the times depend on the device."""
        device = trainer.strategy.root_device
        self._here = len(range(trainer.global_rank, self.images, trainer.world_size))
        numerics = Numerics(cast(Precision, str(trainer.precision)), channels_last=False)
        self._warm = False
        self._engine = VoteEngine(
            network,
            GaussianNoise(self.sigma) if self.sigma > 0 else NoNoise(),
            Predict(n=self.n, purpose="timing"),
            numerics=numerics,
            random_inside=is_random(network),
            tuning=Tuning(self.batch_size, numerics, float("nan")),
        )
        return {
            "sigma": self.sigma,
            "n": self.n,
            "repeats": self.repeats,
            "batch_size": self.batch_size,
            "device": _name(device),
            "threads": torch.get_num_threads(),
            **precision_settings(trainer),
        }

    def wants(self, place: int) -> bool:
        """See `Evaluation.wants`: until there are enough."""
        return place < self._here

    def evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch) -> None:
        """See `Evaluation.evaluate`: time the images one by one."""
        for image, label, index in zip(
            batch.images, batch.labels.tolist(), batch.indices.tolist(), strict=True
        ):
            if self.is_finished(index):
                continue
            with trainer.precision_plugin.forward_context():
                if not self._warm:  # the first passes also choose kernels and allocate memory
                    self._vote(image, index)
                    self._warm = True
                single = seconds_of(partial(module, image[None]), image.device, self.repeats)
            vote = seconds_of(partial(self._vote, image, index), image.device, self.repeats)
            row = (index, label, single, vote, self.n, _name(image.device))
            self.write(dict(zip(self.kind.columns, row, strict=True)))
            self.advance((self.n + 1) * self.repeats, 1)

    def _vote(self, image: Tensor, index: int) -> None:
        self._engine.submit(image[None], torch.tensor([index]))
        for _ in self._engine.run(flush=True):
            pass

    def summarize(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """See `Evaluation.summarize`."""
        single, vote = (median(float(row[f"{name}_seconds"]) for row in rows) for name in ("single", "vote"))
        metrics: dict[str, float | None] = {"test/single_seconds": single, "test/vote_seconds": vote}
        return metrics, {"n": self.n, "sigma": self.sigma, "device": rows[0]["device"]}

    def report(self, summary: Mapping[str, Any]) -> list[str]:
        """See `Evaluation.report`."""
        single, vote = (summary["metrics"][f"test/{name}_seconds"] for name in ("single", "vote"))
        return [
            f"median of {summary['images']} images on {summary['device']}: one pass {1000 * single:.3g} ms, "
            f"the vote of {self.n} {1000 * vote:.3g} ms, {vote / single:.3g} times as long"
        ]


def _name(device: torch.device) -> str:
    """A name of the device, without tabs."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU"

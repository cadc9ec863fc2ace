"""What an answer costs: one pass of the network, or the vote of n noisy ones (HeatSmoothing, Table 2)."""

import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from robustsmooth.data import Batch
from robustsmooth.evaluation.context import precision_settings
from robustsmooth.evaluation.records import RecordLog
from robustsmooth.smoothing import generator

__all__ = ["InferenceTime", "seconds_of"]

COLUMNS = ["idx", "label", "single_seconds", "vote_seconds", "n", "device"]


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The quickest of several runs of `work`, waiting for the device before and after.

    Args:
        work: What to time.
        device: Where it runs.
        repeats: How often, at least 1; other work on the machine only ever adds time.
    """
    quickest = float("inf")
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        quickest = min(quickest, time.perf_counter() - start)
    return quickest


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class InferenceTime(Callback):
    """Write, per image, the seconds of a single pass and of a vote to ``timing.tsv``.

    One image at a time, as an answer is given in use. The vote's n copies go through the network in
    batches of `batch_size`; drawing the noise and counting are part of it.

    Args:
        folder: The run folder.
        sigma: Noise level of the vote, in pixel units.
        n: Votes per answer, at least 1.
        images: How many images are timed.
        repeats: Runs per image, the quickest counts.
        batch_size: Of the vote's passes.
        settings: What else the rows depend on, such as the checkpoint.

    Raises:
        ValueError: If a count is not positive or `sigma` is negative.
    """

    def __init__(
        self,
        folder: Path | str,
        sigma: float,
        n: int = 100,
        images: int = 100,
        repeats: int = 3,
        batch_size: int = 100,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        for name, count in (("n", n), ("images", images), ("repeats", repeats), ("batch_size", batch_size)):
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1, got {count}")
        if sigma < 0:
            raise ValueError(f"`sigma` must be at least 0, got {sigma}")
        self.folder, self.sigma, self.n, self.images = Path(folder), sigma, n, images
        self.repeats, self.batch_size = repeats, batch_size
        self.settings = {
            **(settings or {}),
            "sigma": sigma,
            "n": n,
            "repeats": repeats,
            "batch_size": batch_size,
        }
        self._log: RecordLog | None = None

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the log; the device belongs to what the numbers depend on."""
        machine = {"device": _name(pl_module.device), "threads": torch.get_num_threads()}
        settings = {**self.settings, **machine, **precision_settings(trainer)}
        self._log = RecordLog(self.folder, "timing", COLUMNS, ["idx"], settings, trainer.global_rank)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *args: Any
    ) -> None:
        """Time the images of the batch, one by one, until there are enough."""
        assert self._log is not None
        for image, label, index in zip(
            batch.images, batch.labels.tolist(), batch.indices.tolist(), strict=True
        ):
            if len(self._log.finished) >= self.images or index in self._log:
                continue
            with trainer.precision_plugin.forward_context():
                if not self._log.finished:  # the first passes also choose kernels and allocate
                    self._vote(pl_module, image)
                single = seconds_of(partial(pl_module, image[None]), image.device, self.repeats)
                vote = seconds_of(partial(self._vote, pl_module, image), image.device, self.repeats)
            row = (index, label, single, vote, self.n, _name(image.device))
            self._log.append(dict(zip(COLUMNS, row, strict=True)))

    def _vote(self, network: Callable[[Tensor], Tensor], image: Tensor) -> int:
        source = generator(0, "timing", device=image.device)
        counts: Tensor | None = None
        for start in range(0, self.n, self.batch_size):
            copies = min(self.batch_size, self.n - start)
            noise = torch.randn((copies, *image.shape), generator=source, device=image.device)
            noisy = image + self.sigma * noise
            logits = network(noisy)
            votes = torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1])
            counts = votes if counts is None else counts + votes
        assert counts is not None
        return int(counts.argmax())

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks' logs."""
        assert self._log is not None
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self._log.merge()
        self._log.close()


def _name(device: torch.device) -> str:
    """The device in words, without tabs."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU"

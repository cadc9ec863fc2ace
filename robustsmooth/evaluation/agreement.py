"""How often one pass of a network says what its stochastic vote says (HeatSmoothing, Figure 3)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from robustsmooth.data import Batch
from robustsmooth.evaluation.context import gather, precision_settings
from robustsmooth.evaluation.records import RecordLog
from robustsmooth.smoothing import HardVote, ImageRandomness, Predict

__all__ = ["Agreement", "tally_over_sigmas"]

COLUMNS = ["idx", "label", "sigma", "single", "vote", "top_votes", "n"]
COPIES = 8
"""Noisy copies that are drawn at a time; part of what addresses the noise."""


def tally_over_sigmas(
    network: nn.Module, images: Tensor, sigmas: Sequence[float], n: int, randomness: ImageRandomness
) -> Tensor:
    """Votes at several noise levels, with the same normal numbers at each.

    Different images share a pass, the copies of one image do not: a network that is random inside
    draws anew for every vote of an image.

    Args:
        network: Maps images to logits ``(B, K)``.
        images: ``(B, C, H, W)`` float in [0, 1].
        sigmas: Noise levels, S of them, at least 0.
        n: Votes for each.
        randomness: Where the noise comes from.

    Returns:
        ``(S, B, K)`` int64.
    """
    vote = HardVote()
    totals: list[Tensor | int] = [0] * len(sigmas)
    for noise in _normals(images, n, randomness):
        for position, sigma in enumerate(sigmas):
            totals[position] = totals[position] + vote(network(images + sigma * noise))
    return torch.stack([torch.as_tensor(total) for total in totals])


def _normals(images: Tensor, n: int, randomness: ImageRandomness) -> Iterator[Tensor]:
    for start in range(0, n, COPIES):
        # Always whole blocks: a generator's first numbers depend on how many are asked for.
        block = randomness.normal(images, COPIES, draw=start // COPIES)
        yield from block[: min(COPIES, n - start)]


class Agreement(Callback):
    """Write per image and noise level what a clean pass and what PREDICT say, to ``agreement.tsv``.

    The report takes the share of equal answers over the images that the single pass has right, as in
    the paper; from two runs on the same images it compares one network's pass with the other's vote.
    PREDICT may abstain; an abstention agrees with nothing.

    Args:
        folder: The run folder.
        sigmas: Noise levels, at least 0.
        n: Votes per image and level; the paper takes 100.
        alpha: Of PREDICT, in (0, 1).
        seed: The run's seed.
        settings: What else the rows depend on, such as the checkpoint.

    Raises:
        ValueError: If a noise level, `n` or `alpha` is not allowed.
    """

    def __init__(
        self,
        folder: Path | str,
        sigmas: Sequence[float],
        n: int = 100,
        alpha: float = 0.001,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if not sigmas or any(not 0 <= sigma < float("inf") for sigma in sigmas):
            raise ValueError(f"`sigmas` must be one or more numbers of at least 0, got {list(sigmas)}")
        self.folder, self.sigmas, self.seed = Path(folder), [float(sigma) for sigma in sigmas], seed
        self.predict = Predict(n=n, alpha=alpha)
        self.settings = {**(settings or {}), "sigmas": self.sigmas, "n": n, "alpha": alpha, "seed": seed}
        self._log: RecordLog | None = None
        self._seen: list[int] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open this rank's log."""
        key, settings = ["idx", "sigma"], {**self.settings, **precision_settings(trainer)}
        self._log = RecordLog(self.folder, "agreement", COLUMNS, key, settings, trainer.global_rank)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *args: Any
    ) -> None:
        """Vote on the images of the batch that are not in the log yet."""
        assert self._log is not None
        everyone = batch.indices.tolist()
        self._seen += everyone
        missing = [
            position
            for position, index in enumerate(everyone)
            if any((index, sigma) not in self._log for sigma in self.sigmas)
        ]
        if not missing:
            return
        chosen = torch.tensor(missing, device=batch.images.device)
        images, labels, indices = (part[chosen] for part in batch)
        randomness = ImageRandomness(self.seed, "agreement", indices)
        with trainer.precision_plugin.forward_context():
            single = pl_module(images).argmax(dim=1).tolist()
            votes = tally_over_sigmas(pl_module, images, self.sigmas, self.predict.n, randomness)
        counts = votes.cpu().numpy()
        for place, (index, label) in enumerate(zip(indices.tolist(), labels.tolist(), strict=True)):
            for level, sigma in enumerate(self.sigmas):
                if (index, sigma) in self._log:
                    continue
                answer = self.predict.decide(counts[level, place], sigma)
                row = (
                    index,
                    label,
                    sigma,
                    single[place],
                    answer.prediction,
                    int(counts[level, place].max()),
                    self.predict.n,
                )
                self._log.append(dict(zip(COLUMNS, row, strict=True)))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks' logs; every image must have its rows."""
        assert self._log is not None
        expected = [(str(index), str(sigma)) for index in gather(self._seen) for sigma in self.sigmas]
        if trainer.is_global_zero:
            self._log.merge(expected)
        self._log.close()

"""Accuracy of smoothed inference over noise levels and numbers of looks (Nemcovsky et al., section 5)."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from robustsmooth.attacks import Attack
from robustsmooth.data import Batch
from robustsmooth.evaluation.context import fingerprint
from robustsmooth.evaluation.progress import VotingProgress
from robustsmooth.evaluation.records import RecordLog
from robustsmooth.models import is_random
from robustsmooth.smoothing import ABSTAIN, Ballot, ImageRandomness, running_votes

__all__ = ["Accuracy", "InferenceSweep", "inference_accuracy"]

COLUMNS = ["idx", "label", "sigma", "voting", "samples", "predict", "correct"]
KEY = ["idx", "sigma", "voting", "samples"]


class InferenceSweep(Callback):
    """Write each image's answer for each noise level, rule of voting and number of looks.

    One pass over the data fills ``smoothed_inference.tsv``: all numbers of looks and all rules come from the
    same looks, and all levels from the same normal numbers. With an attack the images are attacked first,
    once for each level: an attack that averages over noise looks at that level, and passes copies one by
    one through a network that is random inside. The attack's noise is never that of the vote.

    Answers do not depend on the loader's batch or the number of devices, except where the network is random
    inside and is attacked or has noise on its activations: what it draws then goes by the batch. Started
    again in the same folder, with more levels too, finished rows are kept.

    Args:
        folder: The run folder.
        sigmas: Noise levels in pixel units; 0 for the network's own noise only.
        samples: Numbers of looks, ascending.
        ballots: Rules of voting, by name.
        attack: What the images go through first; None for clean images.
        source: The network that the attack looks at, for attacks that transfer; the tested one if None.
        seed: The run's seed.
        settings: What else the rows depend on, such as the checkpoint.

    Raises:
        ValueError: If `sigmas` or `ballots` is empty, a level is negative, or `samples` do not ascend.
    """

    def __init__(
        self,
        folder: Path | str,
        sigmas: Sequence[float],
        samples: Sequence[int],
        ballots: Mapping[str, Ballot],
        attack: Attack | None = None,
        source: nn.Module | None = None,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if not sigmas or any(not 0 <= sigma < float("inf") for sigma in sigmas):
            raise ValueError(f"`sigmas` must be one or more numbers of at least 0, got {list(sigmas)}")
        if not samples or min(samples) < 1 or list(samples) != sorted(set(samples)):
            raise ValueError(f"`samples` must be ascending counts of at least 1, got {list(samples)}")
        if not ballots or not all(callable(ballot) for ballot in ballots.values()):
            raise ValueError(f"`ballots` must be one or more rules of voting by name, got {dict(ballots)}")
        if source is not None and attack is None:
            raise ValueError("`source` says what is attacked, but there is no attack: give `attack` too")
        self.folder, self.seed = Path(folder), seed
        self.sigmas, self.samples = [float(sigma) for sigma in sigmas], list(samples)
        self.ballots, self.attack, self.source = dict(ballots), attack, source
        rules = {name: repr(ballot) for name, ballot in self.ballots.items()}
        self.settings = {**(settings or {}), "seed": seed, "attack": repr(attack), "ballots": rules}
        self.console = Console(stderr=True)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open this rank's log."""
        settings = {
            **self.settings,
            "network": fingerprint(pl_module.network),  # type: ignore[arg-type]
            "source": None if self.source is None else fingerprint(self.source),
            "precision": str(trainer.precision),
        }
        self._attacked_network = (
            pl_module.network if self.source is None else self.source.to(pl_module.device).eval()
        )
        self._log = RecordLog(self.folder, "smoothed_inference", COLUMNS, KEY, settings, trainer.global_rank)
        loader: Any = trainer.test_dataloaders
        self._votes_per_image = len(self.sigmas) * self.samples[-1]
        self._progress = VotingProgress(
            "smoothed inference",
            len(loader.sampler),
            self._votes_per_image,
            self.console,
            disable=not trainer.is_global_zero,
        )

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *args: Any
    ) -> None:
        """Vote on the batch at every level of which a row is missing."""
        network = pl_module.network
        assert isinstance(network, nn.Module)
        for sigma in self.sigmas:
            # Always the whole batch, so that a restart draws what the first start would have drawn.
            if all(key in self._log for key in self._keys(batch.indices.tolist(), sigma)):
                continue
            with trainer.precision_plugin.forward_context():
                images = self._attacked(batch, sigma)
                votes = self._votes(network, images, batch.indices, sigma)
            voted = {
                name: torch.where(each.any(2), each.argmax(2), ABSTAIN).cpu() for name, each in votes.items()
            }
            self._write(batch, sigma, voted)
        for _ in batch.indices:
            self._progress.advance(self._votes_per_image)
        self._progress.update(self._progress.finished_votes)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the ranks' logs, show the accuracies, write ``summary.json``, and log them."""
        self._progress.stop()
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self._log.merge(self._expected(trainer))
            accuracies = inference_accuracy(self._log.rows())
            self._summarize(trainer, accuracies)
            _show(accuracies, self.console)
        self._log.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave file and terminal in order; finished rows stay."""
        if hasattr(self, "_progress"):
            self._progress.stop()
            self._log.close()

    def _keys(self, indices: Sequence[int], sigma: float) -> list[tuple[Any, ...]]:
        return [
            (index, sigma, name, count)
            for index in indices
            for name in self.ballots
            for count in self.samples
        ]

    def _expected(self, trainer: pl.Trainer) -> list[tuple[Any, ...]] | None:
        """All rows that must be there; unknown where only some batches were asked for."""
        indices = getattr(trainer, "datamodule", None) and trainer.datamodule.test_indices  # type: ignore[attr-defined]
        if not indices or trainer.limit_test_batches != 1.0:
            return None
        return [key for sigma in self.sigmas for key in self._keys(indices, sigma)]

    def _attacked(self, batch: Batch, sigma: float) -> Tensor:
        if self.attack is None:
            return batch.images
        network: Any = self._attacked_network
        noise = self.attack.objective.noise
        attack = dataclasses.replace(
            self.attack,
            sigma=sigma if self.attack.sigma is None and noise != "none" else self.attack.sigma,
            copies_per_pass=1 if is_random(network) else self.attack.copies_per_pass,
        )
        randomness = ImageRandomness(self.seed, "inference/attack", batch.indices)
        return attack(network, batch.images, batch.labels, randomness=randomness)

    def _votes(self, network: nn.Module, images: Tensor, indices: Tensor, sigma: float) -> dict[str, Tensor]:
        """Votes ``(len(samples), B, K)`` by rule; one look is enough where all looks are the same."""
        identical = sigma == 0 and not is_random(network)
        votes = running_votes(
            network,
            images,
            sigma=sigma,
            samples=[1] if identical else self.samples,
            ballots=self.ballots,
            randomness=ImageRandomness(self.seed, "inference/noise", indices),
            seed=self.seed,
        )
        return {name: each.expand(len(self.samples), -1, -1) for name, each in votes.items()}

    def _summarize(self, trainer: pl.Trainer, accuracies: Sequence["Accuracy"]) -> None:
        """``summary.json``, and a point for each level in the loggers."""
        summary = {
            "metrics": {key: float(value) for key, value in sorted(trainer.callback_metrics.items())},
            "smoothed_inference": [each._asdict() for each in accuracies],
            "settings": self._log.settings,
        }
        draft = self.folder / "summary.json.tmp"
        draft.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        draft.replace(self.folder / "summary.json")
        for step, sigma in enumerate(sorted({each.sigma for each in accuracies})):
            rows = [each for each in accuracies if each.sigma == sigma]
            metrics = {f"test/{each.voting}_top1@{each.samples}": each.accuracy for each in rows}
            for logger in trainer.loggers:
                logger.log_metrics({"test/sigma": sigma, **metrics}, step=step)

    def _write(self, batch: Batch, sigma: float, answers: Mapping[str, Tensor]) -> None:
        facts = zip(batch.indices.tolist(), batch.labels.tolist(), strict=True)
        for place, (index, label) in enumerate(facts):
            for name, predictions in answers.items():
                for position, count in enumerate(self.samples):
                    if (index, sigma, name, count) in self._log:
                        continue
                    answer = int(predictions[position, place])
                    row = (index, label, sigma, name, count, answer, int(answer == label))
                    self._log.append(dict(zip(COLUMNS, row, strict=True)))


class Accuracy(NamedTuple):
    """Share of right answers at one noise level, rule of voting and number of looks."""

    sigma: float
    voting: str
    samples: int
    accuracy: float
    images: int


def inference_accuracy(rows: Iterable[Mapping[str, str]]) -> list[Accuracy]:
    """Accuracies of a log of smoothed inference, sorted.

    Args:
        rows: Of ``smoothed_inference.tsv``, as text.
    """
    correct: dict[tuple[float, str, int], list[int]] = defaultdict(list)
    for row in rows:
        correct[float(row["sigma"]), row["voting"], int(row["samples"])].append(int(row["correct"]))
    return [Accuracy(*key, sum(hits) / len(hits), len(hits)) for key, hits in sorted(correct.items())]


def _show(accuracies: Sequence[Accuracy], console: Console) -> None:
    """One table per rule of voting: levels down, looks across."""
    shares = {each[:3]: each.accuracy for each in accuracies}
    samples = sorted({each.samples for each in accuracies})
    for voting in sorted({each.voting for each in accuracies}):
        table = Table("sigma", *map(str, samples), title=f"{voting}, top-1 (%)")
        for sigma in sorted({each.sigma for each in accuracies}):
            cells = [shares.get((sigma, voting, count)) for count in samples]
            table.add_row(f"{sigma:g}", *("" if cell is None else f"{100 * cell:.1f}" for cell in cells))
        console.print(table)

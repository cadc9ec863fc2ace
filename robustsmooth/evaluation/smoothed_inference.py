"""Accuracy of smoothed inference over noise levels and numbers of looks (Nemcovsky et al., section 5)."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytorch_lightning as pl
import torch
from rich.table import Table
from torch import Tensor, nn

from robustsmooth.attacks import Attack
from robustsmooth.data import Batch
from robustsmooth.evaluation.base import Evaluation
from robustsmooth.evaluation.context import fingerprint, network_of
from robustsmooth.models import is_random
from robustsmooth.smoothing import ABSTAIN, Ballot, ImageRandomness, running_votes

__all__ = ["Accuracy", "InferenceSweep", "inference_accuracy"]


class InferenceSweep(Evaluation):
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
        settings: What else the rows depend on, such as the data set.
        progress: Show a bar, and tables after.

    Raises:
        ValueError: If `sigmas` or `ballots` is empty, a level is negative, or `samples` do not ascend.
    """

    name: ClassVar[str] = "smoothed_inference"
    verb: ClassVar[str] = "smoothed inference on"
    columns: ClassVar[list[str]] = ["idx", "label", "sigma", "voting", "samples", "predict", "correct"]
    key: ClassVar[list[str]] = ["idx", "sigma", "voting", "samples"]

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
        progress: bool = True,
    ) -> None:
        super().__init__(folder, seed=seed, settings=settings, progress=progress)
        if not sigmas or any(not 0 <= sigma < float("inf") for sigma in sigmas):
            raise ValueError(f"`sigmas` must be one or more numbers of at least 0, got {list(sigmas)}")
        if not samples or min(samples) < 1 or list(samples) != sorted(set(samples)):
            raise ValueError(f"`samples` must be ascending counts of at least 1, got {list(samples)}")
        if not ballots or not all(callable(ballot) for ballot in ballots.values()):
            raise ValueError(f"`ballots` must be one or more rules of voting by name, got {dict(ballots)}")
        if source is not None and attack is None:
            raise ValueError("`source` says what is attacked, but there is no attack: give `attack` too")
        self.sigmas, self.samples = [float(sigma) for sigma in sigmas], list(samples)
        self.ballots, self.attack, self.source = dict(ballots), attack, source

    def begin(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Any]:
        """See `Evaluation.begin`."""
        device = trainer.strategy.root_device
        self._attacked_network = network if self.source is None else self.source.to(device).eval()
        return {
            "seed": self.seed,
            "attack": repr(self.attack),
            "ballots": {name: repr(ballot) for name, ballot in self.ballots.items()},
            "source": None if self.source is None else fingerprint(self.source),
            "precision": str(trainer.precision),
        }

    def variants(self) -> list[tuple[Any, ...]]:
        """See `Evaluation.variants`: a row for each level, rule and number of looks."""
        return [
            (sigma, name, count) for sigma in self.sigmas for name in self.ballots for count in self.samples
        ]

    def most_passes(self) -> int:
        """See `Evaluation.most_passes`."""
        return len(self.sigmas) * self.samples[-1]

    def evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch) -> None:
        """See `Evaluation.evaluate`: vote on the batch at every level of which a row is missing."""
        network = network_of(module)
        for sigma in self.sigmas:
            # Always the whole batch, so that a restart draws what the first start would have drawn.
            if not all(
                self.has(index, *variant)
                for index in batch.indices.tolist()
                for variant in self.variants()
                if variant[0] == sigma
            ):
                with trainer.precision_plugin.forward_context():
                    images = self._attacked(batch, sigma)
                    answers = self._answers(network, images, batch.indices, sigma)
                self._write(batch, sigma, answers)
            last = sigma == self.sigmas[-1]
            self.heed(len(batch.images) * self.samples[-1], len(batch.images) if last else 0)

    def summarize(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """See `Evaluation.summarize`."""
        return {}, {"smoothed_inference": [each._asdict() for each in inference_accuracy(rows)]}

    def report(self, summary: Mapping[str, Any]) -> Iterator[Table]:
        """See `Evaluation.report`: one table per rule of voting, levels down, looks across."""
        accuracies = [Accuracy(**each) for each in summary["smoothed_inference"]]
        shares = {each[:3]: each.accuracy for each in accuracies}
        samples = sorted({each.samples for each in accuracies})
        for voting in sorted({each.voting for each in accuracies}):
            table = Table("sigma", *map(str, samples), title=f"{voting}, top-1 (%)")
            for sigma in sorted({each.sigma for each in accuracies}):
                cells = [shares.get((sigma, voting, count)) for count in samples]
                table.add_row(f"{sigma:g}", *("" if cell is None else f"{100 * cell:.1f}" for cell in cells))
            yield table

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the summary, and log a point for each level."""
        super().on_test_end(trainer, pl_module)
        accuracies = [Accuracy(**each) for each in self.summary["smoothed_inference"]]
        for step, sigma in enumerate(sorted({each.sigma for each in accuracies})):
            rows = [each for each in accuracies if each.sigma == sigma]
            metrics = {f"test/{each.voting}_top1@{each.samples}": each.accuracy for each in rows}
            for logger in trainer.loggers:
                logger.log_metrics({"test/sigma": sigma, **metrics}, step=step)

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

    def _answers(
        self, network: nn.Module, images: Tensor, indices: Tensor, sigma: float
    ) -> dict[str, Tensor]:
        """Answers ``(len(samples), B)`` by rule; one look is enough where all looks are the same."""
        identical = sigma == 0 and not is_random(network)
        looks = running_votes(
            network,
            images,
            sigma=sigma,
            samples=[1] if identical else self.samples,
            ballots=self.ballots,
            randomness=ImageRandomness(self.seed, "inference/noise", indices),
            seed=self.seed,
        )
        votes = {name: each.expand(len(self.samples), -1, -1) for name, each in looks.items()}
        return {name: torch.where(each.any(2), each.argmax(2), ABSTAIN).cpu() for name, each in votes.items()}

    def _write(self, batch: Batch, sigma: float, answers: Mapping[str, Tensor]) -> None:
        facts = zip(batch.indices.tolist(), batch.labels.tolist(), strict=True)
        for place, (index, label) in enumerate(facts):
            for name, predictions in answers.items():
                for position, count in enumerate(self.samples):
                    answer = int(predictions[position, place])
                    row = (index, label, sigma, name, count, answer, int(answer == label))
                    self.write(dict(zip(self.columns, row, strict=True)))


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

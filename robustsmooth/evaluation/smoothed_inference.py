"""Accuracy of smoothed inference over noise levels and numbers of votes (Nemcovsky et al., section 5)."""

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
from robustsmooth.evaluation.attack.plan import check_attack
from robustsmooth.evaluation.base import Evaluation
from robustsmooth.evaluation.context import network_of, noise_levels
from robustsmooth.kinds import SMOOTHED_INFERENCE, LogKind
from robustsmooth.models import is_random
from robustsmooth.smoothing import ABSTAIN, Ballot, ImageRandomness, fingerprint, running_votes


class InferenceSweep(Evaluation):
    """Write the answer to each image for each noise level, voting rule and number of votes.

    One pass over the data fills ``smoothed_inference.tsv``: all numbers of votes and all voting rules use the
    same noisy copies, and all levels the same normal random numbers. With an attack, the images are attacked
    first, once for each level. An attack that averages over noise uses that level, and passes its copies one
    by one through a network that is random inside. The vote uses noise that the attack has not seen.

    Answers do not depend on the loader's batch size or the number of devices. Exception: a network that is
    random inside and is attacked, or has noise on its activations, draws once per batch. Started again in the
    same folder, also with more levels, finished rows are kept.

    Args:
        folder: The run folder.
        sigmas: Noise levels in pixel units; 0 for the network's own noise only.
        samples: Numbers of votes, ascending.
        ballots: Voting rules, by name.
        attack: The attack on the images, not targeted; None for clean images.
        source: The network that is attacked, for transfer attacks; the tested one if None.
        seed: The run's seed.
        settings: What else the rows depend on, such as the data set.
        progress: Show a progress bar, and tables at the end.

    Raises:
        ValueError: If `sigmas` or `ballots` is empty, a level is negative, `samples` do not ascend, or the
            attack is targeted or moves the noise.
    """

    kind: ClassVar[LogKind] = SMOOTHED_INFERENCE
    verb: ClassVar[str] = "smoothed inference on"

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
        if not samples or min(samples) < 1 or list(samples) != sorted(set(samples)):
            raise ValueError(f"`samples` must be ascending counts of at least 1, got {list(samples)}")
        if not ballots or not all(callable(ballot) for ballot in ballots.values()):
            raise ValueError(f"`ballots` must be one or more voting rules by name, got {dict(ballots)}")
        if attack is not None:
            check_attack(attack)
        elif source is not None:
            raise ValueError("`source` says what is attacked, but there is no attack: give `attack` too")
        self.sigmas, self.samples = noise_levels(sigmas), list(samples)
        self.ballots, self.attack, self.source = dict(ballots), attack, source

    def begin(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Any]:
        """See `Evaluation.begin`."""
        device = trainer.strategy.root_device
        self._attacked_network = network if self.source is None else self.source.to(device).eval()
        self._attacks = {sigma: self._attack_at(sigma) for sigma in self.sigmas}
        return {
            "seed": self.seed,
            "attack": repr(self.attack),
            "ballots": {name: repr(ballot) for name, ballot in self.ballots.items()},
            "source": None if self.source is None else fingerprint(self.source),
            "precision": str(trainer.precision),
        }

    def variants(self) -> list[tuple[Any, ...]]:
        """See `Evaluation.variants`: a row for each level, rule and number of votes."""
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
            # Always the whole batch, so that a restart draws the same random numbers.
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
            self.advance(len(batch.images) * self.samples[-1], len(batch.images) if last else 0)

    def summarize(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """See `Evaluation.summarize`."""
        return {}, {"smoothed_inference": [accuracy._asdict() for accuracy in inference_accuracy(rows)]}

    def report(self, summary: Mapping[str, Any]) -> Iterator[Table]:
        """See `Evaluation.report`: a table per voting rule; rows are levels, columns numbers of votes."""
        accuracies = [Accuracy(**item) for item in summary["smoothed_inference"]]
        shares = {accuracy[:3]: accuracy.accuracy for accuracy in accuracies}
        samples = sorted({accuracy.samples for accuracy in accuracies})
        for voting in sorted({accuracy.voting for accuracy in accuracies}):
            table = Table("sigma", *map(str, samples), title=f"{voting}, top-1 (%)")
            for sigma in sorted({accuracy.sigma for accuracy in accuracies}):
                cells = [shares.get((sigma, voting, count)) for count in samples]
                table.add_row(f"{sigma:g}", *("" if cell is None else f"{100 * cell:.1f}" for cell in cells))
            yield table

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the summary, and log a point for each level."""
        super().on_test_end(trainer, pl_module)
        accuracies = [Accuracy(**item) for item in self.summary["smoothed_inference"]]
        for step, sigma in enumerate(sorted({accuracy.sigma for accuracy in accuracies})):
            rows = [accuracy for accuracy in accuracies if accuracy.sigma == sigma]
            metrics = {f"test/{row.voting}_top1@{row.samples}": row.accuracy for row in rows}
            for logger in trainer.loggers:
                logger.log_metrics({"test/sigma": sigma, **metrics}, step=step)

    def _attack_at(self, sigma: float) -> Attack | None:
        """The attack at a noise level, which it checks; None if there is none."""
        if self.attack is None:
            return None
        noise = self.attack.objective.noise
        return dataclasses.replace(
            self.attack,
            sigma=sigma if self.attack.sigma is None and noise != "none" else self.attack.sigma,
            copies_per_pass=1 if is_random(self._attacked_network) else self.attack.copies_per_pass,
        )

    def _attacked(self, batch: Batch, sigma: float) -> Tensor:
        attack, network = self._attacks[sigma], self._attacked_network
        if attack is None:
            return batch.images
        randomness = ImageRandomness(self.seed, "inference/attack", batch.indices)
        return attack(network, batch.images, batch.labels, randomness=randomness)

    def _answers(
        self, network: nn.Module, images: Tensor, indices: Tensor, sigma: float
    ) -> dict[str, Tensor]:
        """Answers ``(len(samples), B)`` by rule; one vote is enough where all votes are the same."""
        identical = sigma == 0 and not is_random(network)
        counts = running_votes(
            network,
            images,
            sigma=sigma,
            samples=[1] if identical else self.samples,
            ballots=self.ballots,
            randomness=ImageRandomness(self.seed, "inference/noise", indices),
            seed=self.seed,
        )
        votes = {name: item.expand(len(self.samples), -1, -1) for name, item in counts.items()}
        return {name: torch.where(item.any(2), item.argmax(2), ABSTAIN).cpu() for name, item in votes.items()}

    def _write(self, batch: Batch, sigma: float, answers: Mapping[str, Tensor]) -> None:
        facts = zip(batch.indices.tolist(), batch.labels.tolist(), strict=True)
        for place, (index, label) in enumerate(facts):
            for name, predictions in answers.items():
                for position, count in enumerate(self.samples):
                    answer = int(predictions[position, place])
                    row = (index, label, sigma, name, count, answer, int(answer == label))
                    self.write(dict(zip(self.kind.columns, row, strict=True)))


class Accuracy(NamedTuple):
    """Share of correct answers at one noise level, voting rule and number of votes."""

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

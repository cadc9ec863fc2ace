"""How often a single pass of a network agrees with the vote over noisy copies (HeatSmoothing, Figure 3)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from rich.table import Table
from torch import nn

from robustsmooth import statistics
from robustsmooth.data import Batch
from robustsmooth.evaluation.base import Evaluation
from robustsmooth.evaluation.context import noise_levels, precision_settings
from robustsmooth.kinds import AGREEMENT, LogKind
from robustsmooth.smoothing import HardVote, ImageRandomness, Predict, running_votes


class Agreement(Evaluation):
    """For each image and noise level, write the answers of a clean pass and of PREDICT to ``agreement.tsv``.

    Agreement is the share of equal answers among the images that the single pass classifies correctly, as in
    the paper. An abstention of PREDICT counts as disagreement. From two runs on the same images the report
    compares the pass of one network with the vote of the other. Logged for each level:
    ``test/agreement@<sigma>``.

    Args:
        folder: The run folder.
        sigmas: Noise levels, at least 0; all use the same normal random numbers.
        n: Votes per image and level; the paper takes 100.
        alpha: Failure probability of PREDICT, in (0, 1).
        seed: The run's seed.
        settings: What else the rows depend on, such as the data set.
        progress: Show a progress bar, and a table at the end.

    Raises:
        ValueError: If a noise level, `n` or `alpha` is not allowed.
    """

    kind: ClassVar[LogKind] = AGREEMENT
    verb: ClassVar[str] = "comparing a pass with the vote on"

    def __init__(
        self,
        folder: Path | str,
        sigmas: Sequence[float],
        n: int = 100,
        alpha: float = 0.001,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(folder, seed=seed, settings=settings, progress=progress)
        self.sigmas, self.predict = noise_levels(sigmas), Predict(n=n, alpha=alpha)

    def begin(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Any]:
        """See `Evaluation.begin`."""
        return {
            "sigmas": self.sigmas,
            "n": self.predict.n,
            "alpha": self.predict.alpha,
            "seed": self.seed,
            **precision_settings(trainer),
        }

    def variants(self) -> list[tuple[Any, ...]]:
        """See `Evaluation.variants`: a row for each level."""
        return [(sigma,) for sigma in self.sigmas]

    def most_passes(self) -> int:
        """See `Evaluation.most_passes`."""
        return len(self.sigmas) * self.predict.n

    def evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch) -> None:
        """See `Evaluation.evaluate`: vote on the images that are not in the log yet."""
        missing = [place for place, index in enumerate(batch.indices.tolist()) if not self.is_finished(index)]
        if not missing:
            return
        chosen = torch.tensor(missing, device=batch.images.device)
        images, labels, indices = (part[chosen] for part in batch)
        with trainer.precision_plugin.forward_context():
            single = module(images).argmax(dim=1).tolist()
        for sigma in self.sigmas:
            with trainer.precision_plugin.forward_context():
                counts = running_votes(
                    module,
                    images,
                    sigma=sigma,
                    samples=[self.predict.n],
                    ballots={"hard": HardVote()},
                    randomness=ImageRandomness(self.seed, "agreement", indices),
                    seed=self.seed,
                )["hard"][0].cpu()
            for place, (index, label) in enumerate(zip(indices.tolist(), labels.tolist(), strict=True)):
                answer = self.predict.decide(counts[place].numpy(), sigma).prediction
                row = (index, label, sigma, single[place], answer, int(counts[place].max()), self.predict.n)
                self.write(dict(zip(self.kind.columns, row, strict=True)))
            self.advance(len(images) * self.predict.n, len(images) if sigma == self.sigmas[-1] else 0)

    def summarize(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """See `Evaluation.summarize`."""
        metrics: dict[str, float | None] = {}
        levels = []
        for sigma in self.sigmas:
            mine = [row for row in rows if float(row["sigma"]) == sigma]
            single, vote, label = ([int(row[name]) for row in mine] for name in ("single", "vote", "label"))
            share, images = statistics.agreement(single, vote, label)
            said = {
                "sigma": sigma,
                "agreement": share if images else None,
                "images": images,
                "single_top1": sum(statistics.is_correct(single, label)) / len(mine),
                "vote_top1": sum(statistics.is_correct(vote, label)) / len(mine),
                "abstention": statistics.abstention_rate(vote),
            }
            levels.append({key: None if value is None else float(value) for key, value in said.items()})
            metrics[f"test/agreement@{sigma:g}"] = levels[-1]["agreement"]
        return metrics, {"levels": levels}

    def report(self, summary: Mapping[str, Any]) -> list[Table]:
        """See `Evaluation.report`."""
        table = Table(
            title=f"A single pass against the vote of {self.predict.n}, {summary['images']} images",
            title_justify="left",
        )
        for column in ("sigma", "agreement", "pass right", "vote right", "vote abstains"):
            table.add_column(column, justify="right")
        for said in summary["levels"]:
            shares = (said[name] for name in ("agreement", "single_top1", "vote_top1", "abstention"))
            table.add_row(
                f"{said['sigma']:g}", *("-" if share is None else f"{share:.1%}" for share in shares)
            )
        return [table]

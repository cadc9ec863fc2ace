"""Certification inside ``trainer.test``, and of a few images during training."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from rich.console import RenderableType
from rich.table import Table
from torch import Tensor, nn

from robustsmooth.data import Batch
from robustsmooth.evaluation.context import network_of
from robustsmooth.evaluation.metrics import (
    AbstentionRate,
    AverageCertifiedRadius,
    CertifiedAccuracy,
    SureShare,
)
from robustsmooth.evaluation.records import Extension
from robustsmooth.evaluation.voting import VotingCallback, counts_as_text, counts_from_text
from robustsmooth.kinds import CERTIFY, LogKind
from robustsmooth.models import is_random
from robustsmooth.smoothing import (
    Begun,
    Certificate,
    Certified,
    Cohen,
    Finished,
    Noise,
    Numerics,
    RadiusGrid,
    Tuning,
    VoteEngine,
    address,
    largest_radius,
    typical_votes,
)
from robustsmooth.statistics import (
    SURE,
    Guarantee,
    abstention_rate,
    acr,
    certified_counts,
    interval,
    is_correct,
    short,
    sure_share,
    table_radii,
)

SURE_KEY = f"p_a@{short(SURE)}"
"""Logged with every ACR, which alone says little."""

_MANY_VOTES = 5000  # below, the cheaper certificate saves little


def default_radii(certificate: Certificate, smoothing: Noise, num_classes: int = 10) -> list[float]:
    """Radii to report: 0, 0.25, 0.5... up to the largest radius that the setting can certify.

    Args:
        certificate: The certificate; some know only radii of their own (`Certificate.only_radii`).
        smoothing: The noise.
        num_classes: K.
    """
    only = certificate.only_radii(smoothing)
    return list(only or table_radii(largest_radius(certificate, smoothing, num_classes)))


class Certification(VotingCallback):
    """Certifies every test image; writes ``certify.tsv`` and ``summary.json``.

    The table starts with the columns of Cohen et al.'s log, ``idx label predict radius correct time``.
    ``time`` is the image's share of the seconds that the votes took. Logged: ``test/acr``,
    ``test/p_a@0.90`` (the share of images that are correct with a lower bound of p_A of at least 0.9),
    ``test/certified_acc@r`` for each radius, ``test/abstention``, ``test/largest_radius`` (what the setting
    can certify at most), and ``test/votes_per_image`` and ``test/seconds_per_image``.

    Args:
        certificate: What is asked of each image, such as `robustsmooth.smoothing.Cohen`.
        smoothing: The noise.
        folder: Where the rows and the summary are written.
        numerics: Precision, memory format, compilation.
        seed: Addresses all noise.
        radii: Radii of the certified accuracies; 0, 0.25, 0.5... by default.
        settings: What else the rows depend on, as plain values, such as the data set.
        progress: Show what to expect, a progress bar, and a table at the end.
    """

    kind: ClassVar[LogKind] = CERTIFY
    verb: ClassVar[str] = "certifying"
    procedure: Certificate

    def __init__(
        self,
        certificate: Certificate,
        smoothing: Noise,
        folder: Path | str,
        *,
        numerics: Numerics | None = None,
        seed: int = 0,
        radii: Sequence[float] | None = None,
        settings: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(
            certificate,
            smoothing,
            folder,
            numerics=numerics,
            seed=seed,
            settings=settings,
            progress=progress,
        )
        if radii is not None and any(radius < 0 for radius in radii):
            raise ValueError(f"`radii` must not be negative, got {list(radii)}")
        self.radii = None if radii is None else [float(radius) for radius in radii]

    def begin(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Any]:
        """See `Evaluation.begin`; refuses fewer votes than the rows that are there may have."""
        then, now = self.written_settings().get("procedure", {}).get("n"), getattr(self.procedure, "n", None)
        if "n" in self.procedure.may_change and then is not None and now is not None and now < then:
            raise ValueError(
                f"`certificate.n` can only be raised: `{self.folder}` holds rows with up to {then} votes, "
                f"got {now}; choose another folder with hydra.run.dir=... for fewer"
            )
        return super().begin(trainer, network)

    def opening(self, images: int, finished: int) -> Iterable[str]:
        """See `Evaluation.opening`; mentions a cheaper certificate where there is one."""
        yield from super().opening(images, finished)
        most, typical = self.procedure.max_votes, typical_votes(self.procedure, self.noise, self.num_classes)
        if typical < 0.9 * most:
            yield f"about {typical:,.0f} votes per image on average, if the images are like those of CIFAR-10"
        if type(self.procedure) is Cohen and most >= _MANY_VOTES and self.noise.probability(0.0) < 1:
            given = {name: getattr(self.procedure, name) for name in ("n", "n0", "alpha", "candidate")}
            table = typical_votes(RadiusGrid(**given), self.noise, self.num_classes)
            yield (
                f"where certified accuracies at fixed radii are enough, certificate=radii takes about "
                f"{table:,.0f} votes each in place of {most:,} (it has no ACR)"
            )

    def extension(self) -> Extension | None:
        """See `Evaluation.extension`: some certificates continue from the votes of finished rows."""
        if "n" not in self.procedure.may_change:
            return None
        return Extension("votes", lambda row: self.procedure.goes_on(self._begun(row), self.noise))

    def begun(self, index: int) -> Begun | None:
        """See `VotingCallback.begun`."""
        row = self.begun_row(index)
        return None if row is None else self._begun(row)

    def _begun(self, row: Mapping[str, str]) -> Begun:
        votes = int(row["votes"]) - self.procedure.selection_votes
        return Begun(int(row["candidate"]), counts_from_text(row["counts"]), votes)

    def row(self, finished: Finished) -> dict[str, Any]:
        """See `VotingCallback.row`."""
        record: Certified = finished.record
        before = self.begun_row(finished.index) or {"time": "0"}
        return {
            "idx": finished.index,
            "label": finished.label,
            "predict": record.prediction,
            "radius": record.radius,
            "correct": int(record.prediction == finished.label),
            "time": round(float(before["time"]) + finished.seconds, 6),
            "outcome": record.outcome,
            "candidate": record.candidate,
            "p_a_lower": record.p_a_lower,
            "p_b_upper": record.p_b_upper,
            "votes": record.votes,
            "counts": counts_as_text(record.counts) or "-",
            "uniform": record.uniform,
            "guarantee": str(record.guarantee),
        }

    @property
    def _claim(self) -> str:
        """What the radii are called."""
        return "estimated" if self.procedure.is_estimate else "certified"

    def weakness(self) -> str | None:
        """See `VotingCallback.weakness`."""
        if largest_radius(self.procedure, self.noise, self.num_classes) > 0:
            return None
        return (
            f"with {self.procedure.max_votes} votes, alpha={self.procedure.alpha} and "
            f"{type(self.noise).__name__} not even unanimous votes certify anything, so every image will "
            "abstain; raise certificate.n or certificate.alpha, or choose another smoothing"
        )

    def outcome(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """See `VotingCallback.outcome`."""
        prediction = [int(row["predict"]) for row in rows]
        correct = is_correct(prediction, [int(row["label"]) for row in rows])
        radius = [float(row["radius"]) for row in rows]
        radii = self.radii
        if radii is None:
            radii = default_radii(self.procedure, self.noise, self.num_classes)
        counts = certified_counts(correct, radius, radii)
        accuracies = [int(count) / len(rows) for count in counts]
        metrics: dict[str, float | None] = {
            f"test/{self._claim}_acc@{short(r)}": share for r, share in zip(radii, accuracies, strict=True)
        }
        metrics["test/abstention"] = abstention_rate(prediction)
        largest = largest_radius(self.procedure, self.noise, self.num_classes)
        metrics["test/largest_radius"] = largest
        if self.procedure.only_radii(self.noise) is None:  # the mean over a grid of radii is not the ACR
            metrics["test/acr"] = acr(correct, radius)
            sure = sure_share(correct, [float(row["p_a_lower"]) for row in rows])
            metrics |= {} if math.isnan(sure) else {f"test/{SURE_KEY}": sure}
        lows, highs = interval(counts, len(rows))
        curve = [
            {"radius": r, "accuracy": share, "low": float(low), "high": float(high)}
            for r, share, low, high in zip(radii, accuracies, lows, highs, strict=True)
        ]
        facts = {
            "certified_accuracy": curve,
            "largest_radius": largest,
            "certificate": type(self.procedure).__name__,
            "n": getattr(self.procedure, "n", None),
            "alpha": self.procedure.alpha,
            "sigma": self.noise.sigma,
            "guarantee": str(self.procedure.guarantee(self.noise)),
        }
        return metrics, facts

    def report(self, summary: Mapping[str, Any]) -> list[RenderableType]:
        """See `Evaluation.report`."""
        guarantee = Guarantee.parse(summary["guarantee"])
        assumed = guarantee.kind == "assumption"
        claim = "bounded under an assumption" if assumed else self._claim
        table = Table(title=f"{summary['images']} images {claim}", title_justify="left")
        table.add_column("radius", justify="right")
        heading = "accuracy if the assumption holds" if assumed else f"{self._claim} accuracy"
        table.add_column(heading, justify="right")
        table.add_column("95 % confidence interval")
        for point in summary["certified_accuracy"]:
            band = f"{point['low']:.1%} to {point['high']:.1%}"
            table.add_row(short(point["radius"]), f"{point['accuracy']:.1%}", band)
        metrics = summary["metrics"]
        setting = [summary["guarantee"], f"sigma {summary['sigma']:g}", f"alpha {summary['alpha']:g}"]
        setting += [] if summary["n"] is None else [f"n {summary['n']:,}"]
        setting += [f"largest radius possible with n: {summary['largest_radius']:.3f}"]
        outcome = (
            [f"average certified radius (ACR) {metrics['test/acr']:.4f}"] if "test/acr" in metrics else []
        )
        if f"test/{SURE_KEY}" in metrics:
            outcome += [f"correct with p_A of at least {SURE:g} {metrics[f'test/{SURE_KEY}']:.1%}"]
        outcome += [f"abstention {metrics['test/abstention']:.1%}"]
        if "test/top1" in metrics:
            outcome += [f"clean accuracy of the base network {metrics['test/top1']:.1%}"]
        cost = f"{summary['votes_per_image']:,.0f} votes and {summary['seconds_per_image']:.3g} s per image"
        return [table, *filter(None, [guarantee.caveat]), ", ".join(outcome), ", ".join(setting), cost]


class ValidationCertification(Callback):
    """Certifies some validation images while a network trains.

    Logs ``val/acr``, ``val/p_a@0.90``, ``val/certified_acc@r`` and ``val/abstention``, so that checkpoints
    can be chosen by them (``monitor=val/acr``). Its noise is addressed separately from that of any test, so
    choosing a checkpoint by it does not use the test's noise. Between two certifications the last values are
    logged again.

    Args:
        certificate: What is asked of each image; few votes are enough, such as ``Cohen(n0=20, n=500)``.
        smoothing: The noise.
        images: How many validation images: the first ones, over all ranks.
        every: Certify in epochs 0, `every`, 2 `every`... and in the last one.
        radii: Radii of the certified accuracies; 0, 0.25, 0.5... by default.
        numerics: Precision and memory format. Compilation is refused: it would freeze the weights.
        seed: Addresses the noise.
    """

    def __init__(
        self,
        certificate: Certificate,
        smoothing: Noise,
        *,
        images: int = 100,
        every: int = 1,
        radii: Sequence[float] | None = None,
        numerics: Numerics | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (("images", images), ("every", every)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        self.numerics = numerics or Numerics()
        if self.numerics.compile:
            raise ValueError("`numerics.compile` must be false during training: it would freeze the weights")
        self.certificate, self.noise, self.seed = certificate, smoothing, seed
        self.images, self.every, self.radii = images, every, radii
        self._tuning: Tuning | None = None
        self._last: dict[str, Tensor] = {}

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide whether to certify in this epoch."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        due = last or trainer.current_epoch % self.every == 0
        self._active = due and not trainer.sanity_checking
        if not self._active:
            return
        network = network_of(pl_module)
        classes = int(getattr(network, "num_classes", 10))
        self._radii = self.radii or default_radii(self.certificate, self.noise, classes)
        self._engine = VoteEngine(
            network,
            self.noise,
            self.certificate,
            seed=address(self.seed, "validation in training"),
            numerics=self.numerics,
            random_inside=True if is_random(network) else None,
            tuning=self._tuning,
        )
        self._left = len(range(trainer.global_rank, self.images, trainer.world_size))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect images until there are enough."""
        if self._active and self._left and dataloader_idx == 0:
            taken = min(self._left, len(batch.images))
            self._left -= taken
            self._engine.submit(batch.images[:taken], batch.indices[:taken], batch.labels[:taken])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Certify them and log."""
        if trainer.sanity_checking:
            return
        if self._active:
            self._last = self._certify(pl_module)
        pl_module.log_dict(dict(self._last), sync_dist=trainer.world_size > 1)

    def state_dict(self) -> dict[str, Any]:
        """The last values, which are logged until the next certification, also after a resume."""
        return {"last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the last values."""
        self._last = dict(state_dict["last"])

    def _certify(self, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        done = sorted(self._engine.run(flush=True), key=lambda finished: finished.index)
        self._tuning = self._engine.tuning
        prediction = torch.tensor([finished.record.prediction for finished in done], dtype=torch.int64)
        radius = torch.tensor([finished.record.radius for finished in done], dtype=torch.float64)
        label = torch.tensor([finished.label for finished in done], dtype=torch.int64)
        bound = torch.tensor([finished.record.p_a_lower for finished in done], dtype=torch.float64)
        accuracy, acr = CertifiedAccuracy(self._radii), AverageCertifiedRadius()
        abstention, sure = AbstentionRate(), SureShare()
        for metric in (accuracy, acr, abstention, sure):
            metric.to(pl_module.device)
        accuracy.update(prediction, radius, label)
        acr.update(prediction, radius, label)
        abstention.update(prediction)
        sure.update(prediction, bound, label)
        shares = accuracy.compute().reshape(-1)
        values = {
            f"val/certified_acc@{short(r)}": share for r, share in zip(self._radii, shares, strict=True)
        }
        values["val/abstention"] = abstention.compute()
        if self.certificate.only_radii(self.noise) is None:
            values["val/acr"], values[f"val/{SURE_KEY}"] = acr.compute(), sure.compute()
        return {key: value.float() for key, value in values.items()}

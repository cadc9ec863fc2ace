"""Who decides whether an attack has succeeded: a single pass, or a vote on noise that no attack has seen."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustsmooth.models import is_random
from robustsmooth.smoothing import (
    ABSTAIN,
    GridGaussianNoise,
    Noise,
    NoNoise,
    Numerics,
    Predict,
    Predicted,
    Tuning,
    VoteEngine,
    tune,
)
from robustsmooth.smoothing.ballots import answers

__all__ = ["Decision", "SinglePass", "SmoothedVote", "Target"]


Share = Callable[[Any], Any]


class Decision(NamedTuple):
    """What the attacked classifier says about some images.

    Attributes:
        predictions: Its answers, `ABSTAIN` where it gives none.
        wrong: Whether the label is not the answer; with a `topk` above one, not among so many best.
        votes: Votes per image.
    """

    predictions: list[int]
    wrong: list[bool]
    votes: int


class Target(ABC):
    """The classifier under attack.

    Attributes:
        sigma: Its noise level, which attacks take if they are given none; None if it has none.
        votes: Passes that a decision takes.
        alpha: Probability that an answer is not the classifier's own, 0 where no chance is involved.
        heed: Called after each pass of a decision with the number of images in it; may raise.
    """

    sigma: float | None
    votes: int
    alpha: float
    heed: Callable[[int], None] = staticmethod(lambda passes: None)

    @abstractmethod
    def set_up(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        device: torch.device,
        then: Mapping[str, Any],
        share: Share,
    ) -> None:
        """Get ready to decide.

        Args:
            network: The base classifier.
            shape: ``(C, H, W)`` of the images.
            device: Where they are.
            then: The settings of rows that are there already, to go on alike; empty if there are none.
            share: Gives all ranks what rank 0 holds.
        """

    @abstractmethod
    def decide(self, images: Tensor, labels: Tensor, indices: Tensor, topk: int) -> Decision:
        """Classify.

        Args:
            images: ``(B, C, H, W)`` float in [0, 1].
            labels: ``(B,)`` int64.
            indices: ``(B,)`` int64, the images' indices in their data set.
            topk: Among how many best answers the label must be to count as right.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decisions depend on, as plain values."""

    @property
    def levels(self) -> int | None:
        """Steps per unit of the grid that images must lie on; None for any image."""
        return None


class SinglePass(Target):
    """The bare network, one pass without noise on the input."""

    sigma: float | None = None
    votes = 1
    alpha = 0.0

    def set_up(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        device: torch.device,
        then: Mapping[str, Any],
        share: Share,
    ) -> None:
        """See `Target.set_up`."""
        self.network = network
        self.sigma = 0.0 if is_random(network) else None

    def decide(self, images: Tensor, labels: Tensor, indices: Tensor, topk: int) -> Decision:
        """See `Target.decide`."""
        with torch.no_grad():
            logits = self.network(images)
        better = (logits > logits.gather(1, labels[:, None])).sum(1)
        answered = answers(logits)
        predictions = torch.where(answered, logits.argmax(1), ABSTAIN)
        wrong = ~answered | (predictions != labels if topk == 1 else better >= topk)
        self.heed(len(images))
        return Decision(predictions.tolist(), wrong.tolist(), 1)

    def settings(self) -> dict[str, Any]:
        """See `Target.settings`."""
        return {"name": "network"}


class SmoothedVote(Target):
    """The smoothed classifier, decided by PREDICT with fresh noise (Cohen et al. 2019, section 3.2.1).

    An abstention is no answer, and counts as wrong. Only the votes of the two best classes are tested;
    with a `topk` above one the label must be among the `topk` classes of most votes, untested.

    Args:
        smoothing: The noise.
        prediction: Number of votes and level.
        numerics: Precision, memory format, compilation of the passes.
        seed: Addresses the noise.
    """

    def __init__(
        self, smoothing: Noise, prediction: Predict, numerics: Numerics | None = None, seed: int = 0
    ) -> None:
        self.noise, self.sigma = smoothing, smoothing.sigma
        # A plurality vote promises nothing about its answers.
        self.votes, self.alpha = prediction.n, 1.0 if prediction.alpha is None else prediction.alpha
        self.prediction = replace(prediction, purpose="attack/decide")  # the attack's is "attack"
        self.numerics, self.seed = numerics or Numerics(), seed

    def set_up(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        device: torch.device,
        then: Mapping[str, Any],
        share: Share,
    ) -> None:
        """See `Target.set_up`."""
        if isinstance(self.noise, NoNoise) and not is_random(network):
            raise ValueError("without noise every vote is the same: choose target=network")
        batch_size, numerics = self.prediction.batch_size, self.numerics
        written = then.get("target", {}).get("numerics", {})
        if batch_size == "auto":
            batch_size = written.get("batch_size", batch_size)
        if numerics.channels_last == "auto" and "channels_last" in written:
            numerics = replace(numerics, channels_last=written["channels_last"])
        self.device = device
        random_inside = is_random(network)
        found = tune(network, shape, device, batch_size, numerics, random_inside=random_inside)
        self.tuning: Tuning = share(found)
        self.engine = VoteEngine(
            network,
            self.noise,
            self.prediction,
            seed=self.seed,
            numerics=self.tuning.numerics,
            random_inside=True if is_random(network) else None,
            tuning=self.tuning,
        )
        self._counted = 0
        self.engine.watch = self._after_pass

    def _after_pass(self, votes: int) -> None:
        new, self._counted = votes - self._counted, votes
        self.heed(new)

    def decide(self, images: Tensor, labels: Tensor, indices: Tensor, topk: int) -> Decision:
        """See `Target.decide`."""
        # An index may stand for two images, clean and attacked, but never within one decision.
        self.engine.submit(images, indices, labels)
        answers: dict[int, Predicted] = {done.index: done.record for done in self.engine.run(flush=True)}
        predictions, wrong = [], []
        for index, label in zip(indices.tolist(), labels.tolist(), strict=True):
            answer = answers[index]
            best = [name for name, _ in answer.counts[:topk]]
            predictions.append(answer.prediction)
            wrong.append(answer.prediction != label if topk == 1 else label not in best)
        return Decision(predictions, wrong, self.prediction.n)

    def settings(self) -> dict[str, Any]:
        """See `Target.settings`."""
        return {
            "name": "smoothed",
            "noise": {"name": type(self.noise).__name__, **asdict(self.noise)},
            "n": self.prediction.n,
            "alpha": self.prediction.alpha,
            "numerics": {
                **self.tuning.numerics.described(self.device),
                "batch_size": self.tuning.batch_size,
                "torch": torch.__version__,
            },
        }

    @property
    def levels(self) -> int | None:
        """See `Target.levels`."""
        return self.noise.levels if isinstance(self.noise, GridGaussianNoise) else None

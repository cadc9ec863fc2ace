"""What decides whether an attack has succeeded: a single pass, or a vote under fresh noise."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from robustsmooth.evaluation.context import images_here, named, numerics_settings, vote_engine
from robustsmooth.models import is_random
from robustsmooth.smoothing import (
    ABSTAIN,
    GridGaussianNoise,
    Noise,
    NoNoise,
    Numerics,
    Predict,
    Predicted,
    address,
    answers,
    contains_label,
)


class Decision(NamedTuple):
    """The attacked classifier's answers to some images.

    Attributes:
        predictions: The predicted classes, `ABSTAIN` where it abstains.
        wrong: Whether the label is not the answer; for `topk` above 1, not among the `topk` best.
        votes: Votes per image.
    """

    predictions: list[int]
    wrong: list[bool]
    votes: int


class Target(ABC):
    """The classifier under attack.

    Attributes:
        noise: Its smoothing noise, which the attacks' noise follows; None if it has none.
        votes: Passes that a decision takes.
        alpha: Probability that an answer is not that of the exact smoothed classifier; 0 without votes.
        advance: Called after each pass of a decision, with the number of images in it.
    """

    noise: Noise | None
    votes: int
    alpha: float
    advance: Callable[[int], None] = staticmethod(lambda passes: None)

    @abstractmethod
    def set_up(self, trainer: pl.Trainer, network: nn.Module, then: Mapping[str, Any]) -> None:
        """Prepare for decisions.

        Args:
            trainer: The trainer, about to test.
            network: The base classifier.
            then: The settings of the rows that are there already, which are kept; empty if there are none.
        """

    @abstractmethod
    def decide(self, images: Tensor, labels: Tensor, indices: Tensor, topk: int) -> Decision:
        """Classify.

        Args:
            images: ``(B, C, H, W)`` float in [0, 1].
            labels: ``(B,)`` int64.
            indices: ``(B,)`` int64, the images' indices in their data set.
            topk: The label must be among this many best classes to count as correct.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decisions depend on, as plain values."""

    @property
    def levels(self) -> int | None:
        """Steps per unit of the grid that images must lie on; None for any image."""
        return None


class SinglePass(Target):
    """The network itself: one pass without noise on the input.

    Args:
        seed: Addresses the draw of a network that is random inside, one for each decision.
    """

    noise: Noise | None = None
    votes = 1
    alpha = 0.0

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def set_up(self, trainer: pl.Trainer, network: nn.Module, then: Mapping[str, Any]) -> None:
        """See `Target.set_up`."""
        self.network = network
        self.noise = NoNoise() if is_random(network) else None

    def decide(self, images: Tensor, labels: Tensor, indices: Tensor, topk: int) -> Decision:
        """See `Target.decide`."""
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(address(self.seed, "attack/decide/inside", int(indices[0])))
            logits = self.network(images)
        predictions = torch.where(answers(logits), logits.argmax(1), ABSTAIN)
        self.advance(len(images))
        return Decision(predictions.tolist(), (~contains_label(logits, labels, topk)).tolist(), 1)

    def settings(self) -> dict[str, Any]:
        """See `Target.settings`."""
        return {"name": "network"}


class SmoothedVote(Target):
    """The smoothed classifier, decided by PREDICT with fresh noise (Cohen et al. 2019, section 3.2.1).

    An abstention counts as wrong. Only the votes of the two best classes are tested;
    with a `topk` above one the label must be among the `topk` classes of most votes, untested.

    Args:
        smoothing: The noise.
        prediction: The number of votes and alpha.
        numerics: Precision, memory format, compilation of the passes.
        seed: Addresses the noise.
    """

    def __init__(
        self, smoothing: Noise, prediction: Predict, numerics: Numerics | None = None, seed: int = 0
    ) -> None:
        self.noise: Noise = smoothing
        # A plurality vote gives no guarantee.
        self.votes, self.alpha = prediction.n, 1.0 if prediction.alpha is None else prediction.alpha
        self.prediction = replace(prediction, purpose="attack/decide")  # the attack's is "attack"
        self.numerics, self.seed = numerics or Numerics(), seed

    def set_up(self, trainer: pl.Trainer, network: nn.Module, then: Mapping[str, Any]) -> None:
        """See `Target.set_up`."""
        if isinstance(self.noise, NoNoise) and not is_random(network):
            raise ValueError("without noise every vote is the same: choose target=network")
        self.engine = vote_engine(
            trainer,
            network,
            self.noise,
            self.prediction,
            numerics=self.numerics,
            seed=self.seed,
            then=then.get("target", {}).get("numerics", {}),
            images=2 * images_here(trainer),  # clean and attacked
        )
        self.engine.watch = self.advance
        self.device = trainer.strategy.root_device

    def decide(self, images: Tensor, labels: Tensor, indices: Tensor, topk: int) -> Decision:
        """See `Target.decide`."""
        # The clean and the attacked image have the same index, but they are never in one decision.
        self.engine.submit(images, indices, labels)
        said: dict[int, Predicted] = {done.index: done.record for done in self.engine.run(flush=True)}
        predictions, wrong = [], []
        for index, label in zip(indices.tolist(), labels.tolist(), strict=True):
            answer = said[index]
            best = [name for name, _ in answer.counts[:topk]]
            predictions.append(answer.prediction)
            wrong.append(answer.prediction != label if topk == 1 else label not in best)
        return Decision(predictions, wrong, self.prediction.n)

    def settings(self) -> dict[str, Any]:
        """See `Target.settings`."""
        assert self.engine.tuning is not None
        return {
            "name": "smoothed",
            "noise": named(self.noise),
            "n": self.prediction.n,
            "alpha": self.prediction.alpha,
            "numerics": numerics_settings(self.engine.tuning, self.device),
        }

    @property
    def levels(self) -> int | None:
        """See `Target.levels`."""
        return self.noise.levels if isinstance(self.noise, GridGaussianNoise) else None

"""Attacks from other libraries behind our interface (``pip install robustsmooth[attacks]``).

The libraries get the objective's scores under the fixed noise, a deterministic differentiable function, so
that all of them can attack smoothed classifiers. The result is projected into the ball, and measured by the
caller.
"""

import importlib
import math
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from robustsmooth.attacks.base import SEED_DRAW, Attack, Oracle
from robustsmooth.attacks.geometry import Norm, project


def _import(library: str, attack: Attack) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries' own imports
            return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{type(attack).__name__} needs {library}, which is not installed: "
            "pip install 'robustsmooth[attacks]'"
        ) from error


class _Scores(nn.Module):
    """The objective's scores as a module; a backward pass through it stops at the images.

    Some libraries call `Tensor.backward`, which would leave gradients in the network's parameters.
    """

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle
        self.eval()

    def forward(self, points: Tensor) -> Tensor:
        return _Isolated.apply(points, self.oracle)


class _Isolated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, oracle: Oracle) -> Tensor:
        with torch.enable_grad():
            ctx.leaf = points.detach().requires_grad_(True)
            ctx.result = oracle.scores(ctx.leaf)
        return ctx.result.detach().to(points.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (to_points,) = torch.autograd.grad(ctx.result, ctx.leaf, gradient.to(ctx.result.dtype))
        return to_points, None


@dataclass(frozen=True, kw_only=True)
class _LibraryAttack(Attack):
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective.noise == "required":
            raise ValueError(
                f"{type(self).__name__} differentiates the network, and {type(self.objective).__name__} does "
                "not: choose attack/objective=plain, plug_in or expectation"
            )
        if not self.fixed_noise:
            raise ValueError(f"`fixed_noise` must be true for {type(self).__name__}: it compares its steps")
        if self.topk != 1:
            raise ValueError(f"`topk` must be 1 for {type(self).__name__}, got {self.topk}")


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(_LibraryAttack):
    """Carlini and Wagner's l2 attack (2017), from foolbox (MIT licence): a small perturbation that succeeds.

    Adam on the squared distance plus c times the margin of the logits, with a binary search for c per
    image.

    Args:
        epsilon: Largest perturbation, in pixel units, > 0. A longer one is shortened to it and then rarely
            succeeds. None for no limit.
        steps: Gradients per value of c.
        search_steps: Values of c tried per image.
        step_size: Adam's step size.
        initial_weight: First value of c.
        confidence: Margin by which the wrong class must be ahead.
        abort_early: Stop the search for a value of c when a tenth of the steps brought no progress, as is
            foolbox's default: several times fewer passes, sometimes a longer perturbation. foolbox judges the
            progress of the whole batch; images are then attacked one by one, so that results do not depend on
            the batch.
        objective: See `Attack`, also for the other arguments; not `Stein`.

    Raises:
        ValueError: If a value is out of its range, or foolbox is not installed.
    """

    norm: ClassVar[Norm] = "l2"

    epsilon: float | None = None
    steps: int = 100
    search_steps: int = 9
    step_size: float = 0.05
    initial_weight: float = 0.01
    confidence: float = 0.0
    abort_early: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("epsilon", "steps", "search_steps", "step_size", "initial_weight")
        if self.confidence < 0:
            raise ValueError(f"`confidence` must be >= 0, got {self.confidence}")

    def _search(self, oracle: Oracle) -> Tensor:
        if self.abort_early and len(oracle.images) > 1:
            alone = [oracle.part(at, at + 1) for at in range(len(oracle.images))]
            return torch.cat([self._search(item) for item in alone])
        foolbox = _import("foolbox", self)
        model = foolbox.PyTorchModel(_Scores(oracle), bounds=(0, 1), device=oracle.images.device)
        criterion = foolbox.TargetedMisclassification if self.targeted else foolbox.Misclassification
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=self.search_steps,
            steps=self.steps,
            stepsize=self.step_size,
            confidence=self.confidence,
            initial_const=self.initial_weight,
            abort_early=self.abort_early,
        )
        points = attack.run(model, oracle.images, criterion(oracle.labels)).detach()
        # foolbox returns a black image where it found nothing.
        found = oracle.judge(points).success
        points = torch.where(found.reshape(-1, *[1] * (points.ndim - 1)), points, oracle.images)
        return project(points, oracle.images, self.epsilon or math.inf, "l2")


@dataclass(frozen=True, kw_only=True)
class AutoAttack(_LibraryAttack):
    """AutoAttack (Croce and Hein 2020), from pyautoattack (MIT licence): APGD, FAB and Square in turn.

    Args:
        norm: ``"l2"`` or ``"linf"``.
        epsilon: Radius of the ball, in pixel units, > 0.
        version: ``"standard"`` (APGD-CE, APGD-T, FAB-T, Square), ``"plus"`` (more of them) or ``"rand"``
            (for networks that are random inside: APGD averaged over 20 gradients). With fewer than four
            classes always APGD-CE, FAB-T and Square, since APGD-T needs four.
        one_by_one: Attack each image separately, so that results do not depend on the batch, as for all other
            attacks; several times slower than a whole batch on small networks.
        objective: See `Attack`, also for the other arguments; not `Stein`.

    Raises:
        ValueError: If a value is out of its range, or pyautoattack is not installed.
    """

    norm: Norm
    epsilon: float
    version: Literal["standard", "plus", "rand"] = "standard"
    one_by_one: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("epsilon")
        self._require_choice("norm", "l2", "linf")
        self._require_choice("version", "standard", "plus", "rand")
        if self.targeted:
            raise ValueError("`targeted` must be false for AutoAttack: it chooses its own targets")

    def _search(self, oracle: Oracle) -> Tensor:
        images = oracle.images
        seeds = oracle.randomness.uniform(images.flatten(1)[:, 0], draw=SEED_DRAW - 1)[0]
        size = 1 if self.one_by_one else len(images)
        points = [
            self._attack(oracle.part(start, start + size), seed=int(seeds[start] * 2**24))
            for start in range(0, len(images), size)
        ]
        return project(torch.cat(points), images, self.epsilon, self.norm)

    def _attack(self, oracle: Oracle, seed: int) -> Tensor:
        images, labels = oracle.images, oracle.labels
        with torch.no_grad():
            classes = oracle.scores(images).shape[1]
        library = _import("pyautoattack", self).AutoAttack(
            _Scores(oracle),
            norm={"l2": "L2", "linf": "Linf"}[self.norm],
            eps=self.epsilon,
            seed=seed,
            version="custom" if classes < 4 else self.version,
            attacks=["apgd-ce", "fab-t", "square"] if classes < 4 else None,
            device=images.device,
        )
        for member in (library.apgd_targeted, library.fab):
            member.n_target_classes = min(member.n_target_classes, classes - 1)
        library.verbose = False
        return library.run_standard_evaluation(images, labels, batch_size=len(images))[0]

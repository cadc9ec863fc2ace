"""Decoupled direction and norm."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustsmooth.attacks.base import Attack, Incumbent, Oracle
from robustsmooth.attacks.geometry import Norm, displace, distance, expand, quantize, unit

_FIRST_STEP, _LAST_STEP = 1.0, 0.01


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    """Decoupled direction and norm (Rony et al. 2019): the closest l2 perturbation that succeeds.

    Each step follows the normalised gradient and then sets the perturbation's norm: a little smaller
    than before if the last point was a success, a little larger if not. The step size falls on a
    cosine from 1 to 0.01. With the objective `PlugIn` it is SmoothAdv_DDN (Salman et al. 2019).

    Difference from the published code: that searches beyond the budget, shortens its best point to the budget
    and rounds it without evaluating it again. Here every candidate is rounded and inside the budget before it
    is evaluated, and the last one is evaluated too (one forward pass).

    Args:
        epsilon: Largest perturbation, in pixel units, > 0; None for no limit except the box [0, 1].
        steps: Gradients.
        init_norm: Norm of the first perturbation, in pixel units. None: `epsilon`, as SmoothAdv's published
            code has it (so that few steps reach the budget), or 1 without a budget.
        norm_decay: Relative change of the norm per step (the paper's gamma).
        levels: Grey levels that the perturbation is rounded to (256: eight bits, so that an 8-bit
            image stays one), without leaving the budget, as in the published code. None for no rounding:
            the closest point found. On a network whose closest points are a few grey levels away,
            rounding lengthened the median distance by a quarter.
        on_failure: What to return for an image on which nothing succeeded: the ``"strongest"`` point,
            which another draw of noise may err on, or the ``"clean"`` image, as the published code
            does. The distance of a failure is not meaningful.
        objective: See `Attack`, also for the other arguments.

    Raises:
        ValueError: If a value is out of its range.
    """

    norm: ClassVar[Norm] = "l2"

    epsilon: float | None = None
    steps: int = 20
    init_norm: float | None = 1.0
    norm_decay: float = 0.05
    levels: int | None = None
    on_failure: Literal["strongest", "clean"] = "strongest"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("epsilon", "steps", "init_norm")
        self._require_choice("on_failure", "strongest", "clean")
        if not 0 < self.norm_decay < 1:
            raise ValueError(f"`norm_decay` must be in (0, 1), got {self.norm_decay}")
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"`levels` must be at least 2, got {self.levels}")

    def _search(self, oracle: Oracle) -> Tensor:
        images = oracle.images
        farthest = distance(torch.maximum(images, 1 - images), "l2")
        limit = farthest if self.epsilon is None else farthest.clamp_max(self.epsilon * (1 - 1e-6))
        norms = limit.clamp_max(self.init_norm or self.epsilon or 1.0)
        best = Incumbent(images, "closest", "l2")
        points = images
        for step in range(self.steps):
            view, gradient = oracle.climb(points, step)
            best.offer(points, view)
            cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
            step_size = _LAST_STEP + (_FIRST_STEP - _LAST_STEP) * cosine
            norms = norms * torch.where(view.success, 1 - self.norm_decay, 1 + self.norm_decay)
            norms = torch.minimum(norms, limit)
            direction = unit(points - images + step_size * unit(gradient))
            perturbation = direction * expand(norms, images).to(images.dtype)
            if self.levels is not None:
                perturbation = quantize(perturbation, self.levels - 1, limit, "l2")
            points = displace(images, perturbation)
        best.offer(points, oracle.judge(points))
        if self.on_failure == "clean":
            return torch.where(expand(best.success, images), best.points, images)
        return best.points

"""Projected gradient ascent, and its single step."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Self

from torch import Tensor

from robustsmooth.attacks.base import START_DRAW, Attack, Incumbent, Oracle
from robustsmooth.attacks.geometry import Norm, expand, project, unit


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent on the objective, in an l2 or linf ball.

    Madry et al. 2018 with random starts; with the objective `PlugIn` and a start at the image
    SmoothAdv_PGD (Salman et al. 2019); with `Expectation` EPGD (Nemcovsky et al.).

    Args:
        norm: ``"l2"`` or ``"linf"``.
        epsilon: Radius of the ball, in pixel units, > 0; infinite for no limit except [0, 1].
        steps: Gradients per restart.
        step_size: Length of a step, in pixel units. None: ``2 * epsilon / steps`` (SmoothAdv).
        random_start: Start at a random point of the ball, rather than at the image.
        restarts: Runs per image, of which the best is kept; all but the first start at a random point.
        direction: ``"normalized"``, the gradient at l2 length one, or ``"sign"``. None: the steepest
            one in `norm`: normalised in l2, the sign in linf.
        keep: What is returned: the ``"last"`` point of a run, as in the papers; the ``"strongest"``
            point of all steps; or the ``"closest"`` successful point of all steps (otherwise the strongest),
            for adversarial distances. The latter two cost one more forward pass.
        objective: See `Attack`, also for the other arguments.

    Raises:
        ValueError: If a value is out of its range.
    """

    norm: Norm
    epsilon: Annotated[float, "or infinite"]
    steps: int = 20
    step_size: float | None = None
    random_start: bool = False
    restarts: int = 1
    direction: Literal["normalized", "sign"] | None = None
    keep: Literal["last", "strongest", "closest"] = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("epsilon", "steps", "step_size", "restarts")
        if self.epsilon == math.inf and (
            self.step_size in (None, math.inf) or self.random_start or self.restarts > 1
        ):
            raise ValueError(
                "with an infinite `epsilon` PGD needs a `step_size`, random_start=false and restarts=1"
            )
        self._require_choice("norm", "l2", "linf")
        self._require_choice("direction", "normalized", "sign", None)
        self._require_choice("keep", "last", "strongest", "closest")

    def with_epsilon(self, epsilon: float) -> Self:
        """See `Attack.with_epsilon`; a given step size keeps its ratio to a finite budget."""
        if self.step_size is None or math.inf in (epsilon, self.epsilon):
            return replace(self, epsilon=epsilon)
        return replace(self, epsilon=epsilon, step_size=self.step_size * epsilon / self.epsilon)

    def _search(self, oracle: Oracle) -> Tensor:
        if self.restarts == 1 and self.keep == "last":
            return self._run(oracle, 0, None)
        best = Incumbent(oracle.images, "closest" if self.keep == "closest" else "strongest", self.norm)
        for restart in range(self.restarts):
            points = self._run(oracle, restart, None if self.keep == "last" else best)
            best.offer(points, oracle.judge(points))
        return best.points

    def _run(self, oracle: Oracle, restart: int, best: Incumbent | None) -> Tensor:
        """One run; offers to `best`, if given, every point at which a gradient is computed."""
        images = oracle.images
        step_size = 2 * self.epsilon / self.steps if self.step_size is None else self.step_size
        points = self._random_point(oracle, restart) if self.random_start or restart > 0 else images
        for step in range(self.steps):
            view, gradient = oracle.climb(points, restart * self.steps + step)
            if best is not None:
                best.offer(points, view)
            points = project(points + step_size * self._direction(gradient), images, self.epsilon, self.norm)
        return points

    def _direction(self, gradient: Tensor) -> Tensor:
        direction = self.direction or ("normalized" if self.norm == "l2" else "sign")
        return unit(gradient) if direction == "normalized" else gradient.sign()

    def _random_point(self, oracle: Oracle, restart: int) -> Tensor:
        """A uniform point in the ball, projected into the box."""
        images, randomness, draw = oracle.images, oracle.randomness, START_DRAW - 2 * restart
        if self.norm == "linf":
            delta = 2 * randomness.uniform(images, draw=draw)[0] - 1
        else:
            direction = unit(randomness.normal(images, draw=draw)[0])
            share = randomness.uniform(images.flatten(1)[:, 0], draw=draw - 1)[0]
            delta = direction * expand(share ** (1.0 / images[0].numel()), images)
        return project(images + self.epsilon * delta, images, self.epsilon, self.norm)


@dataclass(frozen=True, kw_only=True)
class FGSM(PGD):
    """One step to the edge of the ball (Goodfellow et al. 2015): the sign in linf, the gradient in l2.

    Args:
        norm: ``"l2"`` or ``"linf"``.
        epsilon: Radius of the ball, in pixel units, > 0.
        random_start: Start at a random point of the ball, rather than at the image.
        objective: See `Attack` and `PGD`, also for the other arguments.

    Raises:
        ValueError: If a value is out of its range.
    """

    steps: int = field(default=1, init=False)
    step_size: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "step_size", self.epsilon)
        super().__post_init__()

    def with_epsilon(self, epsilon: float) -> Self:
        """See `Attack.with_epsilon`; the step is as long as the budget."""
        return replace(self, epsilon=epsilon)

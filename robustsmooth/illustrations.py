"""The papers' figures that no network is trained for: HeatSmoothing Figure 5, SODM Figure 2."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from robustsmooth.losses import boundary_distance, heat_steps
from robustsmooth.report.figures.drawing import MOST_LINES, Drawing, line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["HeatLine", "RobustnessGradient", "robustness_gradient"]


class HeatLine:
    """HeatSmoothing on a line (paper's Figure 5): the iteration of eq. 15 moves decision boundaries away.

    The initial model is a step function with a narrow region of the other class beside `point`.

    Args:
        sigma: Standard deviation of the smoothing, in the line's units.
        time_steps: n_T; 8 in the figure.
        point: The data point that is watched, inside [-1, 1].
        boundaries: Where the initial model changes its answer, increasing.
    """

    def __init__(
        self,
        sigma: float = 0.05,
        time_steps: int = 8,
        point: float = -0.5,
        boundaries: Sequence[float] = (-0.4, -0.34, -0.15),
    ) -> None:
        if list(boundaries) != sorted(set(boundaries)) or not boundaries:
            raise ValueError(f"`boundaries` must be one or more increasing numbers, got {list(boundaries)}")
        self.sigma, self.time_steps, self.point, self.boundaries = sigma, time_steps, point, list(boundaries)

    def models(self) -> tuple[NDArray[np.float64], NDArray[np.float64], list[float]]:
        """The grid ``(N,)``, the models ``(time_steps + 1, N)``, the adversarial distance at each step."""
        grid = np.linspace(-1.5, 1.5, 1201)
        sign = 1.0 - 2.0 * (np.searchsorted(self.boundaries, grid) % 2)
        spacing = float(grid[1] - grid[0])
        steps = heat_steps(torch.from_numpy(sign), spacing, self.sigma, self.time_steps)
        distances = [boundary_distance(each, torch.from_numpy(grid), self.point) for each in steps]
        return grid, steps.numpy(), distances

    def drawing(self) -> Drawing:
        """The figure: the models over the line."""
        grid, models, distances = self.models()
        shown = sorted({0, 1, self.time_steps // 4, self.time_steps // 2, self.time_steps})[:MOST_LINES]

        def draw(axes: "Axes") -> None:
            for position, step in enumerate(shown):
                label = f"step {step}: distance {distances[step]:.2f}"
                axes.plot(grid, models[step], label=label, **line_style(position))
            axes.axhline(0, color="0.5", linewidth=0.8)
            axes.axvline(self.point, color="0.5", linewidth=0.8, linestyle=":")
            axes.set_xlabel("x (units of the line)")
            axes.set_ylabel("Model v(x), its sign the class (1)")

        note = (
            f"Distance from x = {self.point:g} (dotted) to the nearest change of class, sigma {self.sigma:g}."
        )
        return Drawing("heat_line", "HeatSmoothing on a line", note, draw)


def robustness_gradient(p: ArrayLike, threshold: float = 1.0, softmax: bool = False) -> NDArray[np.float64]:
    """The derivative of the radius per unit of sigma, Phi^-1(p), with SODM's two cures (eq. 10 to 12).

    Args:
        p: Probabilities of the top class in (0, 1).
        threshold: The paper's rho: no gradient above it.
        softmax: Whether the probability itself comes from a softmax: the factor p (1 - p) of eq. 11.

    Returns:
        ``sqrt(2 pi) exp(Phi^-1(p)^2 / 2)``, times ``p (1 - p)`` with the softmax, 0 above the threshold.
    """
    share = np.asarray(p, float)
    slope = np.sqrt(2 * np.pi) * np.exp(stats.norm.ppf(share) ** 2 / 2)
    slope = slope * share * (1 - share) if softmax else slope
    return np.where(share <= threshold, slope, 0.0)


class RobustnessGradient:
    """The gradient of the radius over the top class's probability (SODM, Figure 2 a, b, c).

    Args:
        threshold: The paper's rho.
    """

    def __init__(self, threshold: float = 0.99) -> None:
        if not 0.5 < threshold < 1:
            raise ValueError(f"`threshold` must be in (0.5, 1), got {threshold}")
        self.threshold = threshold

    def drawing(self) -> Drawing:
        """The figure: the three gradients on a logarithmic axis."""

        def draw(axes: "Axes") -> None:
            p = np.linspace(0.5, 0.9999, 2000)
            curves = {
                "(a) as it is": robustness_gradient(p),
                f"(b) with threshold {self.threshold:g}": robustness_gradient(p, self.threshold),
                "(c) with threshold and softmax": robustness_gradient(p, self.threshold, softmax=True),
            }
            for position, (label, values) in enumerate(curves.items()):
                axes.plot(p, np.where(values > 0, values, np.nan), label=label, **line_style(position))
            axes.set_yscale("log")
            axes.set_xlabel("Probability of the top class under noise")
            axes.set_ylabel("Gradient of the radius (units of sigma)")

        note = "Without the cures the gradient explodes where the classifier is sure already."
        return Drawing("robustness_gradient", "Gradient of the radius", note, draw)

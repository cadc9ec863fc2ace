"""The papers' figures that need no training: HeatSmoothing Figures 4 and 5, SODM Figures 1 and 2."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, stats
from scipy.spatial import cKDTree

from robustsmooth.losses import boundary_distance, heat_steps
from robustsmooth.report.figures.drawing import MOST_LINES, Drawing, line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class HeatLine:
    """HeatSmoothing on a line (paper's Figure 5): the iteration of eq. 15 moves decision boundaries away.

    The initial model is a step function with a narrow region of the other class beside `point`.

    Args:
        sigma: Standard deviation of the smoothing, in the line's units.
        time_steps: n_T; 8 in the figure.
        point: The data point whose distance is measured, inside [-1, 1].
        boundaries: Decision boundaries of the initial model, increasing.
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
        distances = [boundary_distance(step, torch.from_numpy(grid), self.point) for step in steps]
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
    """The derivative of the radius per unit of sigma, Phi^-1(p), with SODM's two remedies (eq. 10 to 12).

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

        note = "Without the remedies the gradient explodes where the classifier is already certain."
        return Drawing("robustness_gradient", "Gradient of the radius", note, draw)


class SmoothBoundary:
    """Gaussian smoothing in the plane (HeatSmoothing, Figure 4): an outlier changes its class.

    The original model gives every point the class of its nearest data point, so that its boundary surrounds a
    single point of one class among many of the other. The smoothed model is its Gaussian average,
    the solution of the heat equation at time 1 (the paper's eq. 6).

    Args:
        sigma: Standard deviation of the smoothing, in the plane's units, > 0.
        outlier: The position of the single point of the first class.
    """

    def __init__(self, sigma: float = 0.15, outlier: Sequence[float] = (0.5, 0.5)) -> None:
        if not sigma > 0 or len(outlier) != 2:
            raise ValueError(f"`sigma` must be > 0 and `outlier` two numbers, got {sigma} and {outlier}")
        self.sigma = sigma
        side = np.linspace(-0.9, 0.9, 7)
        places = np.array([(x, y) for x in side for y in side if abs(x + y) > 0.2])
        far = np.linalg.norm(places - np.asarray(outlier), axis=1) > 0.15
        self.points = np.vstack([places[far], [outlier]])
        """The data, ``(N, 2)``; the outlier is the last."""
        self.classes = np.append(np.where(places[far].sum(axis=1) > 0, 1.0, -1.0), -1.0)
        """Their classes, ``(N,)``: -1 (red circles) or 1 (blue stars)."""

    def models(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The grid's coordinates ``(M,)``, the original and the smoothed model ``(M, M)``, rows by y."""
        grid = np.linspace(-1.2, 1.2, 241)
        places = np.stack(np.meshgrid(grid, grid), axis=-1)
        original = self.classes[cKDTree(self.points).query(places)[1]]
        smoothed = ndimage.gaussian_filter(original, self.sigma / float(grid[1] - grid[0]), mode="nearest")
        return grid, original, smoothed

    def drawing(self) -> Drawing:
        """The figure: both boundaries and the data."""
        grid, original, smoothed = self.models()

        def draw(axes: "Axes") -> None:
            light, dark = line_style(0)["color"], line_style(1)["color"]
            axes.contour(grid, grid, original, levels=[0], colors=[light], linewidths=1)
            axes.contour(grid, grid, smoothed, levels=[0], colors=[dark], linewidths=2.5)
            for sign, marker, color in ((-1, "o", "tab:red"), (1, "*", "tab:blue")):
                chosen = self.points[self.classes == sign]
                axes.plot(chosen[:, 0], chosen[:, 1], marker, color=color, label=f"class {sign:+d}")
            axes.plot([], [], color=light, linewidth=1, label="boundary of the model")
            axes.plot([], [], color=dark, linewidth=2.5, label="boundary of its Gaussian average")
            axes.set_xlabel("x (units of the plane)")
            axes.set_ylabel("y (units of the plane)")
            axes.set_aspect("equal")

        note = f"The single circle among stars changes its class. Sigma {self.sigma:g}."
        return Drawing("smooth_boundary", "A smoother boundary", note, draw)


class PredictionProbability:
    """A larger mean prediction does not mean a larger probability (SODM, Figure 1).

    Two linear classifiers are applied to noisy copies of one image. Training on predictions raises the mean
    score of class A; the smoothed classifier is decided by the share of copies whose score is above one half.

    Args:
        first: Scores of class A under noise, of classifier (a), in [0, 1].
        second: Those of classifier (b).
    """

    def __init__(
        self,
        first: Sequence[float] = (0.56, 0.58, 0.6, 0.62, 0.64),
        second: Sequence[float] = (0.9, 0.9, 0.9, 0.9, 0.1),
    ) -> None:
        for name, scores in (("first", first), ("second", second)):
            if not len(scores) or min(scores) < 0 or max(scores) > 1:
                raise ValueError(f"`{name}` must be one or more scores in [0, 1], got {list(scores)}")
        self.scores = {"(a)": list(first), "(b)": list(second)}

    def averages(self) -> dict[str, tuple[float, float]]:
        """Mean prediction and probability of class A, by classifier."""
        return {
            name: (float(np.mean(scores)), float(np.mean(np.array(scores) > 0.5)))
            for name, scores in self.scores.items()
        }

    def drawing(self) -> Drawing:
        """The figure: the scores of the noisy copies of both."""

        def draw(axes: "Axes") -> None:
            for position, (name, (prediction, probability)) in enumerate(self.averages().items()):
                label = f"{name}: mean prediction {prediction:.2f}, probability {probability:.2f}"
                copies = range(1, 1 + len(self.scores[name]))
                axes.plot(copies, self.scores[name], marker="o", label=label, **line_style(position))
            axes.axhline(0.5, color="0.5", linewidth=0.8)
            axes.set_ylim(0, 1)
            axes.set_xlabel("Noisy copy of the image")
            axes.set_ylabel("Score of class A (softmax)")

        note = (
            "A copy votes for class A if its score is above one half: the votes decide, not the mean score."
        )
        return Drawing("prediction_probability", "Prediction and probability", note, draw)

"""The figures that need no trained network."""

import numpy as np
import pytest
from scipy import stats

from robustsmooth.illustrations import (
    HeatLine,
    PredictionProbability,
    RobustnessGradient,
    SmoothBoundary,
    robustness_gradient,
)


def test_the_gradient_is_the_derivative_of_the_radius():
    p, step = np.linspace(0.5, 0.995, 50), 1e-6
    numeric = (stats.norm.ppf(p + step) - stats.norm.ppf(p - step)) / (2 * step)
    assert robustness_gradient(p) == pytest.approx(numeric, rel=1e-4)


def test_with_softmax_it_is_the_derivative_in_the_logit():
    logit, step = np.linspace(0.0, 4.0, 50), 1e-6

    def radius(z):
        return stats.norm.ppf(1 / (1 + np.exp(-z)))

    numeric = (radius(logit + step) - radius(logit - step)) / (2 * step)
    assert robustness_gradient(1 / (1 + np.exp(-logit)), softmax=True) == pytest.approx(numeric, rel=1e-4)


def test_above_the_threshold_the_gradient_is_zero():
    assert robustness_gradient([0.98, 0.99, 0.995], threshold=0.99).tolist()[2] == 0.0
    assert robustness_gradient([0.99], threshold=0.99)[0] > 0


def test_heat_moves_the_boundary_away_as_the_paper_says():
    """About 0.10 in f^0 and 0.35 in f^5, in which the narrow region of the other class has vanished."""
    _, models, distances = HeatLine().models()
    assert len(models) == 9
    assert distances[0] == pytest.approx(0.10, abs=0.01)
    assert distances[5] == pytest.approx(0.35, abs=0.01)
    assert np.all(np.diff(distances[:6]) > -0.01)


def test_smoothing_flips_the_outlier_and_no_other_point():
    """HeatSmoothing, Figure 4."""
    figure = SmoothBoundary()
    grid, original, smoothed = figure.models()
    columns, rows = (np.abs(grid - figure.points[:, axis, None]).argmin(axis=1) for axis in (0, 1))
    assert np.array_equal(original[rows, columns], figure.classes)
    flipped = np.sign(smoothed[rows, columns]) != figure.classes
    assert flipped.tolist() == [False] * (len(figure.classes) - 1) + [True]


def test_the_larger_mean_prediction_has_the_smaller_probability():
    """SODM, Figure 1: 0.6 and 1 against 0.74 and 0.8."""
    averages = PredictionProbability().averages()
    assert averages["(a)"] == pytest.approx((0.6, 1.0))
    assert averages["(b)"] == pytest.approx((0.74, 0.8))


@pytest.mark.parametrize(
    "figure", [HeatLine(), RobustnessGradient(), SmoothBoundary(), PredictionProbability()]
)
def test_they_draw_themselves(figure):
    axes = figure.drawing().figure().axes[0]
    assert axes.get_title(loc="left")
    assert "(" in axes.get_ylabel()
    assert len(axes.get_lines()) >= 3


def test_bad_settings_are_one_sentence():
    with pytest.raises(ValueError, match="`boundaries` must be"):
        HeatLine(boundaries=[0.3, 0.1])
    with pytest.raises(ValueError, match="`threshold` must be"):
        RobustnessGradient(threshold=1.0)
    with pytest.raises(ValueError, match="`sigma` must be > 0"):
        SmoothBoundary(sigma=0.0)
    with pytest.raises(ValueError, match="`second` must be"):
        PredictionProbability(second=[1.2])

"""Distances, projections and directions, one number or one tensor per image."""

from typing import Literal

import torch
from torch import Tensor

Norm = Literal["l2", "linf"]

_SLACK = 1e-6
"""Relative width by which a projection stays inside the ball, so that rounding never leaves it."""


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one value per image, ``(B,)``, so that it multiplies ``(B, ...)``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def distance(perturbation: Tensor, norm: Norm) -> Tensor:
    """The norm of each image's perturbation.

    Args:
        perturbation: ``(B, ...)``, any floating dtype.
        norm: ``"l2"`` or ``"linf"``.

    Returns:
        ``(B,)`` float64: sums over many pixels keep their digits.
    """
    order = 2.0 if norm == "l2" else float("inf")
    flat = perturbation.flatten(1)
    return torch.linalg.vector_norm(flat, ord=order, dim=1, dtype=torch.float64)


def unit(gradient: Tensor) -> Tensor:
    """Each image's gradient at length one in l2; a zero gradient stays zero and never makes NaN."""
    # Divide by the largest entry first: the square of a very small gradient would be zero.
    largest = gradient.flatten(1).abs().amax(1)
    scaled = gradient / expand(torch.where(largest > 0, largest, torch.ones_like(largest)), gradient)
    return scaled / expand(distance(scaled, "l2").clamp_min(1.0).to(gradient.dtype), gradient)


def displace(images: Tensor, perturbation: Tensor) -> Tensor:
    """``images + perturbation`` in [0, 1], rounded towards the image.

    A sum rounded to nearest may lie further from the image than the perturbation is long, which for
    a perturbation on the sphere means outside the budget. Here no coordinate moves further than asked.

    Args:
        images: ``(B, ...)`` in [0, 1].
        perturbation: Of the same shape; of the images' dtype or a wider one.

    Returns:
        ``(B, ...)`` of the images' dtype, in [0, 1].
    """
    moved = (images + perturbation).to(images.dtype).clamp(0.0, 1.0)
    too_far = _subtract(moved, images).abs() > perturbation.abs()
    return torch.where(too_far, torch.nextafter(moved, images), moved)


def project(points: Tensor, images: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """The points moved into the box [0, 1] and into the ball of radius `epsilon` around the images.

    The box first, then the ball: the ball's centre lies in the box and both are convex, so shrinking
    or clipping the perturbation cannot leave the box again. Points that are inside already come back
    as they are, hence projecting twice is projecting once.

    Args:
        points: ``(B, ...)``, any floating dtype.
        images: The balls' centres, ``(B, ...)`` in [0, 1], of the same dtype.
        epsilon: Radius, > 0.
        norm: ``"l2"`` or ``"linf"``.

    Returns:
        ``(B, ...)`` of the same dtype, in [0, 1], at most `epsilon` away also after rounding.
    """
    points = points.clamp(0.0, 1.0)
    delta = _subtract(points, images)
    lengths = distance(delta, norm)
    limit = epsilon * (1.0 - _SLACK)
    if norm == "l2":
        shorter = delta * expand((limit / lengths.clamp_min(limit)).to(delta.dtype), delta)
    else:
        shorter = delta.clamp(-limit, limit)
    inside = expand(lengths <= epsilon * (1.0 - 0.5 * _SLACK), points)
    return torch.where(inside, points, displace(images, shorter))


def quantize(perturbation: Tensor, steps: int, limit: Tensor | float, norm: Norm) -> Tensor:
    """Round to multiples of ``1 / steps`` without leaving the budget.

    Added to an image on the grid (255 steps for eight bits), the result is on it too.

    Args:
        perturbation: ``(B, ...)``.
        steps: Steps of the grid per unit.
        limit: Budgets, ``(B,)`` or one for all, within which the perturbations lie.
        norm: Of the budget.

    Returns:
        The nearest multiples; rounded towards zero for an image where the nearest are too far.
    """
    scaled = perturbation * steps
    nearest = scaled.round() / steps
    over = expand(distance(nearest, norm) > limit, nearest)
    # A multiple that lies a rounding error below itself must not lose a whole step.
    return torch.where(over, (scaled * (1 + _SLACK)).trunc() / steps, nearest)


def _subtract(points: Tensor, images: Tensor) -> Tensor:
    """The difference, in float32 at least: in half precision it would be rounded a second time."""
    wide = torch.promote_types(points.dtype, torch.float32)
    return points.to(wide) - images.to(wide)

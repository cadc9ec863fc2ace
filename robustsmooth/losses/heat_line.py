"""HeatSmoothing on a line: the iteration of eq. 15 without a network (paper's Figure 5)."""

from typing import Literal

import torch
from torch import Tensor


def heat_steps(
    values: Tensor,
    spacing: float,
    sigma: float,
    time_steps: int,
    equation: Literal["15", "13"] = "15",
) -> Tensor:
    """Minimise the HeatSmoothing functional exactly, time step after time step, on a uniform grid.

    Each step solves for the minimiser of ``c |v - f|^2 + h sigma^2 / 2 |v'|^2``, h = 1 / `time_steps`,
    a tridiagonal linear system with mirrored ends. With c = 1 (eq. 13) the steps approach the Gaussian
    average with standard deviation sigma. The paper's eq. 15, and its loss (3), have c = 1/2: they
    approach the average with standard deviation sqrt(2) sigma.

    Args:
        values: The initial model on the grid, ``(N,)``, for example the score of one class minus 1/2.
        spacing: Distance of neighbouring grid points, positive.
        sigma: Standard deviation, in the grid's units.
        time_steps: The paper's n_T; 8 in Figure 5.
        equation: ``15`` as the method is trained, or ``13``, of which Theorem 2 speaks.

    Returns:
        ``(time_steps + 1, N)`` float64: the initial model and the model after every step.
    """
    if values.dim() != 1 or len(values) < 3:
        raise ValueError(
            f"`values` must be a line of at least 3 grid points, got shape {tuple(values.shape)}"
        )
    if spacing <= 0 or sigma < 0 or time_steps < 1:
        raise ValueError(
            "`spacing` must be positive, `sigma` not negative and `time_steps` at least 1, "
            f"got {spacing}, {sigma} and {time_steps}"
        )
    diffusion = sigma**2 / time_steps / (1.0 if equation == "15" else 2.0) / spacing**2
    size = len(values)
    laplacian = torch.diag(torch.ones(size - 1, dtype=torch.float64), 1)
    laplacian = laplacian + laplacian.T
    laplacian = laplacian - torch.diag(laplacian.sum(dim=1))
    system = torch.eye(size, dtype=torch.float64) - diffusion * laplacian
    factors = torch.linalg.lu_factor(system)
    models = [values.to(torch.float64)]
    for _ in range(time_steps):
        models.append(torch.linalg.lu_solve(*factors, models[-1].unsqueeze(1)).squeeze(1))
    return torch.stack(models)


def boundary_distance(values: Tensor, grid: Tensor, point: float) -> float:
    """Distance from `point` to the nearest change of sign of a model on a line.

    Args:
        values: The model on the grid, ``(N,)``; its sign is the predicted class.
        grid: The grid points, ``(N,)``, increasing.
        point: Where the adversary starts.

    Returns:
        The adversarial distance, the boundary placed by linear interpolation; infinity if there is none.
    """
    left, right = values[:-1], values[1:]
    changes = torch.sign(left) != torch.sign(right)
    if not changes.any():
        return float("inf")
    share = left[changes] / (left[changes] - right[changes])
    boundaries = grid[:-1][changes] + share * (grid[1:] - grid[:-1])[changes]
    return float((boundaries - point).abs().min())

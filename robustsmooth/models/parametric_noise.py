"""Noise of trained strength: PNI (He et al. 2019) and CPNI (Nemcovsky et al.)."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Scaling = Literal["std", "published", "absolute"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)


class ParametricNoise(nn.Module):
    r"""Adds Gaussian noise whose strength is trained.

    .. math:: v \mapsto v + a \, d \odot \xi_1 + b \, F \xi_2,
              \qquad \xi_1 \sim N(0, I_n), \; \xi_2 \sim N(0, I_r)

    so that the noise has the covariance :math:`a^2 D + b^2 F F^T` with :math:`D = diag(d^2)`. Rank
    r = 0 is PNI (He et al. 2019, eq. 4): white noise with one trained strength per layer, channel or
    element. Rank r > 0 is CPNI (Nemcovsky et al., section 4.4): coloured noise, D + L L^T. The
    factors a
    and b scale the strengths:

    ============== ================== ====== =======================================================
    ``scaling``    a                  b      who
    ============== ================== ====== =======================================================
    ``std``        std(v)             std(v) PNI: the strength is a share of the spread of v
    ``published``  sqrt(std(v))       1      the published code of CPNI
    ``absolute``   1                  1      the covariance as printed in the CPNI paper
    ============== ================== ====== =======================================================

    std(v) is taken over one sample (a weight is one sample), never over a batch of images, and is a
    constant for the gradient. The published code takes the spread of activations over the batch, so that an
    answer depends on the other images, and draws one activation noise for the batch; here every sample has
    its own. It also trains D itself, with a square root in the forward pass whose gradient at 0 is not
    finite; here d is trained, so a strength may become negative.

    Args:
        shape: Shape of one sample of v. With ``layer`` or ``channel`` and rank 0 only its length and its
            first entry matter, so that images of any size are possible.
        granularity: How many strengths d there are: one, one per entry of the first dimension, or one
            per element.
        rank: r, the number of columns of F; 0 for white noise.
        scale: Initial value of every d (the papers': .25).
        factor: Initial value of every entry of F (published code: .01).
        scaling: How the strengths are scaled, see above.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        granularity: Literal["layer", "channel", "element"] = "layer",
        rank: int = 0,
        scale: float = 0.25,
        factor: float = 0.01,
        scaling: Scaling = "std",
    ) -> None:
        super().__init__()
        if granularity not in ("layer", "channel", "element"):
            raise ValueError(f"`granularity` must be layer, channel or element, got {granularity!r}")
        if scaling not in SCALINGS:
            raise ValueError(f"`scaling` must be {', '.join(SCALINGS)}, got {scaling!r}")
        if rank < 0:
            raise ValueError(f"`rank` must be 0 (white noise) or more, got {rank}")
        self.granularity, self.rank, self.scaling = granularity, rank, scaling
        self.active = True
        self.ndim = len(shape)
        strengths = {
            "layer": [1] * self.ndim,
            "channel": [shape[0], *[1] * (self.ndim - 1)],
            "element": list(shape),
        }[granularity]
        self.scale = nn.Parameter(torch.full(strengths, float(scale)))
        if rank:
            self.factor = nn.Parameter(torch.full((*shape, rank), float(factor)))
        # Saved with the strengths, which have another meaning under another scaling.
        self.register_buffer("trained_scaling", torch.tensor(SCALINGS.index(scaling)))

    def forward(self, value: Tensor) -> Tensor:
        """Perturb one sample, ``shape``, or a batch of them, ``(B, *shape)``, each one separately."""
        if not self.active:
            return value
        white, colored = self._scales(value)
        noise = white * self.scale * torch.randn_like(value)
        if self.rank:
            batch = value.shape[: value.dim() - self.ndim]
            columns = self.factor.flatten(0, -2)
            draws = torch.randn((*batch, self.rank), dtype=columns.dtype, device=columns.device)
            noise = noise + colored * (draws @ columns.T).view(value.shape)
        return value + noise

    def _scales(self, value: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """The factors a and b of the class's formula."""
        if self.scaling == "absolute":
            return 1.0, 1.0
        dimensions = tuple(range(value.dim() - self.ndim, value.dim()))
        spread = value.detach().std(dimensions, correction=0, keepdim=True)
        return (spread, spread) if self.scaling == "std" else (spread.sqrt(), 1.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Keep the initial strengths if the loaded network had no such noise; refuse another scaling."""
        if not any(key.startswith(prefix) for key in state_dict):
            return
        trained = state_dict.get(f"{prefix}trained_scaling")
        if trained is not None and int(trained) != SCALINGS.index(self.scaling):
            raise ValueError(
                f"the noise {prefix.rstrip('.')} was trained with scaling={SCALINGS[int(trained)]}, but is "
                f"built with {self.scaling}: set model.noise_layers as in its training"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The text for `print`."""
        return f"granularity={self.granularity}, rank={self.rank}, scaling={self.scaling}"

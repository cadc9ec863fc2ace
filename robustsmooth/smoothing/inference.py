"""Smoothed inference: one answer from many noisy copies of an image (Nemcovsky et al., section 3).

Any trained network f becomes the classifier ``argmax_y sum_i V(f(x + eta_i))_y`` (eq. 10) by adding up
the votes V of M noisy copies. The votes are ballots: `HardVote` is the paper's prediction smoothing
(eq. 8), `SoftVote` its soft smoothing (eq. 9), and `RankVote` and `RunnerUpVote` its weighted ones.
With sigma = 0 the only noise is the network's own. No certificate is made here.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from robustsmooth.smoothing.addressing import Randomness, address
from robustsmooth.smoothing.ballots import Ballot

COPIES = 8
"""Number of noisy copies of an image that share one generator. Changing it changes the noise."""


def running_votes(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    sigma: float,
    samples: Sequence[int],
    ballots: Mapping[str, Ballot],
    randomness: Randomness,
    seed: int,
) -> dict[str, Tensor]:
    """Votes on each image after every number of noisy copies in `samples`, from one series of copies.

    The votes of 1024 copies contain those of 2, 4, 8... Copy number i of all images of the batch goes through
    the network in one pass, for which the global generator is seeded by (seed, i). A network that is random
    inside draws once per pass, so the votes on one image are independent, and noise on its weights is the
    same for every batch.

    Args:
        network: Maps images to logits, in eval mode.
        images: ``(B, C, H, W)`` in [0, 1].
        sigma: Noise level on the images, in pixel units; 0 for the network's own noise only.
        samples: Numbers of copies, ascending.
        ballots: How the logits of a copy become a vote, by name; all use the same copies.
        randomness: The source of the noise on the images.
        seed: Determines the network's own noise.

    Returns:
        For each ballot ``(len(samples), B, K)`` int64.

    Raises:
        ValueError: If `samples` is empty or does not ascend from at least 1, or `sigma` is negative.
    """
    counts = list(samples)
    if not counts or counts[0] < 1 or counts != sorted(set(counts)):
        raise ValueError(f"`samples` must be ascending counts of at least 1, got {counts}")
    if not sigma >= 0:
        raise ValueError(f"`sigma` must be at least 0, got {sigma}")
    series: dict[str, list[Tensor]] = {name: [] for name in ballots}
    totals: dict[str, Tensor] = {}
    noise = torch.empty(0)
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        for number in range(counts[-1]):
            if sigma > 0 and number % COPIES == 0:
                noise = sigma * randomness.normal(images, COPIES, draw=number // COPIES)
            torch.manual_seed(address(seed, "inference/network", number))
            logits = network(images if sigma == 0 else images + noise[number % COPIES])
            for name, ballot in ballots.items():
                votes = ballot(logits)
                totals[name] = totals[name] + votes if name in totals else votes
                if number + 1 in counts:
                    series[name].append(totals[name])
    return {name: torch.stack(item) for name, item in series.items()}


class SmoothedInference(nn.Module):
    """The vote of a trained network on M noisy copies, with the interface of a network.

    Args:
        network: Maps images in [0, 1] to logits; any trained network.
        ballot: How the logits of a copy become a vote.
        samples: M, the number of copies.
        sigma: Noise level on the images, in pixel units; 0 for the network's own noise only.
        seed: Addresses the network's own noise.

    Raises:
        ValueError: If `samples` is below 1 or `sigma` is negative.
    """

    def __init__(
        self, network: nn.Module, ballot: Ballot, samples: int, sigma: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"`samples` must be at least 1, got {samples}")
        if not sigma >= 0:
            raise ValueError(f"`sigma` must be at least 0, got {sigma}")
        self.network, self.ballot = network, ballot
        self.samples, self.sigma, self.seed = samples, sigma, seed

    def forward(self, images: Tensor, randomness: Randomness) -> Tensor:
        """Shares of the votes ``(B, K)`` float64, for images ``(B, C, H, W)``; no gradient."""
        votes = running_votes(
            self.network,
            images,
            sigma=self.sigma,
            samples=[self.samples],
            ballots={"vote": self.ballot},
            randomness=randomness,
            seed=self.seed,
        )["vote"][0].double()
        return votes / votes.sum(dim=1, keepdim=True)

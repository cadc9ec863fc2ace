"""Which images a rank visits, and in which order.

Lightning replaces a plain sampler by one that repeats examples to even out the ranks. It leaves a
`DistributedSampler` alone, which is why both samplers here are one.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Dataset, DistributedSampler

from robustsmooth.smoothing.addressing import generator


class UnrepeatedSampler(DistributedSampler[int]):
    """Distributes the examples over the ranks in turn, without repeating any.

    Ranks may hold different numbers of examples, so evaluation must not synchronise per batch.

    Args:
        dataset: The data.
        num_replicas: Number of ranks.
        rank: This rank, in [0, num_replicas).
        positions: The positions in `dataset` to visit; all of them by default.
    """

    def __init__(
        self,
        dataset: Dataset,
        num_replicas: int = 1,
        rank: int = 0,
        positions: Sequence[int] | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        everything = range(len(dataset)) if positions is None else positions  # type: ignore[arg-type]
        self.positions = list(everything)[rank::num_replicas]

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


class TrainingSampler(DistributedSampler[int]):
    """A fresh order in every epoch, addressed by (seed, epoch), cut into whole batches.

    The order is cut into batches of `batch_size` images, and each batch is then divided among the ranks. The
    images of a step are therefore the same on any number of ranks. Images that do not fill a batch are left
    out of this epoch.

    It yields draws, see `robustsmooth.data.tensors.Draws`: the position, plus the length of `dataset` for
    every time that the epoch drew it before.

    Args:
        dataset: The data.
        batch_size: Images per step, over all ranks; a multiple of `num_replicas`.
        seed: The run's seed.
        positions: The positions in `dataset` to draw from; all of them by default.
        extra: Further positions, of extra images. An epoch draws as many of them as there are `positions`, or
            all if there are fewer. Epochs that follow each other draw other ones: they divide one permutation
            among them, and the next permutation begins when the rest does not suffice for an epoch.
        num_replicas: Number of ranks.
        rank: This rank, in [0, num_replicas).
        epoch: The first epoch, after a resume.
        first_batch: How many batches of that epoch to skip, after a resume within an epoch; the count of a
            whole epoch belongs to the epoch before, and nothing is skipped.
        weights: Called at the beginning of every epoch, on all ranks; returns how often to draw each
            of `positions`, ``(len(positions),)``. The images of the epoch are then drawn with replacement,
            as many as without weights, and no extra ones. If it returns None, each image is used once.

    Raises:
        ValueError: If the ranks cannot share a batch evenly, or there is no whole batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int = 0,
        positions: Sequence[int] | None = None,
        extra: Sequence[int] = (),
        num_replicas: int = 1,
        rank: int = 0,
        epoch: int = 0,
        first_batch: int = 0,
        weights: Callable[[int], torch.Tensor | None] | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True)
        everything = range(len(dataset)) if positions is None else positions  # type: ignore[arg-type]
        self.positions = torch.as_tensor(list(everything), dtype=torch.int64)
        self.extra = torch.as_tensor(list(extra), dtype=torch.int64)
        self.images = len(self.positions) + min(len(self.positions), len(self.extra))
        """Images that an epoch draws from."""
        if batch_size % num_replicas:
            raise ValueError(
                f"`batch_size` is the batch over all devices and must be a multiple of their number "
                f"({num_replicas}), got {batch_size}"
            )
        if batch_size > self.images:
            raise ValueError(
                f"`batch_size` must be at most the number of training images ({self.images}), "
                f"got {batch_size}"
            )
        self.batch_size, self.seed = batch_size, seed
        self.epoch, self.first_batch = epoch, first_batch % (self.images // batch_size)
        self._resumed_epoch = epoch
        self.weights = weights

    def __iter__(self) -> Iterator[int]:
        order = self._order()
        batches = len(order) // self.batch_size
        steps = order[: batches * self.batch_size].view(batches, self.batch_size)
        skipped = self.first_batch if self.epoch == self._resumed_epoch else 0
        return iter(steps[skipped:, self.rank :: self.num_replicas].flatten().tolist())

    def _order(self) -> torch.Tensor:
        """The draws of the epoch, in the order in which they are visited."""
        source = generator(self.seed, "order", self.epoch)
        weights = None if self.weights is None else self.weights(self.epoch)
        if weights is None:
            positions = torch.cat([self.positions, self._extra()])
            return positions[torch.randperm(len(positions), generator=source)]
        # By inversion in float64: torch.multinomial takes at most 2^24 images and computes in float32.
        heights = weights.double().cumsum(0)
        drawn = torch.rand(self.images, dtype=torch.float64, generator=source) * heights[-1]
        last = int(weights.nonzero()[-1])  # by rounding, a draw may be behind the last one
        positions = self.positions[torch.searchsorted(heights, drawn, right=True).clamp(max=last)]
        return positions + len(self.dataset) * _repetitions(positions)  # type: ignore[arg-type]

    def _extra(self) -> torch.Tensor:
        """The extra positions of the epoch."""
        count = self.images - len(self.positions)
        if not count:
            return self.extra
        permutation, part = divmod(self.epoch, len(self.extra) // count)
        order = torch.randperm(len(self.extra), generator=generator(self.seed, "extra", permutation))
        return self.extra[order[part * count : (part + 1) * count]]

    def __len__(self) -> int:
        return self.images // self.batch_size * self.batch_size // self.num_replicas


def _repetitions(values: torch.Tensor) -> torch.Tensor:
    """How many equal values are before each one, ``(N,)`` int64."""
    ordered, places = values.sort(stable=True)
    before = torch.arange(len(values)) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(before).scatter_(0, places, before)

"""Every example exactly once, on any number of ranks."""

from collections.abc import Iterator, Sequence

from torch.utils.data import Dataset, DistributedSampler

__all__ = ["UnrepeatedSampler"]


class UnrepeatedSampler(DistributedSampler[int]):
    """Deals out the examples like cards, without repeating any to even out the ranks.

    Lightning replaces a plain sampler by one that repeats examples; it leaves a
    `DistributedSampler` alone, which is why this is one. Ranks may hold different numbers of
    examples, so evaluation must not synchronise per batch.

    Args:
        dataset: What is sampled from.
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

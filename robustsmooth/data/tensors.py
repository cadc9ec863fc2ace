"""A split of a data set, and those that are kept in memory."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from robustsmooth.data.batch import Batch


class Part(Protocol):
    """One split of a data set, such as `ImageTensors`: all labels, and images in batches."""

    labels: Tensor
    shape: tuple[int, int, int]

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Batch: ...

    def __getitems__(self, positions: Sequence[int]) -> Batch: ...


class ImageTensors:
    """A split in memory; a batch is one indexing operation, without work per image.

    Args:
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self.shape: tuple[int, int, int] = tuple(images.shape[1:])  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The images at `positions`; what PyTorch's loader calls for a whole batch."""
        indices = torch.as_tensor(positions, dtype=torch.int64)
        return Batch(self.images[indices], self.labels[indices], indices)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])


class JoinedParts:
    """Two parts joined: the positions of the second follow those of the first.

    Args:
        first: Keeps its positions.
        second: Images of the same shape.

    Raises:
        ValueError: If the shapes differ.
    """

    def __init__(self, first: Part, second: Part) -> None:
        if first.shape != second.shape:
            raise ValueError(
                f"`data.extra` must hold images of the data set's shape {first.shape}, got {second.shape}"
            )
        self.first, self.second, self.shape = first, second, first.shape
        self.labels = torch.cat([first.labels, second.labels])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The images at `positions`, in that order."""
        indices = torch.as_tensor(positions, dtype=torch.int64)
        beyond = indices >= len(self.first)
        images = torch.empty((len(indices), *self.shape), dtype=torch.uint8)
        for part, here, start in [(self.first, ~beyond, 0), (self.second, beyond, len(self.first))]:
            if here.any():
                images[here] = part.__getitems__((indices[here] - start).tolist()).images
        return Batch(images, self.labels[indices], indices)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

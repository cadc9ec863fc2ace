"""Data sets small enough to live in memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from robustsmooth.data.batch import Batch

__all__ = ["ImageTensors"]


class ImageTensors:
    """A split in memory, fetched a batch at a time: one gather, no work per image.

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

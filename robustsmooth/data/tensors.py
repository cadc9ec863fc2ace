"""A split of a data set, and those that are kept in memory."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from robustsmooth.data.batch import Batch

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


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
        images: ``(N, C, H, W)`` uint8, 0 to 255.
        labels: ``(N,)`` of an integer type; kept as int64.

    Raises:
        ValueError: If they are no such tensors, have unequal lengths, or no pixel of several images is
            above 1.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        _check_images(images)
        _check_labels(labels, len(images))
        self.images, self.labels = images, labels.to(torch.int64)
        self.shape: tuple[int, int, int] = tuple(images.shape[1:])  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The images at `positions`; what PyTorch's loader calls for a whole batch."""
        indices = torch.as_tensor(positions, dtype=torch.int64)
        return Batch(self.images[indices], self.labels[indices], indices)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(f"`images` must be a uint8 tensor (N, C, H, W), got {_described(images)}")
    if len(images) > 1 and images.max() <= 1:
        raise ValueError(
            "`images` must have pixels from 0 to 255, but none is above 1; multiply images in [0, 1] by 255 "
            "before they become uint8"
        )


def _check_labels(labels: Tensor, count: int) -> None:
    if not isinstance(labels, Tensor) or labels.dtype not in _INTEGERS or labels.ndim != 1:
        raise ValueError(f"`labels` must be an integer tensor (N,), got {_described(labels)}")
    if len(labels) != count:
        raise ValueError(
            f"`images` and `labels` must have equal lengths, got {count} images and {len(labels)} labels"
        )


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


class Draws:
    """The images that an epoch draws from a part, where it may draw an image several times.

    Draw ``position + n * len(part)`` is the image at `position` for the (n + 1)-th time. In a batch the draws
    are the indices, by which each is augmented on its own; `ImageDataModule` replaces them by those of the
    images before a method gets the batch.

    Args:
        part: The images.
    """

    def __init__(self, part: Part) -> None:
        self.part, self.labels, self.shape = part, part.labels, part.shape

    def __len__(self) -> int:
        return len(self.part)

    def __getitems__(self, draws: Sequence[int]) -> Batch:
        """The images of `draws`."""
        batch = self.part.__getitems__([draw % len(self) for draw in draws])
        return batch._replace(indices=torch.as_tensor(draws, dtype=torch.int64))

    def __getitem__(self, draw: int) -> Batch:
        return self.__getitems__([draw])


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

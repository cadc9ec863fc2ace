"""Extra training images without labels, or with pseudo-labels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustsmooth.data.batch import Batch
from robustsmooth.data.folders import image_paths, read_small_images
from robustsmooth.data.module import ImageDataModule
from robustsmooth.data.pickles import load_arrays
from robustsmooth.data.tensors import ImageTensors

UNLABELED = -1
"""The label of an image that has none."""


class _Extra(ABC):
    """Extra images as a part of the training data, read when they are first needed."""

    @cached_property
    @abstractmethod
    def _tensors(self) -> ImageTensors: ...

    @property
    def labels(self) -> Tensor:
        """``(N,)`` int64."""
        return self._tensors.labels

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return self._tensors.shape

    def __len__(self) -> int:
        return len(self._tensors)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """See `ImageTensors`."""
        return self._tensors.__getitems__(positions)

    def __getitem__(self, position: int) -> Batch:
        return self._tensors[position]


class WithoutLabels(_Extra):
    """The training images of a data set as extra images, without their labels.

    Args:
        data: The data set; without its validation images.
    """

    def __init__(self, data: ImageDataModule) -> None:
        self.data = data

    @cached_property
    def _tensors(self) -> ImageTensors:
        images = self.data.part("train").__getitems__(self.data.train_positions).images
        return ImageTensors(images, torch.full((len(images),), UNLABELED))


class UnlabeledImages(_Extra):
    """Extra images for self-training (Carmon et al. 2019), read into memory when they are first needed.

    These are recognised: a folder of images, an ``.npz`` with ``image`` and optionally ``label`` (Gowal et
    al. 2021), an ``.npy``, and a pickle with ``data`` and optionally ``extrapolated_targets`` (the 500 000
    pseudo-labelled tiny images of Carmon et al.). Arrays hold ``(N, H, W, C)`` uint8.

    Args:
        path: The folder or file.
        keep_labels: Use the pseudo-labels in the file; otherwise every label is `UNLABELED`, and the method
            labels the images itself.
        max: Take at most this many images, evenly spread.
        side: Sides of the images in a folder.
    """

    _IMAGES, _LABELS = ("data", "image", "images"), ("extrapolated_targets", "label", "labels")

    def __init__(self, path: str, keep_labels: bool = False, max: int | None = None, side: int = 32) -> None:
        if max is not None and max < 1:
            raise ValueError(f"`data.extra.max` must be at least 1, or null for no limit, got {max}")
        self.path, self.keep_labels, self.max, self.side = Path(path).expanduser(), keep_labels, max, side

    @cached_property
    def _tensors(self) -> ImageTensors:
        if not self.path.exists():
            raise FileNotFoundError(f"`{self.path}` does not exist; set data.extra.path to the extra images")
        images, labels = self._folder() if self.path.is_dir() else self._file()
        return ImageTensors(images, labels)

    def _spread(self, count: int) -> list[int]:
        kept = count if self.max is None else min(self.max, count)
        return [place * count // kept for place in range(kept)]

    def _folder(self) -> tuple[Tensor, Tensor]:
        if self.keep_labels:
            raise ValueError("`data.extra.keep_labels` needs a file with labels; a folder has none")
        paths = image_paths(self.path)
        if not paths:
            raise ValueError(f"`{self.path}` has no image")
        images = read_small_images(self.path, [paths[place] for place in self._spread(len(paths))], self.side)
        return images, torch.full((len(images),), UNLABELED)

    def _file(self) -> tuple[Tensor, Tensor]:
        if self.path.suffix in (".npz", ".npy"):
            try:
                with self.path.open("rb") as file:
                    loaded = np.load(file, allow_pickle=False)
                    content = {"data": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
            except PermissionError:
                raise
            except Exception as error:  # NumPy, zipfile and zlib have their own exceptions
                raise ValueError(f"`{self.path}` is damaged or not an array file; fetch it again") from error
        else:
            content = load_arrays(self.path)
        images = next((content[key] for key in self._IMAGES if key in content), None)
        if images is None or images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                f"`{self.path}` must hold (N, H, W, C) uint8 images as {' or '.join(self._IMAGES)}"
            )
        places = self._spread(len(images))
        tensor = torch.from_numpy(images[places]).permute(0, 3, 1, 2).contiguous()
        if not self.keep_labels:
            return tensor, torch.full((len(tensor),), UNLABELED)
        labels = next((content[key] for key in self._LABELS if key in content), None)
        if labels is None or len(labels) != len(images):
            raise ValueError(
                f"`{self.path}` does not have one label per image; set data.extra.keep_labels=false"
            )
        return tensor, torch.from_numpy(np.asarray(labels)[places].astype(np.int64))

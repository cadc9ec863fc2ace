"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017)."""

import gzip
import math
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from robustsmooth.data.module import DownloadedDataModule, Split
from robustsmooth.data.tensors import ImageTensors

_MOST_BYTES = 2**28


class MNISTDataModule(DownloadedDataModule):
    """60 000 training and 10 000 test images of 28x28 grey pixels in 10 classes.

    Args:
        root: A folder with the official files (``train-images-idx3-ubyte`` and its three companions,
            packed with gzip or not), or one that has them in ``MNIST/raw/`` as torchvision stores them.
        download: Fetch the files if they are missing.
        augmentation: Augmentation of training images; None for none.
        **settings: See `ImageDataModule`.
    """

    folder: ClassVar = "MNIST"
    class_labels: ClassVar = [str(digit) for digit in range(10)]

    def is_there(self) -> bool:
        """See `DownloadedDataModule.is_there`."""
        return self._find("train-images-idx3-ubyte") is not None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """See `ImageDataModule.image_shape`."""
        return (1, 28, 28)

    def names(self, split: Split) -> list[str]:
        """See `ImageDataModule.names`."""
        return list(self.class_labels)

    def load(self, split: Split) -> ImageTensors:
        """See `ImageDataModule.load`."""
        prefix = "train" if split == "train" else "t10k"
        images = self._read(f"{prefix}-images-idx3-ubyte", dimensions=3)[:, None]
        labels = self._read(f"{prefix}-labels-idx1-ubyte", dimensions=1).long()
        if len(images) != len(labels):
            raise ValueError(
                f"`{self.root}` holds {len(images)} {split} images and {len(labels)} labels; fetch the files "
                "again"
            )
        return ImageTensors(images, labels)

    def _find(self, name: str) -> Path | None:
        for place in (self.root / self.folder / "raw", self.root / "raw", self.root):
            for path in (place / name, place / f"{name}.gz"):
                if path.is_file():
                    return path
        return None

    def _read(self, name: str, dimensions: int) -> Tensor:
        path = self._find(name)
        if path is None:
            raise FileNotFoundError(
                f"`{self.root}` has no {name}, neither packed nor in {self.folder}/raw/; set data.root to "
                "the folder of the data, or data.download=true to fetch them"
            )
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            try:
                header = [int.from_bytes(file.read(4), signed=True) for _ in range(1 + dimensions)]
                shape, size = header[1:], math.prod(header[1:])
                if header[0] != 0x0800 + dimensions:  # type (bytes) and number of dimensions
                    raise ValueError(f"`{path}` is not a valid {name} file; fetch it again")
                if min(shape) < 0 or size > _MOST_BYTES:
                    raise ValueError(
                        f"`{path}` says that it holds {' x '.join(map(str, shape))} bytes, more than any "
                        f"file of {self.folder}; fetch it again"
                    )
                content = file.read(size + 1)  # a packed file may unpack to any size
            except (OSError, EOFError, zlib.error) as error:
                raise ValueError(f"`{path}` is damaged; fetch it again") from error
        if len(content) != size:
            raise ValueError(f"`{path}` is damaged; fetch it again")
        return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).reshape(shape).copy())


class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST: the files of MNIST's format, in ``FashionMNIST/raw/``."""

    folder: ClassVar = "FashionMNIST"
    class_labels: ClassVar = [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ]

"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009)."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from robustsmooth.data.folders import class_folders, read_small_split
from robustsmooth.data.module import DownloadedDataModule, Split
from robustsmooth.data.pickles import load_arrays
from robustsmooth.data.tensors import ImageTensors


class CIFAR10DataModule(DownloadedDataModule):
    """60 000 images of 32x32 pixels in 10 classes; 50 000 train and 10 000 test.

    Two layouts are recognised in `root`:

    * the official files, ``cifar-10-batches-py/`` (`root` may also be that folder), in the order of published
      logs;
    * class folders, ``train/<class>/*.png`` and ``test/<class>/*.png`` (or JPEG), sorted by class.

    Args:
        root: The folder of the data.
        download: Fetch the official files if the folder has neither layout.
        augmentation: Augmentation of training images; None for none.
        **settings: See `ImageDataModule`.
    """

    folder: ClassVar = "cifar-10-batches-py"
    files: ClassVar[dict[Split, list[str]]] = {
        "train": [f"data_batch_{number}" for number in range(1, 6)],
        "test": ["test_batch"],
    }
    meta: ClassVar = ("batches.meta", "label_names")
    labels_key: ClassVar = "labels"

    def is_there(self) -> bool:
        """See `DownloadedDataModule.is_there`: in either layout."""
        return self._official() is not None or self._has_class_folders()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """See `ImageDataModule.image_shape`."""
        return (3, 32, 32)

    def names(self, split: Split) -> list[str]:
        """See `ImageDataModule.names`."""
        official = self._official()
        if official is not None:
            file, key = self.meta
            content = load_arrays(official / file)
            if key not in content:
                raise ValueError(f"`{official / file}` is not a valid file of {self.folder}; fetch it again")
            return [str(name) for name in content[key]]
        if self._has_class_folders():
            return class_folders(self.root / split)
        raise FileNotFoundError(
            f"`{self.root}` holds neither {self.folder}/ nor train/ and test/ with a folder for each class; "
            "set data.root to the folder of the data, or data.download=true to fetch them"
        )

    def load(self, split: Split) -> ImageTensors:
        """See `ImageDataModule.load`."""
        official = self._official()
        if official is None:
            return read_small_split(self.root / split, side=32)
        batches = [self._batch(official / file) for file in self.files[split]]
        images, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        return ImageTensors(torch.from_numpy(images).view(-1, 3, 32, 32), torch.from_numpy(labels))

    def _official(self) -> Path | None:
        for place in (self.root / self.folder, self.root):
            if (place / self.meta[0]).is_file():
                return place
        return None

    def _has_class_folders(self) -> bool:
        return (self.root / "train").is_dir() or (self.root / "test").is_dir()

    def _batch(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        content = load_arrays(path)
        try:
            images, labels = content["data"], np.asarray(content[self.labels_key], dtype=np.int64)
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"`{path}` is not a valid file of {self.folder}; fetch it again") from error
        if getattr(images, "dtype", None) != np.uint8 or images.shape != (len(labels), 3 * 32 * 32):
            raise ValueError(f"`{path}` is not a valid file of {self.folder}; fetch it again")
        return images, labels


class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100: as CIFAR-10, with 100 (fine) classes, in ``cifar-100-python/`` or class folders."""

    folder: ClassVar = "cifar-100-python"
    files: ClassVar[dict[Split, list[str]]] = {"train": ["train"], "test": ["test"]}
    meta: ClassVar = ("meta", "fine_label_names")
    labels_key: ClassVar = "fine_labels"

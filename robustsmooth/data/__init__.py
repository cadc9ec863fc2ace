"""Data sets as LightningDataModules whose batches are images in [0, 1] with stable indices."""

from robustsmooth.data.augment import Augmentation, CropAndFlip
from robustsmooth.data.batch import Batch
from robustsmooth.data.digits import DigitsDataModule
from robustsmooth.data.module import ImageDataModule
from robustsmooth.data.sampler import TrainingSampler, UnrepeatedSampler
from robustsmooth.data.subset import Subset
from robustsmooth.data.tensors import ImageTensors

__all__ = [
    "Augmentation",
    "Batch",
    "CropAndFlip",
    "DigitsDataModule",
    "ImageDataModule",
    "ImageTensors",
    "Subset",
    "TrainingSampler",
    "UnrepeatedSampler",
]

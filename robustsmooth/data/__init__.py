"""Data sets as LightningDataModules whose batches are images in [0, 1] with stable indices."""

from robustsmooth.data.augment import Augmentation, CropAndFlip
from robustsmooth.data.batch import Batch
from robustsmooth.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from robustsmooth.data.digits import DigitsDataModule
from robustsmooth.data.imagefolder import ImageFiles, ImageFolderDataModule, RandomResizedCrop
from robustsmooth.data.mnist import FashionMNISTDataModule, MNISTDataModule
from robustsmooth.data.module import ImageDataModule, check_class_names
from robustsmooth.data.sampler import TrainingSampler, UnrepeatedSampler
from robustsmooth.data.subset import Subset
from robustsmooth.data.tensors import ImageTensors
from robustsmooth.data.unlabeled import UNLABELED, UnlabeledImages, WithoutLabels
from robustsmooth.data.votes import VoteTable

__all__ = [
    "UNLABELED",
    "Augmentation",
    "Batch",
    "CIFAR100DataModule",
    "CIFAR10DataModule",
    "CropAndFlip",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "ImageDataModule",
    "ImageFiles",
    "ImageFolderDataModule",
    "ImageTensors",
    "MNISTDataModule",
    "RandomResizedCrop",
    "Subset",
    "TrainingSampler",
    "UnlabeledImages",
    "VoteTable",
    "WithoutLabels",
    "UnrepeatedSampler",
    "check_class_names",
]

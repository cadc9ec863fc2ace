"""The data modules' common base: splits, loaders, and the way from stored pixels to [0, 1]."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from robustsmooth.data.augment import Augmentation, augmentation_key
from robustsmooth.data.batch import Batch
from robustsmooth.data.sampler import TrainingSampler, UnrepeatedSampler
from robustsmooth.data.subset import Subset, stratified_split

__all__ = ["ImageDataModule", "Part", "Split"]

Split = Literal["train", "test"]


class Part(Protocol):
    """One split of a data set: `ImageTensors`, or anything like it."""

    labels: Tensor

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Batch: ...

    def __getitems__(self, positions: Sequence[int]) -> Batch: ...


class ImageDataModule(pl.LightningDataModule):
    """Base of all data modules; a data set of its own defines `load`, and no more.

    A data set has two splits, ``train`` and ``test``. Validation images are held out of ``train``,
    stratified and always the same ones, so that no test image ever trains or selects. An image's index
    is its position in its split.

    Loaders hand out stored pixels (uint8). The conversion to floats in [0, 1], and the augmentation
    before it, happen in whole batches on the device.

    Args:
        num_classes: Number of classes, checked against the data; None to take it from the data.
        channels: Colour channels of the images, checked against the data.
        normalization: ``mean`` and ``std`` per channel, for networks that start with them; kept as an
            attribute only, images are not normalised here.
        batch_size: Images per training step, *over all devices*: a run is the same run on more of them.
        val_images: How many training images are held out for validation.
        subset: Which test images are evaluated; all of them by default.
        augmentation: What is done to training images, such as `CropAndFlip`; None for nothing.
        num_workers: Processes that load images. Sets in memory need none.
        seed: The run's seed, for order and augmentation.

    Attributes:
        class_names: The classes' names, in the order of the labels, after `prepare`.
        test_indices: Indices of the test images that are evaluated, after `prepare`.
    """

    class_names: list[str]
    test_indices: list[int]

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        channels: int = 3,
        normalization: Mapping[str, Sequence[float]] | None = None,
        batch_size: int = 256,
        val_images: int = 0,
        subset: Subset | None = None,
        augmentation: Augmentation | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"`num_workers` must be at least 0, got {num_workers}")
        self.channels, self.normalization = channels, normalization
        self.batch_size, self.val_images, self.num_workers, self.seed = (
            batch_size,
            val_images,
            num_workers,
            seed,
        )
        self.subset = subset or Subset()
        self.augmentation = augmentation
        self._num_classes = num_classes
        self._parts: dict[Split, Part] = {}

    @abstractmethod
    def load(self, split: Split) -> tuple[Part, list[str]]:
        """Open a split and name the classes.

        Raises:
            FileNotFoundError: If the data are not there; the message says where they should be.
            ValueError: If they are damaged; the message names the file.
        """

    def prepare(self) -> None:
        """Open the data and check them; done once, and cheap when repeated."""
        if self._parts:
            return
        train, names = self.load("train")
        test, test_names = self.load("test")
        if test_names != names:
            odd = sorted(set(names) ^ set(test_names))
            raise ValueError(f"the classes of the train and test splits differ: {', '.join(odd[:5])}")
        if self._num_classes not in (None, len(names)):
            raise ValueError(
                f"`num_classes` is {self._num_classes}, but the data have {len(names)} classes; correct it, "
                "or set data.num_classes=null to take it from the data"
            )
        self._num_classes, self.class_names = len(names), names
        self.train_positions, self.val_positions = stratified_split(train.labels, self.val_images)
        self.test_indices = self.subset.select(len(test))
        self._parts = {"train": train, "test": test}

    def setup(self, stage: str | None = None) -> None:
        """Lightning's hook; see `prepare`."""
        self.prepare()

    @property
    def num_classes(self) -> int:
        """Number of classes; opens the data if only they know."""
        if self._num_classes is None:
            self.prepare()
        assert self._num_classes is not None
        return self._num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of the images that networks see."""
        images = self._part("test")[0].images
        return tuple(images.shape[1:])  # type: ignore[return-value]

    def train_dataloader(self) -> DataLoader:
        """Training images in an order of their own in each epoch; goes on where a resumed run stopped."""
        rank, ranks = self._rank()
        epoch, first_batch = self._progress()
        part = self._part("train")
        sampler = TrainingSampler(
            part,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            seed=self.seed,
            positions=self.train_positions,
            num_replicas=ranks,
            rank=rank,
            epoch=epoch,
            first_batch=first_batch,
        )
        return self._loader(part, sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The held-out training images, each once over all ranks."""
        part = self._part("train")
        return self._evaluation_loader(part, self.val_positions) if self.val_positions else []

    def test_dataloader(self) -> DataLoader:
        """The chosen test images, each once over all ranks."""
        part = self._part("test")
        return self._evaluation_loader(part, self.test_indices)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment training images and convert all to floats in [0, 1], on the device."""
        trainer = self.trainer
        if trainer is not None and trainer.training:
            return self.convert(batch, epoch=trainer.current_epoch)
        return self.convert(batch)

    def convert(self, batch: Batch, epoch: int | None = None) -> Batch:
        """The batch as networks see it.

        Args:
            batch: As a loader yields it, images ``(B, C, H, W)`` uint8.
            epoch: Augment for this epoch; None for no augmentation.

        Returns:
            The batch with images float32 in [0, 1].
        """
        images = batch.images
        if epoch is not None and self.augmentation is not None:
            images = self.augmentation(images, batch.indices, augmentation_key(self.seed, epoch))
        return batch._replace(images=images.to(torch.float32).div_(255))

    def _part(self, split: Split) -> Part:
        self.prepare()
        return self._parts[split]

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _progress(self) -> tuple[int, int]:
        """The epoch that training is in, and how many of its batches are done."""
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
        return epochs.processed, batches.processed  # type: ignore[attr-defined]

    def _evaluation_loader(self, part: Part, positions: Sequence[int]) -> DataLoader:
        rank, ranks = self._rank()
        sampler = UnrepeatedSampler(part, num_replicas=ranks, rank=rank, positions=positions)  # type: ignore[arg-type]
        return self._loader(part, sampler, drop_last=False)

    def _loader(self, part: Part, sampler: Any, drop_last: bool) -> DataLoader:
        return DataLoader(
            part,  # type: ignore[arg-type]
            batch_size=max(1, self.batch_size // self._rank()[1]),
            sampler=sampler,
            drop_last=drop_last,
            collate_fn=_as_is,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )


def _as_is(batch: Any) -> Any:
    """The batch is complete when it is fetched (see `__getitems__`); nothing to collate."""
    return batch

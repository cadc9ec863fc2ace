"""The base of the data modules: splits, loaders, and the conversion of stored pixels to [0, 1]."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from robustsmooth.data.augment import Augmentation, augmentation_key
from robustsmooth.data.batch import Batch
from robustsmooth.data.sampler import TrainingSampler, UnrepeatedSampler
from robustsmooth.data.subset import Subset, stratified_split
from robustsmooth.data.tensors import Draws, JoinedParts, Part
from robustsmooth.processes import cores

Split = Literal["train", "test"]


class Settings(TypedDict, total=False):
    """What every data module takes; see `ImageDataModule`."""

    num_classes: int | None
    channels: int
    normalization: Mapping[str, Sequence[float]] | None
    batch_size: int
    val_images: int | float
    subset: Subset | None
    num_workers: int | None
    extra: Part | None
    seed: int


class ImageDataModule(pl.LightningDataModule, ABC):
    """Base of all data modules; a new data set defines `load` and `names` only.

    A data set has two splits, ``train`` and ``test``. Validation images are held out of ``train``,
    stratified and always the same ones, so that test images are never used for training or selection. The
    index of an image is its position in its split. A split is opened when it is first needed.

    Loaders yield stored pixels (uint8). The conversion to floats in [0, 1], and the augmentation
    before it, happen in whole batches on the device.

    Args:
        num_classes: Number of classes, checked against the data; None to take it from the data.
        channels: Colour channels of the images, checked against the data.
        normalization: ``mean`` and ``std`` per channel, for the networks' first layer. It is stored as an
            attribute only; images are not normalised here.
        batch_size: Images per training step, *over all devices*: a run does not depend on their number.
        val_images: How many training images are held out for validation, or what share of them.
        subset: Which images are evaluated; all of the test split by default.
        augmentation: Augmentation of training images, such as `CropAndFlip`; None for none.
        num_workers: Processes that load images; None for one per core. Data in memory need none.
        extra: More training images, such as `UnlabeledImages` for self-training. They are mixed into the
            training batches, in each epoch at most as many as there are training images, see
            `TrainingSampler`; their indices follow those of the training split.
        seed: The run's seed, for order and augmentation.
    """

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        channels: int = 3,
        normalization: Mapping[str, Sequence[float]] | None = None,
        batch_size: int = 256,
        val_images: int | float = 0,
        subset: Subset | None = None,
        augmentation: Augmentation | None = None,
        num_workers: int | None = 0,
        extra: Part | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer test images than devices
        if batch_size < 1:
            raise ValueError(f"`data.batch_size` must be at least 1, got {batch_size}")
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"`data.num_workers` must be at least 0, or null, got {num_workers}")
        self.channels, self.normalization = channels, normalization
        self.batch_size, self.val_images, self.seed = batch_size, val_images, seed
        self.num_workers = cores() if num_workers is None else num_workers
        self.subset = subset or Subset()
        self.augmentation, self.extra = augmentation, extra
        self.draw_weights: Callable[[int], torch.Tensor | None] | None = None
        """How often an epoch draws each training image, for methods that choose; see `TrainingSampler`."""
        self._num_classes = num_classes
        self._parts: dict[Split, Part] = {}

    # ------------------------------------------------------------------ what a data set says

    @abstractmethod
    def names(self, split: Split) -> list[str]:
        """The classes of a split, in the order of their labels.

        Raises:
            FileNotFoundError: If the data are missing; the message says where they should be.
        """

    @abstractmethod
    def load(self, split: Split) -> Part:
        """Open a split.

        Raises:
            FileNotFoundError: If the data are missing; the message says where they should be.
            ValueError: If they are damaged; the message names the file.
        """

    # ------------------------------------------------------------------ facts

    @cached_property
    def class_names(self) -> list[str]:
        """The names of the classes in the order of the labels; if both splits exist, they must agree.

        Raises:
            FileNotFoundError: If both splits are missing.
            ValueError: If the splits disagree, or `num_classes` and the data do.
        """
        found, missing = [], []
        splits: tuple[Split, Split] = ("train", "test")
        for split in splits:
            try:
                found.append(self.names(split))
            except FileNotFoundError as error:
                missing.append(error)
        if not found:
            raise missing[0]
        names = found[0]
        if names != found[-1]:
            odd = sorted(set(names) ^ set(found[-1]))
            raise ValueError(f"only one of the train and test splits has the classes {', '.join(odd[:5])}")
        if self._num_classes not in (None, len(names)):
            raise ValueError(
                f"`data.num_classes` is {self._num_classes}, but the data have {len(names)} classes; correct "
                "it, or set data.num_classes=null to take it from the data"
            )
        return names

    @property
    def num_classes(self) -> int:
        """Number of classes, from the data if it was not given."""
        return len(self.class_names) if self._num_classes is None else self._num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of the images in evaluation; for most data sets, known without opening them."""
        return self.part("test").shape

    @property
    def evaluated(self) -> Split:
        """The split of the evaluated images."""
        return "test" if self.subset.split == "test" else "train"

    @cached_property
    def test_indices(self) -> list[int]:
        """The images that are evaluated, as positions in their split."""
        if self.subset.split == "test":
            return self.subset.select(len(self.part("test")))
        if self.subset.split == "train":
            return [self.train_positions[at] for at in self.subset.select(len(self.train_positions))]
        if not self.val_positions:
            raise ValueError(
                "there are no validation images, data.val_images is 0; use data.subset.split=test"
            )
        return [self.val_positions[place] for place in self.subset.select(len(self.val_positions))]

    @cached_property
    def train_positions(self) -> list[int]:
        """The images of the training split that are trained on."""
        return self._split[0]

    @cached_property
    def val_positions(self) -> list[int]:
        """The images of the training split that are held out for validation."""
        return self._split[1]

    @cached_property
    def _split(self) -> tuple[list[int], list[int]]:
        return stratified_split(self.part("train").labels, self.val_images)

    def part(self, split: Split) -> Part:
        """A split, opened and checked on first use."""
        if split not in self._parts:
            self.names(split)  # raises with what is missing
            classes = len(self.class_names)
            part = self.load(split)
            if part.shape[0] != self.channels:
                raise ValueError(
                    f"`data.channels` is {self.channels}, but the images have {part.shape[0]} channels"
                )
            if (part.labels < 0).any():
                raise ValueError(
                    f"the {split} split has the label {int(part.labels.min())}; labels must be at least 0"
                )
            counts = torch.bincount(part.labels, minlength=classes)
            if len(counts) > classes:
                raise ValueError(
                    f"the {split} split has labels up to {len(counts) - 1}, for {classes} classes"
                )
            if not counts.all():
                empty = [self.class_names[label] for label in (counts == 0).nonzero().flatten().tolist()]
                raise ValueError(f"the {split} split has no image of the classes {', '.join(empty[:5])}")
            self._parts[split] = part
        return self._parts[split]

    # ------------------------------------------------------------------ Lightning

    def setup(self, stage: str | None = None) -> None:
        """Open the splits that a stage needs."""
        if stage in (None, "fit", "validate"):
            self.part("train")
        if stage in (None, "test", "predict"):
            self.part(self.evaluated)

    def train_dataloader(self) -> DataLoader:
        """Training images, in another order in each epoch; continues where a resumed run stopped."""
        rank, ranks = self._rank()
        epoch, first_batch = self._progress()
        part = self.part("train")
        labelled = len(part)
        if self.extra is not None:
            part = JoinedParts(part, self.extra)
        sampler = TrainingSampler(
            part,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            seed=self.seed,
            positions=self.train_positions,
            extra=range(labelled, len(part)),
            num_replicas=ranks,
            rank=rank,
            epoch=epoch,
            first_batch=first_batch,
            weights=self.draw_weights,
        )
        return self._loader(self.training_view(part, sampler), sampler, drop_last=True)

    def training_view(self, part: Part, sampler: TrainingSampler) -> Part:
        """The training images as the loader reads them, by draws; override it to augment single images."""
        return Draws(part)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The held-out training images, each once over all ranks."""
        return self._evaluation_loader("train", self.val_positions) if self.val_images else []

    def test_dataloader(self) -> DataLoader:
        """The images that are evaluated, each once over all ranks."""
        return self._evaluation_loader(self.evaluated, self.test_indices)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment training images and convert all to floats in [0, 1], on the device."""
        trainer = self.trainer
        if trainer is None or not trainer.training:
            return self.convert(batch)
        batch = self.convert(batch, epoch=trainer.current_epoch)
        images = len(self.part("train")) + len(self.extra or ())
        return batch._replace(indices=batch.indices % images)  # of the draws

    def convert(self, batch: Batch, epoch: int | None = None) -> Batch:
        """The batch as networks get it.

        Args:
            batch: As a loader yields it, images ``(B, C, H, W)`` uint8.
            epoch: Augment for this epoch; None for no augmentation.

        Returns:
            The batch with images float32 in [0, 1].
        """
        images = batch.images
        if images.dtype != torch.uint8:
            raise TypeError(f"a data set must hold stored pixels as uint8, got {images.dtype}; see `load`")
        if epoch is not None and self.augmentation is not None:
            images = self.augmentation(images, batch.indices, augmentation_key(self.seed, epoch))
        return batch._replace(images=images.to(torch.float32).div_(255))

    def sample(self, count: int, split: Literal["val", "test"] = "test") -> Batch:
        """Some images as networks get them, evenly spread over those that are evaluated.

        Args:
            count: How many; fewer if there are fewer images.
            split: ``val`` or ``test``.
        """
        self.prepare_data()  # may be called before Lightning does it
        if split == "val":
            part, places = self.part("train"), self.val_positions or self.train_positions
        else:
            part, places = self.part(self.evaluated), self.test_indices
        count = min(count, len(places))
        return self.convert(part.__getitems__([places[at * len(places) // count] for at in range(count)]))

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _progress(self) -> tuple[int, int]:
        """The epoch that training is in, and how many of its batches are done."""
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
        within = epochs.processed == epochs.completed  # type: ignore[attr-defined]
        return epochs.processed, batches.processed if within else 0  # type: ignore[attr-defined]

    def _evaluation_loader(self, split: Split, positions: Sequence[int]) -> DataLoader:
        rank, ranks = self._rank()
        part = self.part(split)
        sampler = UnrepeatedSampler(part, num_replicas=ranks, rank=rank, positions=positions)  # type: ignore[arg-type]
        if positions and not len(sampler):  # every rank needs a batch: collective operations wait for all
            return DataLoader(part, batch_sampler=[[]], collate_fn=_as_is)  # type: ignore[arg-type]
        return self._loader(part, sampler, drop_last=False)

    def _loader(
        self, part: Part, sampler: TrainingSampler | UnrepeatedSampler, drop_last: bool
    ) -> DataLoader:
        return _ResumableLoader(
            part,  # type: ignore[arg-type]
            batch_size=max(1, self.batch_size // self._rank()[1]),
            sampler=sampler,
            drop_last=drop_last,
            collate_fn=_as_is,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )


def check_class_names(then: Sequence[str], now: Sequence[str], trained: str, where: str) -> None:
    """Refuse classes with other names, or in another order, than those of a training.

    Names that are just the labels, such as 000, 001, ..., are no names. The number of classes is checked with
    the weights.

    Args:
        then: The names of the training, in the order of the labels; empty if they are not known.
        now: Those of the data, or of another training.
        trained: Which training, for the message.
        where: Where `now` comes from, for the message.

    Raises:
        ValueError: If they differ.
    """
    if set(then) != set(now) and (_are_labels(then) or _are_labels(now)):
        return
    for label, (old, new) in enumerate(zip(then, now, strict=False)):
        if old != new:
            raise ValueError(
                f"the class with label {label} is {old!r} in the training of `{trained}`, but {new!r} in "
                f"{where}"
            )


def _are_labels(names: Sequence[str]) -> bool:
    return all(name.isdecimal() and int(name) == label for label, name in enumerate(names))


class DownloadedDataModule(ImageDataModule):
    """Base of the data sets that torchvision can download.

    Args:
        root: The folder of the data.
        download: Fetch the files if they are missing.
        augmentation: Augmentation of training images; None for none.
        **settings: See `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        *,
        download: bool = False,
        augmentation: Augmentation | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(augmentation=augmentation, **settings)
        self.root, self.download = Path(root).expanduser(), download

    @abstractmethod
    def is_there(self) -> bool:
        """Whether the folder holds the data."""

    def prepare_data(self) -> None:
        """Lightning's hook, called by one process: download if wanted."""
        if self.download and not self.is_there():
            from torchvision import datasets

            getattr(datasets, type(self).__name__.removesuffix("DataModule"))(str(self.root), download=True)


class _ResumableLoader(DataLoader):
    """Tells Lightning that a resumed epoch continues where it stopped, which `TrainingSampler` does."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def _as_is(batch: Any) -> Any:
    """The batch is complete when it is fetched (see `__getitems__`); nothing to collate."""
    return batch

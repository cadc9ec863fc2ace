"""Large images in class folders, decoded by worker processes: ImageNet and similar data sets."""

import json
import math
import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustsmooth.data.augment import Augmentation
from robustsmooth.data.batch import Batch
from robustsmooth.data.folders import class_folders, labelled_paths, read_image
from robustsmooth.data.module import ImageDataModule, Part, Settings, Split
from robustsmooth.data.sampler import TrainingSampler
from robustsmooth.data.tensors import JoinedParts
from robustsmooth.smoothing.addressing import address, generator


def resize_and_crop(image: Image.Image, resize: int, crop: int) -> Image.Image:
    """Scale the shorter side to `resize` pixels (bilinear) and cut `crop` x `crop` from the centre."""
    width, height = image.size
    shorter = min(width, height)
    image = image.resize((resize * width // shorter, resize * height // shorter), Image.Resampling.BILINEAR)
    left, top = round((image.width - crop) / 2), round((image.height - crop) / 2)
    return image.crop((left, top, left + crop, top + crop))


class RandomResizedCrop:
    """A random part of the image, scaled to one size; half of them mirrored (Szegedy et al. 2015).

    Args:
        size: Pixels of the result's sides.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest ratio of width to height.
        flip: Whether to mirror left and right with probability one half.
    """

    def __init__(
        self,
        size: int = 224,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: bool = True,
    ) -> None:
        if size < 1:
            raise ValueError(f"`size` must be at least 1, got {size}")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"`scale` must be two rising shares in (0, 1], got {list(scale)}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"`ratio` must be two rising positive numbers, got {list(ratio)}")
        self.size, self.scale, self.ratio, self.flip = size, tuple(scale), tuple(ratio), flip

    def __call__(self, image: Image.Image, source: random.Random) -> Image.Image:
        """Change an image with random numbers from `source`."""
        box = self._box(*image.size, source)
        image = image.crop(box).resize((self.size, self.size), Image.Resampling.BILINEAR)
        if self.flip and source.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image

    def _box(self, width: int, height: int, source: random.Random) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * source.uniform(*self.scale)
            ratio = math.exp(source.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = source.randint(0, width - w), source.randint(0, height - h)
                return left, top, left + w, top + h
        # For a very long image, the largest part of its centre that the ratio allows.
        w = min(width, round(height * self.ratio[1]))
        h = min(height, round(width / self.ratio[0]))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


class ImageFiles:
    """A split on disk: a fetch decodes and transforms the files of a batch.

    Args:
        folder: The split's folder.
        paths: The files, relative to `folder`.
        labels: ``(N,)`` int64.
        size: Sides of the transformed images.
        transform: Makes a ``size`` x ``size`` image of an image.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[str] | np.ndarray,
        labels: Tensor,
        size: int,
        transform: Callable[[Image.Image], Image.Image],
    ) -> None:
        self.folder, self.labels, self.transform = folder, labels, transform
        # One array instead of a million strings, so that worker processes share it without copying.
        self.paths = (
            paths if isinstance(paths, np.ndarray) else np.array([os.fsencode(path) for path in paths])
        )
        self.shape = (3, size, size)

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, position: int) -> Path:
        """The file of an image."""
        return self.folder / os.fsdecode(self.paths[position].item())

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The images at `positions`; what PyTorch's loader calls for a whole batch."""
        _, height, width = self.shape
        pixels = np.empty((len(positions), height, width, 3), dtype=np.uint8)
        for place, position in enumerate(positions):
            pixels[place] = np.asarray(self.transform(read_image(self.path(position))))
        indices = torch.as_tensor(positions, dtype=torch.int64)
        return Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), self.labels[indices], indices)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])


class _Augmented:
    """Training images that are augmented when they are read, addressed by (seed, epoch, draw); see `Draws`.

    Args:
        part: The images: of `ImageFiles`, in memory, or both.
        change: The augmentation.
        seed: The run's seed.
        sampler: Knows the epoch.
    """

    def __init__(self, part: Part, change: RandomResizedCrop, seed: int, sampler: TrainingSampler) -> None:
        self.part, self.change, self.seed, self.sampler = part, change, seed, sampler
        self.labels, self.shape = part.labels, (3, change.size, change.size)

    def __len__(self) -> int:
        return len(self.part)

    def __getitems__(self, draws: Sequence[int]) -> Batch:
        """The images of `draws`."""
        indices = torch.as_tensor(draws, dtype=torch.int64)
        pixels = np.stack([np.asarray(self._changed(draw)) for draw in draws])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        return Batch(images, self.labels[indices % len(self)], indices)

    def __getitem__(self, draw: int) -> Batch:
        return self.__getitems__([draw])

    def _changed(self, draw: int) -> Image.Image:
        source = random.Random(address(self.seed, "augmentation", self.sampler.epoch, draw))
        return self.change(_picture(self.part, draw % len(self)), source)


def _picture(part: Part, position: int) -> Image.Image:
    """An image as it is stored."""
    if isinstance(part, JoinedParts):
        beyond = position - len(part.first)
        return _picture(part.first, position) if beyond < 0 else _picture(part.second, beyond)
    if isinstance(part, ImageFiles):
        return read_image(part.path(position))
    return Image.fromarray(part[position].images[0].permute(1, 2, 0).numpy())


class ImageFolderDataModule(ImageDataModule):
    """Images in class folders, ``<root>/<split>/<class>/<image>``.

    Labels and indices are those of torchvision's ImageFolder: classes and files in sorted order.
    Test images are scaled and cut from the centre; training images are augmented in the workers.

    Args:
        root: The folder of the splits.
        train_folder: The training split's folder in `root`.
        test_folder: The test split's folder in `root`; ``val`` for ImageNet, whose test labels are not
            public.
        classes: Which classes to keep: None for all, a number of classes to choose at random, or names. The
            kept names are written to ``classes.json`` in the run folder.
        class_seed: The seed of that choice, independent of the run's seed.
        test_crop: Sides of the test images.
        test_resize: Length to which the shorter side is scaled before; the usual 256/224 of `test_crop` if
            None.
        augmentation: Augmentation of training images: `RandomResizedCrop` of the stored images, or
            `CropAndFlip` of images that are scaled and cut like test images; None for none.
        **settings: See `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        *,
        train_folder: str = "train",
        test_folder: str = "val",
        classes: int | Sequence[str] | None = None,
        class_seed: int = 0,
        test_crop: int = 224,
        test_resize: int | None = None,
        augmentation: RandomResizedCrop | Augmentation | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        stored: RandomResizedCrop | None = None
        if isinstance(augmentation, RandomResizedCrop):
            stored, augmentation = augmentation, None
        super().__init__(augmentation=augmentation, **settings)
        self.root = Path(root).expanduser()
        self.folders: dict[Split, str] = {"train": train_folder, "test": test_folder}
        self.classes, self.class_seed = classes, class_seed
        self.test_crop = test_crop
        self.test_resize = round(test_crop * 256 / 224) if test_resize is None else test_resize
        if not 1 <= self.test_crop <= self.test_resize:
            raise ValueError(
                f"`data.test_crop` must be in [1, {self.test_resize}], the length that the shorter side is "
                f"scaled to (data.test_resize), got {test_crop}"
            )
        self.file_augmentation = stored

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """See `ImageDataModule.image_shape`."""
        return (3, self.test_crop, self.test_crop)

    def names(self, split: Split) -> list[str]:
        """See `ImageDataModule.names`."""
        names = class_folders(self.root / self.folders[split])
        if self.classes is None:
            return names
        train = self.root / self.folders["train"]
        wanted = self._wanted(class_folders(train) if train.is_dir() else names)
        return [name for name in names if name in wanted]

    def load(self, split: Split) -> ImageFiles:
        """See `ImageDataModule.load`."""
        folder = self.root / self.folders[split]
        paths, labels = labelled_paths(folder, self.class_names)
        transform = partial(resize_and_crop, resize=self.test_resize, crop=self.test_crop)
        return ImageFiles(folder, paths, labels, self.test_crop, transform)

    def setup(self, stage: str | None = None) -> None:
        """Open the splits that a stage needs, and save the list of classes with the run."""
        super().setup(stage)
        if self.trainer is not None and self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "classes.json").write_text(
                json.dumps(self.class_names, indent=0) + "\n", encoding="utf-8"
            )

    def training_view(self, part: Part, sampler: TrainingSampler) -> Part:
        """The training images as the loader reads them: augmented in the workers, extra ones too."""
        if self.file_augmentation is None:
            return super().training_view(part, sampler)
        return _Augmented(part, self.file_augmentation, self.seed, sampler)

    def _wanted(self, names: Sequence[str]) -> set[str]:
        if isinstance(self.classes, int):
            if not 1 <= self.classes <= len(names):
                raise ValueError(
                    f"`data.classes` must be in [1, {len(names)}], the classes of `{self.root}`, "
                    f"got {self.classes}"
                )
            order = torch.randperm(len(names), generator=generator(self.class_seed, "classes"))
            return {names[place] for place in order[: self.classes].tolist()}
        assert self.classes is not None
        unknown = sorted(set(self.classes) - set(names))
        if unknown:
            raise ValueError(
                f"`data.classes` names {unknown[0]!r}, which is not a class folder in `{self.root}`"
            )
        return set(self.classes)

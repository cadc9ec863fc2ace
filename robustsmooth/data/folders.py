"""Images in class folders: ``<split>/<class>/<image>``, as torchvision's ImageFolder reads them."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustsmooth.data.tensors import ImageTensors

_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class UnreadableImageError(ValueError):
    """An image file cannot be decoded to 8 bits; the message names it.

    A loader that re-raises the error of its worker process puts the worker's whole traceback into the
    message, and its last line is the message we want.

    Args:
        message: One sentence, or a traceback that ends with it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


def read_image(path: Path | str) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        UnreadableImageError: If it is missing, truncated or not an image, or has more than 8 bits per
            channel in a mode that Pillow would clip at 255.
    """
    try:
        with Image.open(path) as image:
            mode, converted = image.mode, image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"`{path}` cannot be read as an image; replace it or remove it") from error
    if mode.startswith(("I", "F")):  # I, I;16, I;16B..., F
        raise UnreadableImageError(
            f"`{path}` has more than 8 bits per channel (Pillow's mode {mode}); convert it to 8 bits"
        )
    return converted


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders, sorted; the position of a class is its label.

    Raises:
        FileNotFoundError: If the folder is missing or has no class folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`{folder}` does not exist; set data.root to the folder that holds the splits, each with one "
            "folder of images for each class"
        )
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    if not names:
        raise FileNotFoundError(
            f"`{folder}` has no class folders; it must hold one folder of images for each class"
        )
    return names


def image_paths(folder: Path) -> list[str]:
    """All image files below a folder, relative to it, in torchvision's order."""
    found = []
    for place, _, files in sorted(os.walk(folder, followlinks=True)):
        inside = Path(place).relative_to(folder)
        found += [str(inside / file) for file in sorted(files) if _is_image(file)]
    return found


def _is_image(file: str) -> bool:
    return file.lower().endswith(_SUFFIXES) and not file.startswith(".")


def labelled_paths(folder: Path, names: Sequence[str]) -> tuple[list[str], Tensor]:
    """The images of the classes `names`, relative to `folder`, with their labels ``(N,)``.

    Raises:
        ValueError: If a class has no image.
    """
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = image_paths(folder / name)
        if not files:
            raise ValueError(f"the class folder `{folder / name}` has no image; fill it or remove it")
        paths += [f"{name}/{file}" for file in files]
        labels += [label] * len(files)
    return paths, torch.tensor(labels, dtype=torch.int64)


def read_small_images(folder: Path, paths: Sequence[str], side: int) -> Tensor:
    """Decode files into memory, ``(N, 3, side, side)`` uint8.

    Raises:
        UnreadableImageError: If a file cannot be decoded.
        ValueError: If an image has another size.
    """
    pixels = np.empty((len(paths), side, side, 3), dtype=np.uint8)
    for place, path in enumerate(paths):
        image = read_image(folder / path)
        if image.size != (side, side):
            raise ValueError(
                f"`{folder / path}` has {image.width}x{image.height} pixels, it must have {side}x{side}; "
                "data=imagefolder takes images of any size"
            )
        pixels[place] = np.asarray(image)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def read_small_split(folder: Path, side: int) -> ImageTensors:
    """A split of class folders with small images, into memory; see `read_small_images` for the errors."""
    paths, labels = labelled_paths(folder, class_folders(folder))
    return ImageTensors(read_small_images(folder, paths, side), labels)

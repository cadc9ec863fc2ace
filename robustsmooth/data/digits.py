"""The digits that come with scikit-learn: real images with nothing to download."""

import torch

from robustsmooth.data.module import ImageDataModule, Split
from robustsmooth.data.tensors import ImageTensors


class DigitsDataModule(ImageDataModule):
    """1797 handwritten digits, 8x8 pixels, 10 classes (UCI, Alpaydin and Kaynak 1998).

    They have no official split. Here, of the images of each class in file order, every fifth is a test
    image (364 in all) and the others are training images (1433), some of which are held out for validation.
    The stored grey values 0...16 become round(255 v / 16), so that images lie on the usual 8-bit grid.

    See `ImageDataModule` for the arguments.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """See `ImageDataModule.image_shape`."""
        return (1, 8, 8)

    def names(self, split: Split) -> list[str]:
        """See `ImageDataModule.names`."""
        return [str(digit) for digit in range(10)]

    def load(self, split: Split) -> ImageTensors:
        """See `ImageDataModule.load`."""
        from sklearn.datasets import load_digits

        bundle = load_digits()
        labels = torch.from_numpy(bundle.target).long()
        images = (torch.from_numpy(bundle.images) * 255 / 16).round().to(torch.uint8)[:, None]
        place_in_class = torch.zeros_like(labels)
        for digit in range(10):
            members = (labels == digit).nonzero().flatten()
            place_in_class[members] = torch.arange(len(members))
        chosen = (place_in_class % 5 == 0) == (split == "test")
        return ImageTensors(images[chosen], labels[chosen])

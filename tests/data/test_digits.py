"""The embedded digits."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from robustsmooth.data import DigitsDataModule


def test_the_split_is_the_documented_one():
    data = DigitsDataModule(num_classes=10, channels=1, val_images=180)
    sizes = (len(data.train_positions), len(data.val_positions), len(data.test_indices))
    assert sizes == (1253, 180, 364)
    bundle = load_digits()
    expected = [
        row
        for row in range(1797)
        if (bundle.target[:row] == bundle.target[row]).sum() % 5 == 0  # every fifth of its class
    ]
    test = data.part("test")
    assert np.array_equal(test.labels.numpy(), bundle.target[expected])
    grey = bundle.images[expected]
    assert np.array_equal(test.images[:, 0].numpy(), np.floor(grey * 255 / 16 + 0.5).astype(np.uint8))


def test_no_image_is_in_two_splits():
    """All 1797 images are used, and no test image is also in the training split."""
    data = DigitsDataModule(num_classes=10, channels=1)
    train, test = data.part("train"), data.part("test")
    assert len(train) + len(test) == 1797
    everything = torch.cat([train.images, test.images]).flatten(1)
    unique = torch.unique(everything, dim=0)
    overlap = {row.tobytes() for row in train.images.numpy()} & {row.tobytes() for row in test.images.numpy()}
    assert len(unique) == 1797
    assert not overlap


def test_normalization_of_the_config(compose):
    cfg = compose("train", "data=digits")
    data = DigitsDataModule(num_classes=10, channels=1, val_images=180)
    images = data.part("train").images[data.train_positions].double() / 255
    assert abs(images.mean().item() - cfg.data.normalization.mean[0]) < 1e-4
    assert abs(images.std().item() - cfg.data.normalization.std[0]) < 1e-4

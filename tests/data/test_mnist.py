"""MNIST's file format, compressed or not, in torchvision's folder or in any other."""

import gzip

import numpy as np
import pytest

from robustsmooth.data import FashionMNISTDataModule, MNISTDataModule


def write_all(write_idx, folder, suffix, count=20):
    source = np.random.default_rng(0)
    content = {}
    for prefix in ("train", "t10k"):
        images, labels = source.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
        content[prefix] = images
    return content


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("module", "place"),
    [(MNISTDataModule, "MNIST/raw"), (MNISTDataModule, "."), (FashionMNISTDataModule, "FashionMNIST/raw")],
)
def test_files(tmp_path, write_idx, module, place, suffix):
    content = write_all(write_idx, tmp_path / place, suffix)
    data = module(str(tmp_path), num_classes=10, channels=1, val_images=10)
    assert data.image_shape == (1, 28, 28)
    assert np.array_equal(data.part("train").images[:, 0].numpy(), content["train"])
    assert np.array_equal(data.part("test").images[:, 0].numpy(), content["t10k"])
    assert data.part("test").labels.tolist() == [*range(10), *range(10)]
    assert len(data.class_names) == 10


def test_torchvision_reads_the_same(tmp_path, write_idx):
    from torchvision.datasets import MNIST

    write_all(write_idx, tmp_path / "MNIST" / "raw", "")
    ours = MNISTDataModule(str(tmp_path), num_classes=10, channels=1).part("train")
    theirs = MNIST(str(tmp_path), train=True)
    assert np.array_equal(theirs.data.numpy(), ours.images[:, 0].numpy())
    assert theirs.targets.tolist() == ours.labels.tolist()


def module(root):
    return MNISTDataModule(str(root), num_classes=10, channels=1)


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no t10k-images-idx3-ubyte.*data.download=true"):
        module(tmp_path).setup("test")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_truncated(tmp_path, write_idx, suffix):
    write_all(write_idx, tmp_path, suffix)
    path = tmp_path / f"t10k-images-idx3-ubyte{suffix}"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.*` is damaged; fetch it again"):
        module(tmp_path).setup("test")


def test_flipped_bytes_in_the_archive(tmp_path, write_idx):
    write_all(write_idx, tmp_path, ".gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = path.read_bytes()
    path.write_bytes(content[:30] + bytes(byte ^ 255 for byte in content[30:60]) + content[60:])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz` is damaged; fetch it again"):
        module(tmp_path).setup("test")


def test_another_file(tmp_path, write_idx):
    write_all(write_idx, tmp_path, "")
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte"):
        module(tmp_path).setup("test")


def test_labels_of_another_set(tmp_path, write_idx):
    write_all(write_idx, tmp_path, "")
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.arange(10))
    with pytest.raises(ValueError, match=r"holds 20 test images and 10 labels"):
        module(tmp_path).setup("test")


def test_a_decompression_bomb_does_not_fill_the_memory(tmp_path, write_idx):
    """A small file that unpacks to more than its header says, and a header that claims too much."""
    write_all(write_idx, tmp_path, ".gz")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    header = np.array([0x0803, 20, 28, 28], dtype=">i4").tobytes()
    path.write_bytes(gzip.compress(header + bytes(2**24)))
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz` is damaged; fetch it again"):
        module(tmp_path).setup("test")
    path.write_bytes(gzip.compress(np.array([0x0803, 2**30, 28, 28], dtype=">i4").tobytes()))
    with pytest.raises(ValueError, match="holds 1073741824 x 28 x 28 bytes, more than any"):
        module(tmp_path).setup("test")

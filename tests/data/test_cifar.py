"""CIFAR in its official files and in class folders, both written here, and errors in them."""

import pickle
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from robustsmooth.data import CIFAR10DataModule, CIFAR100DataModule
from robustsmooth.data.pickles import load_arrays
from tests.data.conftest import write

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def test_official_files(official_cifar10):
    root, pixels = official_cifar10
    for place in (root, root / "cifar-10-batches-py"):
        data = CIFAR10DataModule(str(place), num_classes=10, val_images=10)
        train, test = data.part("train"), data.part("test")
        assert (len(train), len(test), data.class_names) == (50, 10, NAMES)
        assert data.image_shape == (3, 32, 32)
        assert np.array_equal(test.images.numpy().reshape(10, 3072), pixels["test_batch"][0])
        assert test.labels.tolist() == pixels["test_batch"][1]
        assert np.array_equal(train.images[20:30].numpy().reshape(10, 3072), pixels["data_batch_3"][0])
        assert torch.bincount(train.labels[data.val_positions]).tolist() == [1] * 10


def test_torchvision_reads_the_same(official_cifar10):
    """Our reader against torchvision's on the same files, without its check of the hashes."""
    from torchvision.datasets import CIFAR10

    class Unchecked(CIFAR10):
        def _check_integrity(self):
            return True

        def _load_meta(self):
            self.classes = NAMES

    root, _ = official_cifar10
    for train, split in ((True, "train"), (False, "test")):
        theirs = Unchecked(str(root), train=train)
        ours = CIFAR10DataModule(str(root), num_classes=10).part(split)
        assert np.array_equal(theirs.data.transpose(0, 3, 1, 2), ours.images.numpy())
        assert theirs.targets == ours.labels.tolist()


def test_cifar100_files(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"class{number:02d}" for number in range(100)]
    write(folder / "meta", {"fine_label_names": names, "coarse_label_names": ["x"] * 20})
    data = np.random.default_rng(0).integers(0, 256, (100, 3072), dtype=np.uint8)
    for split in ("train", "test"):
        write(folder / split, {"data": data, "fine_labels": list(range(100)), "coarse_labels": [0] * 100})
    module = CIFAR100DataModule(str(tmp_path), num_classes=100)
    assert module.part("test").labels.tolist() == list(range(100))
    assert np.array_equal(module.part("train").images.numpy().reshape(100, 3072), data)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_class_folders(class_folders, suffix):
    root = class_folders({"cat": 3, "ant": 2}, {"cat": 1, "ant": 2}, suffix=suffix)
    (root / "train" / "ant" / "notes.txt").write_text("not an image")
    data = CIFAR10DataModule(str(root), num_classes=2)
    train = data.part("train")
    assert data.class_names == ["ant", "cat"]
    assert train.labels.tolist() == [0, 0, 1, 1, 1]
    file = Image.open(root / "train" / "cat" / f"0002{suffix}").convert("RGB")
    assert np.array_equal(train.images[4].numpy(), np.asarray(file).transpose(2, 0, 1))


def test_no_files(tmp_path):
    data = CIFAR10DataModule(str(tmp_path / "missing"), num_classes=10)
    with pytest.raises(
        FileNotFoundError, match=r"set data.root to the folder of the data, or data.download=true"
    ):
        data.setup("fit")


def test_missing_split(class_folders):
    root = class_folders({"cat": 1, "dog": 1}, {"cat": 1, "dog": 1})
    shutil.rmtree(root / "test")
    data = CIFAR10DataModule(str(root), num_classes=2)
    data.setup("fit")  # training needs no test images
    with pytest.raises(FileNotFoundError, match=r"test` does not exist"):
        data.setup("test")


def test_empty_class(class_folders):
    root = class_folders({"cat": 1, "dog": 1}, {"cat": 1, "dog": 0})
    with pytest.raises(ValueError, match=r"test/dog` has no image; fill it or remove it"):
        CIFAR10DataModule(str(root), num_classes=2).setup("test")


def test_splits_with_different_classes(class_folders):
    root = class_folders({"cat": 1, "dog": 1}, {"cat": 1, "cow": 1})
    with pytest.raises(ValueError, match=r"only one of the train and test splits has the classes cow, dog"):
        CIFAR10DataModule(str(root), num_classes=2).setup("fit")


def test_wrong_class_count(class_folders):
    root = class_folders({"cat": 1, "dog": 1}, {"cat": 1, "dog": 1})
    with pytest.raises(ValueError, match=r"`data.num_classes` is 10, but the data have 2 classes"):
        CIFAR10DataModule(str(root), num_classes=10).setup("fit")


def test_unreadable_file(class_folders):
    root = class_folders({"cat": 2, "dog": 1}, {"cat": 1, "dog": 1})
    broken = root / "train" / "cat" / "0001.png"
    broken.write_bytes(broken.read_bytes()[:400])
    with pytest.raises(
        ValueError, match=r"cat/0001.png` cannot be read as an image; replace it or remove it"
    ):
        CIFAR10DataModule(str(root), num_classes=2).setup("fit")


def test_wrong_size(class_folders, draw):
    root = class_folders({"cat": 2, "dog": 1}, {"cat": 1, "dog": 1})
    draw(root / "train" / "dog" / "0007.png", (32, 40))
    with pytest.raises(ValueError, match=r"dog/0007.png` has 40x32 pixels, it must have 32x32"):
        CIFAR10DataModule(str(root), num_classes=2).setup("fit")


def test_a_meta_file_with_other_content(official_cifar10):
    root, _ = official_cifar10
    write(root / "cifar-10-batches-py" / "batches.meta", {"names": ["cat"]})
    with pytest.raises(ValueError, match=r"batches.meta` is not a valid file of cifar-10-batches-py"):
        CIFAR10DataModule(str(root), num_classes=10).setup("test")


def test_truncated_official_file(official_cifar10):
    root, _ = official_cifar10
    path = root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"test_batch` is damaged or not a data file .*; fetch it again"):
        CIFAR10DataModule(str(root), num_classes=10).setup("test")


@pytest.mark.parametrize(
    "content", [[1, 2], {"labels": [1]}, {"data": np.zeros((2, 7), np.uint8), "labels": [1, 2]}]
)
def test_other_pickles(official_cifar10, content):
    root, _ = official_cifar10
    write(root / "cifar-10-batches-py" / "test_batch", content)
    with pytest.raises(ValueError, match=r"test_batch` is not a .*; fetch it again"):
        CIFAR10DataModule(str(root), num_classes=10).setup("test")


class Trap:
    def __reduce__(self):
        import os

        return os.system, ("touch executed",)


def test_a_pickle_with_code_is_refused(official_cifar10, monkeypatch):
    root, _ = official_cifar10
    monkeypatch.chdir(root)
    path = root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(pickle.dumps({"data": Trap(), "labels": []}))
    with pytest.raises(
        ValueError, match=r"test_batch` is damaged or not a data file \(it wants to run .*system\)"
    ):
        CIFAR10DataModule(str(root), num_classes=10).setup("test")
    assert not (root / "executed").exists()


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_are_read_back_unchanged(tmp_path, protocol):
    arrays = {
        "bytes": np.arange(60, dtype=np.uint8).reshape(5, 12),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.arange(4, dtype=">i4"),
    }
    (tmp_path / "a").write_bytes(pickle.dumps({**arrays, "list": [1, 2]}, protocol))
    read = load_arrays(tmp_path / "a")
    for key, array in arrays.items():
        assert np.array_equal(read[key], array)
        assert read[key].dtype == array.dtype
    assert read["list"].tolist() == [1, 2]


def test_arrays_of_objects_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps({"data": np.array([None, 1], dtype=object)}))
    with pytest.raises(ValueError, match=r"`.*` is damaged or not a data file"):
        load_arrays(tmp_path / "a")


def test_flipped_bytes_are_an_error_message_and_no_crash(tmp_path):
    """NumPy's own reader of pickled arrays does not check them and may end with a segmentation fault."""
    source, path = random.Random(0), tmp_path / "a"
    content = pickle.dumps({"data": np.zeros((5, 12), np.uint8), "labels": [1, 2, 3, 4, 5]}, protocol=2)
    refused = 0
    for _ in range(1000):
        flipped = bytearray(content)
        for _ in range(source.choice([1, 2, 5])):
            flipped[source.randrange(len(flipped))] = source.randrange(256)
        path.write_bytes(flipped)
        try:
            load_arrays(path)
        except ValueError:
            refused += 1
    assert refused > 300


def test_download_only_on_request(tmp_path, monkeypatch):
    from torchvision import datasets

    asked = []
    monkeypatch.setattr(datasets, "CIFAR10", lambda root, download: asked.append((root, download)))
    CIFAR10DataModule(str(tmp_path), num_classes=10).prepare_data()
    assert asked == []
    CIFAR10DataModule(str(tmp_path), num_classes=10, download=True).prepare_data()
    assert asked == [(str(tmp_path), True)]


def test_no_download_if_the_files_exist(official_cifar10, monkeypatch):
    from torchvision import datasets

    monkeypatch.delattr(datasets, "CIFAR10")
    CIFAR10DataModule(str(official_cifar10[0]), num_classes=10, download=True).prepare_data()


def test_a_negative_label_is_an_error_message(official_cifar10):
    root, pixels = official_cifar10
    data, labels = pixels["test_batch"]
    write(root / "cifar-10-batches-py" / "test_batch", {"data": data, "labels": [-1, *labels[1:]]})
    with pytest.raises(ValueError, match=r"the test split has the label -1; labels must be at least 0"):
        CIFAR10DataModule(str(root)).setup("test")

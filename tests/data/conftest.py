import gzip
import io
import pickle
import struct

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def draw():
    """Random pixels, and the file that holds them: `draw(path, (height, width))`."""
    source = np.random.default_rng(0)

    def drawn(path, size=(32, 32)):
        pixels = source.integers(0, 256, (*size, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
        return pixels

    return drawn


@pytest.fixture
def class_folders(tmp_path, draw):
    """`class_folders({"cat": 3, "dog": 2}, {"cat": 1, "dog": 1})`: the splits' class folders."""

    def made(train, test, test_folder="test", size=(32, 32), suffix=".png"):
        for split, counts in (("train", train), (test_folder, test)):
            for name, count in counts.items():
                (tmp_path / split / name).mkdir(parents=True)
                for number in range(count):
                    draw(tmp_path / split / name / f"{number:04d}{suffix}", size)
        return tmp_path

    return made


@pytest.fixture
def official_cifar10(tmp_path):
    """A handful of images in CIFAR-10's own files: the folder and the pixels by split."""
    folder, pixels = tmp_path / "cifar-10-batches-py", {}
    folder.mkdir()
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    write(folder / "batches.meta", {"label_names": names, "num_vis": 3072})
    source = np.random.default_rng(1)
    for number, file in enumerate([*(f"data_batch_{item}" for item in range(1, 6)), "test_batch"]):
        data = source.integers(0, 256, (10, 3072), dtype=np.uint8)
        labels = [(item + number) % 10 for item in range(10)]
        write(folder / file, {"data": data, "labels": labels, "batch_label": "", "filenames": ["a.png"] * 10})
        pixels[file] = (data, labels)
    return tmp_path, pixels


class _Python2Pickler(pickle._Pickler):
    """Text and bytes as Python 2 pickled them, as in the official files."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_text(self, text):
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text


def write(path, content):
    """Pickle as the official files of CIFAR are pickled."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    path.write_bytes(file.getvalue().replace(b"numpy._core", b"numpy.core"))


@pytest.fixture
def write_idx():
    """Write an array in MNIST's format, packed if the name ends with .gz."""

    def written(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        header = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4").tobytes()
        content = header + array.astype(np.uint8).tobytes()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)

    return written

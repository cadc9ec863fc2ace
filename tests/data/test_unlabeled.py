"""Extra images for self-training."""

import pickle

import numpy as np
import pytest
import torch

from robustsmooth.data import (
    UNLABELED,
    CIFAR10DataModule,
    DigitsDataModule,
    ImageTensors,
    UnlabeledImages,
    WithoutLabels,
)


@pytest.fixture
def arrays():
    source = np.random.default_rng(0)
    return source.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8), np.arange(30) % 10


@pytest.fixture(params=["npz", "npy", "pickle"])
def file(request, tmp_path, arrays):
    images, labels = arrays
    path = tmp_path / f"extra.{request.param}"
    if request.param == "npz":
        np.savez(path, image=images, label=labels)
    elif request.param == "npy":
        np.save(path, images)
    else:
        path.write_bytes(pickle.dumps({"data": images, "extrapolated_targets": labels.tolist()}))
    return path


def test_files(file, arrays):
    extra = UnlabeledImages(str(file))
    assert extra.shape == (3, 32, 32)
    assert extra.labels.tolist() == [UNLABELED] * 30
    assert np.array_equal(extra.__getitems__([4, 2]).images.numpy(), arrays[0][[4, 2]].transpose(0, 3, 1, 2))
    some = UnlabeledImages(str(file), max=3)
    assert np.array_equal(
        some.__getitems__([0, 1, 2]).images.numpy(), arrays[0][[0, 10, 20]].transpose(0, 3, 1, 2)
    )


def test_labels_of_the_file(file, arrays):
    extra = UnlabeledImages(str(file), keep_labels=True, max=15)
    if file.suffix == ".npy":
        with pytest.raises(
            ValueError, match=r"does not have one label per image; set data.extra.keep_labels=false"
        ):
            len(extra)
    else:
        assert extra.labels.tolist() == arrays[1][::2].tolist()


def test_a_folder(tmp_path, draw):
    pixels = [draw(tmp_path / name) for name in ("a.png", "deeper/b.png")]
    extra = UnlabeledImages(str(tmp_path))
    assert np.array_equal(extra.__getitems__([0, 1]).images.numpy(), np.stack(pixels).transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"needs a file with labels"):
        len(UnlabeledImages(str(tmp_path), keep_labels=True))


def test_they_are_mixed_into_training_only(official_cifar10, file, arrays):
    root, _ = official_cifar10
    data = CIFAR10DataModule(
        str(root), num_classes=10, val_images=10, batch_size=14, extra=UnlabeledImages(str(file))
    )
    batches = list(data.train_dataloader())
    assert len(batches) == (40 + 30) // 14
    indices = torch.cat([batch.indices for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    images = torch.cat([batch.images for batch in batches])
    assert sorted(indices.tolist()) == sorted([*data.train_positions, *range(50, 80)])
    assert torch.equal(labels == UNLABELED, indices >= 50)
    at = (indices == 57).nonzero().item()
    assert np.array_equal(images[at].numpy(), arrays[0][7].transpose(2, 0, 1))
    at = (indices == data.train_positions[3]).nonzero().item()
    assert torch.equal(images[at], data.part("train").images[data.train_positions[3]])
    assert len(data.val_positions) == 10
    assert all((batch.labels >= 0).all() for batch in data.val_dataloader())


def test_more_than_there_are_training_images_take_turns(official_cifar10, file):
    """Of 30 extra images an epoch has 20, as many as training images."""
    extra = UnlabeledImages(str(file))
    data = CIFAR10DataModule(str(official_cifar10[0]), val_images=30, batch_size=10, extra=extra)
    loader = data.train_dataloader()
    labels = torch.cat([batch.labels for batch in loader])
    assert len(loader) == 4
    assert int((labels == UNLABELED).sum()) == 20


def test_they_are_not_read_for_evaluation(official_cifar10):
    data = CIFAR10DataModule(str(official_cifar10[0]), num_classes=10, extra=UnlabeledImages("nowhere.npz"))
    assert len(list(data.test_dataloader())) == 1
    with pytest.raises(FileNotFoundError, match=r"nowhere.npz` does not exist; set data.extra.path"):
        data.train_dataloader()


def test_other_shapes_are_refused():
    extra = ImageTensors(torch.full((3, 3, 32, 32), 9, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"images of the data set's shape \(1, 8, 8\), got \(3, 32, 32\)"):
        DigitsDataModule(num_classes=10, channels=1, extra=extra).train_dataloader()


@pytest.mark.parametrize("content", [b"no array", b""])
def test_damaged(tmp_path, content):
    for name in ("a.npz", "a.npy", "a.pickle"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"is damaged or not an? .* file"):
            len(UnlabeledImages(str(tmp_path / name)))


def test_truncated_archive(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((4, 32, 32, 3), np.uint8))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"a.npz` is damaged or not an array file; fetch it again"):
        len(UnlabeledImages(str(tmp_path / "a.npz")))


def test_wrong_arrays_and_numbers(tmp_path):
    np.savez(tmp_path / "floats.npz", image=np.zeros((2, 32, 32, 3)))
    with pytest.raises(ValueError, match=r"must hold \(N, H, W, C\) uint8 images"):
        len(UnlabeledImages(str(tmp_path / "floats.npz")))
    with pytest.raises(ValueError, match=r"`data.extra.max` must be at least 1"):
        UnlabeledImages("x", max=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no image"):
        len(UnlabeledImages(str(tmp_path / "empty")))


def test_the_images_of_another_data_set_without_their_labels():
    """Its validation images are not used."""
    other = DigitsDataModule(channels=1, val_images=180)
    extra = WithoutLabels(other)
    assert extra.shape == (1, 8, 8)
    assert len(extra) == len(other.train_positions) == 1433 - 180
    assert set(extra.labels.tolist()) == {UNLABELED}
    expected = other.part("train").__getitems__(other.train_positions[5:8]).images
    assert torch.equal(extra.__getitems__([5, 6, 7]).images, expected)
    data = DigitsDataModule(channels=1, val_images=180, batch_size=14, extra=extra)
    labels = torch.cat([batch.labels for batch in data.train_dataloader()])
    assert int((labels == UNLABELED).sum()) == 1433 - 180
    assert len(labels) == 2 * (1433 - 180)

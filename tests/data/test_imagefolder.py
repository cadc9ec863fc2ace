"""Folders of large images: ImageNet's layout, its transforms, its workers."""

import json
import random
import shutil

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from scipy import stats

from robustsmooth.data import (
    UNLABELED,
    CropAndFlip,
    ImageFolderDataModule,
    ImageTensors,
    RandomResizedCrop,
)
from robustsmooth.data.augment import augmentation_key
from robustsmooth.data.folders import UnreadableImageError, read_image
from robustsmooth.data.imagefolder import resize_and_crop
from robustsmooth.smoothing import address


@pytest.fixture
def folder(class_folders):
    """12 training and 6 test images in three classes, 60x80 pixels."""
    counts = {"n01": 4, "n02": 5, "n03": 3}
    return class_folders(counts, dict.fromkeys(counts, 2), test_folder="val", size=(60, 80), suffix=".jpg")


def images_in(folder, **settings):
    settings = {
        "num_workers": 0,
        "test_crop": 32,
        "batch_size": 4,
        "augmentation": RandomResizedCrop(32),
    } | settings
    return ImageFolderDataModule(str(folder), **settings)


def test_labels_and_order_are_torchvisions(folder, draw):
    from torchvision.datasets import ImageFolder

    draw(folder / "train" / "n02" / "deeper" / "a.JPEG", (60, 60))  # ImageNet's spelling
    (folder / "train" / "n01" / "list.txt").write_text("not an image")
    part, theirs = images_in(folder).part("train"), ImageFolder(str(folder / "train"))
    assert [str(part.path(place)) for place in range(len(part))] == [path for path, _ in theirs.samples]
    assert part.labels.tolist() == theirs.targets
    assert len(part) == 13


@pytest.mark.parametrize("size", [(60, 80), (97, 61), (50, 50), (333, 500)])
@pytest.mark.parametrize(("resize", "crop"), [(36, 32), (40, 33), (256, 224), (288, 288)])
def test_the_test_transform_is_the_usual_one(size, resize, crop):
    from torchvision import transforms

    source = np.random.default_rng(0)
    image = Image.fromarray(source.integers(0, 256, (*size, 3), dtype=np.uint8))
    field = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])
    assert np.array_equal(np.asarray(resize_and_crop(image, resize, crop)), np.asarray(field(image)))


def test_test_images(folder):
    data = images_in(folder)
    batch = next(iter(data.test_dataloader()))
    expected = resize_and_crop(Image.open(folder / "val" / "n01" / "0001.jpg"), 37, 32)
    assert np.array_equal(batch.images[1].numpy(), np.asarray(expected).transpose(2, 0, 1))
    assert data.image_shape == (3, 32, 32)
    assert data.num_classes == 3
    assert images_in(folder, test_crop=288).test_resize == 329


def test_random_crops_are_torchvisions():
    """The same box is cut and scaled as torchvision does; without scaling all pixels are equal."""
    from torchvision.transforms.functional import resized_crop

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    for seed in range(20):
        left, top, right, bottom = RandomResizedCrop(16)._box(*image.size, random.Random(seed))
        ours = RandomResizedCrop(16, flip=False)(image, random.Random(seed))
        theirs = resized_crop(image, top, left, bottom - top, right - left, [16, 16])
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_random_boxes_have_torchvisions_distribution():
    """Two-sample Kolmogorov-Smirnov tests of area, ratio and position: 4000 boxes, level 1e-6."""
    from torchvision.transforms import RandomResizedCrop as Field

    crop, source = RandomResizedCrop(224), random.Random(0)
    ours = np.array([crop._box(500, 375, source) for _ in range(4000)])
    image = torch.empty(3, 375, 500)
    theirs = np.array([Field.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    top, left, height, width = theirs.T
    pairs = {
        "area": ((ours[:, 2] - ours[:, 0]) * (ours[:, 3] - ours[:, 1]), height * width),
        "ratio": ((ours[:, 2] - ours[:, 0]) / (ours[:, 3] - ours[:, 1]), width / height),
        "left": (ours[:, 0], left),
        "top": (ours[:, 1], top),
    }
    for name, (mine, other) in pairs.items():
        assert stats.ks_2samp(mine, other).pvalue > 1e-6, name


@pytest.mark.parametrize("size", [(10, 400), (400, 10), (1, 1)])
def test_boxes_are_inside_images_of_any_shape(size):
    source = random.Random(0)
    for _ in range(50):
        left, top, right, bottom = RandomResizedCrop(8)._box(*size, source)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_half_are_mirrored():
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255
    crop, source = RandomResizedCrop(8, scale=(1, 1), ratio=(1, 1)), random.Random(0)
    mirrored = [np.asarray(crop(Image.fromarray(pixels), source))[0, 0, 0] == 0 for _ in range(2000)]
    assert stats.binomtest(sum(mirrored), 2000).pvalue > 1e-6


def epochs(data, count=2):
    """The sums of the training images by (epoch, index)."""
    loader = data.train_dataloader()
    seen = {}
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            seen |= {
                (epoch, int(i)): int(image.sum())
                for i, image in zip(batch.indices, batch.images, strict=True)
            }
    return seen


def test_augmentation_depends_on_seed_epoch_and_index_only(folder):
    """The same with and without workers and in any batch; different in another epoch or with another seed."""
    here = epochs(images_in(folder))
    assert len(here) == 24
    workers = epochs(images_in(folder, num_workers=2))
    assert workers == here
    assert epochs(images_in(folder, batch_size=3)) == here
    other = epochs(images_in(folder, seed=1))
    assert sum(other[key] == here[key] for key in here) <= 1
    assert sum(here[0, index] == here[1, index] for index in range(12)) <= 1


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_drawn_twice_is_augmented_twice(folder, workers):
    """The first time as without weights."""
    once = epochs(images_in(folder), 1)
    data = images_in(folder, num_workers=workers)
    data.draw_weights = lambda epoch: torch.tensor([1.0, 1.0] + [0.0] * 10)
    seen = epochs(data, 1)
    assert len(seen) == 12
    assert {draw % 12 for _, draw in seen} == {0, 1}
    assert {seen[0, index] == once[0, index] for index in (0, 1)} == {True}
    assert len(set(seen.values())) > 9  # sums of pixels, which may be equal by chance


def test_resuming_in_the_middle_with_workers(folder):
    data = images_in(folder, num_workers=1)
    whole = epochs(data, 3)
    data._progress = lambda: (2, 1)
    loader = data.train_dataloader()  # Lightning makes the iterator before it sets the epoch
    seen = {int(i): int(image.sum()) for b in loader for i, image in zip(b.indices, b.images, strict=True)}
    assert len(seen) == 8
    assert all(whole[2, index] == value for index, value in seen.items())


def test_without_augmentation_training_images_are_test_images(folder):
    data = images_in(folder, augmentation=None)
    batch = next(iter(data.train_dataloader()))
    again = data.part("train").__getitems__(batch.indices.tolist())
    assert torch.equal(batch.images, again.images)


def test_images_can_be_shifted_after_they_are_scaled_and_cut(folder):
    data = images_in(folder, augmentation=CropAndFlip(4))
    batch = next(iter(data.train_dataloader()))
    stored = data.part("train").__getitems__(batch.indices.tolist())
    assert torch.equal(batch.images, stored.images)
    assert torch.equal(
        data.convert(batch, epoch=1).images,
        CropAndFlip(4)(stored.images, stored.indices, augmentation_key(0, 1)) / 255,
    )


def test_validation_images_are_not_augmented(folder):
    data = images_in(folder, val_images=0.25)
    batch = next(iter(data.val_dataloader()))
    assert len(batch.images) == 3
    assert torch.equal(batch.images, data.part("train").__getitems__(batch.indices.tolist()).images)


@pytest.mark.parametrize("size", [32, 24])
def test_extra_images_are_augmented_like_the_others(folder, size):
    """As in CIFAR-10; and the augmentation of the others stays as it is without them."""
    crop = RandomResizedCrop(size)
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    extra = ImageTensors(images, torch.full((4,), UNLABELED))
    data = images_in(folder, extra=extra, augmentation=crop)
    loader = data.train_dataloader()
    seen = {int(i): image for b in loader for i, image in zip(b.indices, b.images, strict=True)}
    alone = epochs(images_in(folder, augmentation=crop), 1)
    assert {(0, index): int(seen[index].sum()) for index in range(12)} == alone
    for index in range(12, 16):
        before = Image.fromarray(images[index - 12].permute(1, 2, 0).numpy())
        after = crop(before, random.Random(address(0, "augmentation", 0, index)))
        assert np.array_equal(seen[index].numpy(), np.asarray(after).transpose(2, 0, 1))
    labels = torch.cat([batch.labels for batch in loader])
    assert int((labels == UNLABELED).sum()) == 4
    plain = next(iter(images_in(folder, extra=extra, augmentation=None, batch_size=16).train_dataloader()))
    assert torch.equal(plain.images[plain.indices >= 12], images[plain.indices[plain.indices >= 12] - 12])


def test_chosen_classes(folder):
    named = images_in(folder, classes=["n03", "n01"])
    assert named.class_names == ["n01", "n03"]
    assert named.part("train").labels.tolist() == [0] * 4 + [1] * 3
    choices = {tuple(images_in(folder, classes=2, class_seed=seed).class_names) for seed in range(20)}
    assert choices == {("n01", "n02"), ("n01", "n03"), ("n02", "n03")}
    assert (
        images_in(folder, classes=2, seed=1).class_names == images_in(folder, classes=2, seed=2).class_names
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 4}, r"`data.classes` must be in \[1, 3\]"),
        ({"classes": 0}, r"`data.classes` must be in \[1, 3\]"),
        ({"classes": ["n01", "n99"]}, "`data.classes` names 'n99', which is not a class folder"),
        ({"num_classes": 1000}, "`data.num_classes` is 1000, but the data have 3 classes"),
        ({"train_folder": "training"}, "training` does not exist; set data.root"),
    ],
)
def test_wrong_settings(folder, settings, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        images_in(folder, **settings).setup("fit")


def test_bad_crops():
    with pytest.raises(ValueError, match=r"`data.test_crop` must be in \[1, 200\]"):
        ImageFolderDataModule("nowhere", test_crop=224, test_resize=200)
    for settings, message in [
        ({"size": 0}, "`size`"),
        ({"scale": [0.5, 0.2]}, "`scale`"),
        ({"scale": [0, 1]}, "`scale`"),
        ({"ratio": [2, 1]}, "`ratio`"),
    ]:
        with pytest.raises(ValueError, match=message):
            RandomResizedCrop(**settings)


def test_a_folder_without_classes(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"train` has no class folders"):
        images_in(tmp_path).setup("fit")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_is_named_also_by_a_worker(folder, workers):
    broken = folder / "val" / "n02" / "0000.jpg"
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.raises(UnreadableImageError) as caught:
        list(images_in(folder, num_workers=workers).test_dataloader())
    assert str(caught.value) == f"`{broken}` cannot be read as an image; replace it or remove it"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (np.uint16([[0, 65535]]), "a.png"),
        (np.array([[0, 65535]], dtype=">u2"), "a.tiff"),
        (np.int32([[0, 100_000]]), "a.tiff"),
        (np.float32([[0, 1]]), "a.tiff"),
    ],
    ids=["I;16", "I;16B", "I", "F"],
)
def test_images_that_would_be_clipped_to_8_bits_are_refused(tmp_path, values, name):
    """Pillow's conversion makes them black or white."""
    Image.fromarray(values).save(tmp_path / name)
    with pytest.raises(UnreadableImageError) as caught:
        read_image(tmp_path / name)
    assert f"`{tmp_path / name}` has more than 8 bits per channel" in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_images_of_8_bits_are_read_in_every_mode(tmp_path, mode):
    Image.new("L", (2, 2), 255).convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), np.full((2, 2, 3), 255))


def test_the_classes_are_saved_with_the_run(folder, tmp_path):
    class Nothing(pl.LightningModule):
        def test_step(self, batch, batch_idx):
            assert batch.images.dtype == torch.float32

    run = tmp_path / "run"
    runner = pl.Trainer(
        default_root_dir=run,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    runner.test(Nothing(), images_in(folder, classes=2), verbose=False)
    assert json.loads((run / "classes.json").read_text()) == images_in(folder, classes=2).class_names


def test_grey_and_transparent_files_become_rgb(folder):
    Image.fromarray(np.full((60, 60), 77, np.uint8)).save(folder / "val" / "n01" / "grey.png")
    Image.fromarray(np.full((60, 60, 4), 99, np.uint8)).save(folder / "val" / "n01" / "rgba.png")
    data = images_in(folder)
    by_name = {data.part("test").path(place).name: place for place in range(len(data.part("test")))}
    images = data.part("test").__getitems__([by_name["grey.png"], by_name["rgba.png"]]).images
    assert images[0].unique().tolist() == [77]
    assert images[1].unique().tolist() == [99]


@pytest.mark.parametrize("classes", [None, 1])
def test_a_split_that_is_not_used_need_not_be_there(class_folders, classes):
    """To certify on ImageNet, its 150 GB of training images are not needed."""
    root = class_folders({"cat": 2, "dog": 2}, {"cat": 2, "dog": 1}, "val", (8, 8))
    settings = {"classes": classes, "test_crop": 8, "test_resize": 8}
    both = ImageFolderDataModule(str(root), **settings)
    both.setup("test")
    shutil.rmtree(root / "train")
    data = ImageFolderDataModule(str(root), **settings)
    data.setup("test")
    assert data.class_names == both.class_names
    assert data.part("test").labels.tolist() == both.part("test").labels.tolist()
    with pytest.raises(FileNotFoundError, match=r"train` does not exist; set data.root"):
        data.setup("fit")

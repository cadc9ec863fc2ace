"""Rows belong to images: the same command with other images is refused, even if their indices agree."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from robustsmooth.data import ImageFolderDataModule, Subset
from robustsmooth.evaluation import EvaluationModule, Prediction, data_settings
from robustsmooth.report.logs import read_log
from robustsmooth.smoothing import GaussianNoise, Predict
from robustsmooth.smoothing.addressing import image_names


class Shades(nn.Module):
    num_classes = 2

    def forward(self, images):
        score = images.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-score, score], 1)


def write_images(folder, seed, count=9):
    """Files with the same names and sizes; another seed gives other pixels."""
    source = np.random.default_rng(seed)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = source.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.bmp")
    return folder


@pytest.fixture
def predict(make_trainer, tmp_path):
    def run(root, limit=1.0, **subset):
        settings = {"root": str(root), "test_crop": 8, "test_resize": 8, "subset": subset}
        data = ImageFolderDataModule(**{**settings, "subset": Subset(**subset)}, batch_size=4, num_workers=0)
        callback = Prediction(
            Predict(n=20, batch_size=32),
            GaussianNoise(0.1),
            tmp_path / "run",
            settings={"data": data_settings(settings)},
        )
        callback.console = Console(file=io.StringIO())
        trainer = make_trainer(callback, limit_test_batches=limit)
        trainer.test(EvaluationModule(Shades()), data, verbose=False)
        return read_log(tmp_path / "run" / "predict.tsv").rows

    return run


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", 0)


def test_another_folder_of_images_is_refused(predict, images, tmp_path):
    """Same names, same sizes, same settings."""
    assert len(predict(images, limit=2)) == 8
    before = (tmp_path / "run" / "predict.tsv").read_bytes()
    other = write_images(tmp_path / "other", 1)
    with pytest.raises(ValueError, match=r"holds a predict row of another image 0: the data set has changed"):
        predict(other)
    assert (tmp_path / "run" / "predict.tsv").read_bytes() == before
    assert not list((tmp_path / "run").glob("*rank*"))
    assert len(predict(images)) == 18


def test_the_folder_may_move(predict, images, tmp_path):
    whole = predict(images, limit=2)
    images.rename(tmp_path / "moved")
    assert predict(tmp_path / "moved").head(8).equals(whole)


def test_an_image_removed_before_its_row_was_written_loses_nothing(predict, images):
    whole = predict(images, limit=2)
    (images / "val" / "b" / "3.bmp").unlink()  # for example a damaged file
    rows = predict(images)
    assert len(rows) == 17
    assert rows.head(8).equals(whole)


def test_images_whose_indices_have_shifted_are_refused(predict, images):
    predict(images, limit=2)
    (images / "val" / "a" / "2.bmp").unlink()
    with pytest.raises(ValueError, match="row of another image 2: the data set has changed since; put the"):
        predict(images)


def test_a_subset_of_a_changed_set_is_not_added_to_the_old_one(predict, images):
    assert len(predict(images, max=12)) == 12
    (images / "val" / "b" / "8.bmp").unlink()
    with pytest.raises(ValueError, match="rows of images that are not evaluated now"):
        predict(images, max=12)


def test_another_label_is_another_image(predict, images):
    predict(images, limit=3)
    shutil.move(images / "val" / "b", images / "val" / "c")
    shutil.move(images / "val" / "a", images / "val" / "b")
    shutil.move(images / "val" / "c", images / "val" / "a")
    with pytest.raises(ValueError, match="row of another image"):
        predict(images)


def test_rows_of_images_that_were_left_out_this_time_do_not_count(predict, images, tmp_path):
    predict(images)
    predict(images, limit=1)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["images"] == 4
    assert len(read_log(tmp_path / "run" / "predict.tsv").rows) == 18


def test_names_depend_on_pixels_only():
    images = torch.rand(3, 3, 4, 4)
    images[2] = images[0]
    first, second, third = image_names(images)
    assert first == third != second
    assert image_names(images[1:2]) == [second]
    assert image_names(images.to(memory_format=torch.channels_last)) == [first, second, third]
    assert image_names(images + 1e-8) == [first, second, third]  # a rounding difference of another device
    assert image_names(images.clamp(max=0.5)) != [first, second, third]

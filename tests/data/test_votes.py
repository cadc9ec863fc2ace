"""Votes on training images: read by index from the table that predict writes."""

from types import SimpleNamespace

import pytest
import torch

from robustsmooth.data import DigitsDataModule, VoteTable


def write(folder, *rows):
    (folder / "predict.tsv").write_text("\n".join(["idx\tlabel\tcounts", *rows]) + "\n")
    return folder


def test_shares_by_index(tmp_path):
    table = VoteTable.read(write(tmp_path, "7\t1\t1:9,0:1", "2\t0\t2:10"), 3)
    shares = table.shares(torch.tensor([2, 7, 2]))
    torch.testing.assert_close(shares, torch.tensor([[0, 0, 1.0], [0.1, 0.9, 0], [0, 0, 1.0]]))
    assert table.missing(torch.tensor([2, 3, 7, 99])).tolist() == [3, 99]


def test_an_image_without_votes_is_named(tmp_path):
    table = VoteTable.read(write(tmp_path, "7\t1\t1:9"), 3)
    with pytest.raises(ValueError, match="no votes for 2 of the training images, such as number 4"):
        table.shares(torch.tensor([4, 7, 8]))


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"write them with `python -m robustsmooth\.predict .*split=train"):
        VoteTable.read(tmp_path, 3)


def test_votes_of_another_data_set(tmp_path):
    with pytest.raises(ValueError, match="the votes name class 11, but there are 10 classes"):
        VoteTable.read(write(tmp_path, "0\t1\t11:9"), 10)


def test_the_train_split_holds_the_images_that_are_trained_on():
    data = DigitsDataModule(channels=1, val_images=180, subset=SimpleNamespace(split="train", select=range))
    assert data.evaluated == "train"
    assert list(data.test_indices) == data.train_positions

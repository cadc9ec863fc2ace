"""The first check of an imported network."""

import pytest
import torch
from torch import nn

from robustsmooth.data import DigitsDataModule, Subset
from robustsmooth.models import sanity_check


class Oracle(nn.Module):
    """Finds the labels of the digits' test images by their pixels, and makes errors on purpose."""

    def __init__(self, data, wrong_below):
        super().__init__()
        part = data.part("test")
        self.weight = nn.Parameter(torch.zeros(1))
        self.known = {
            image.numpy().tobytes(): (int(label) + (place < wrong_below)) % 10
            for place, (image, label) in enumerate(zip(part.images, part.labels, strict=True))
        }

    def forward(self, images):
        assert not self.training
        assert not torch.is_grad_enabled()
        labels = [self.known[image.mul(255).round().to(torch.uint8).numpy().tobytes()] for image in images]
        return nn.functional.one_hot(torch.tensor(labels), 10).float()


def digits(**settings):
    return DigitsDataModule(num_classes=10, channels=1, val_images=180, **settings)


def test_accuracy_is_printed_and_the_network_is_not_changed(capsys):
    data = digits()
    network = Oracle(data, wrong_below=91).train()
    accuracy = sanity_check(network, data, images=364)
    assert accuracy == 273 / 364
    assert network.training
    assert capsys.readouterr().out == "clean accuracy on 364 test images: 75.0 %\n"


def test_it_uses_the_images_that_are_evaluated(capsys):
    data = digits(subset=Subset(indices="100:200"))
    assert sanity_check(Oracle(data, wrong_below=100), data, images=200) == 1.0
    assert "100 test images: 100.0 %" in capsys.readouterr().out


def test_a_network_that_only_guesses_is_reported(capsys):
    data = digits()
    sanity_check(Oracle(data, wrong_below=364), data)
    assert "0.0 %; that is close to guessing: is model.normalization right?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("counts", "correct", "guesses"),
    [
        ([50, 50], 100, False),
        ([50, 50], 60, False),
        ([50, 50], 54, True),
        ([90, 10], 90, True),  # always the first class
        ([90, 10], 93, False),
        ([10] * 10, 18, True),
        ([10] * 10, 20, False),
        ([100], 70, False),  # one class alone tells nothing
    ],
)
def test_guessing_is_measured_by_the_most_frequent_class(capsys, counts, correct, guesses):
    class Data:
        def sample(self, count, split="test"):
            labels = torch.tensor([label for label, number in enumerate(counts) for _ in range(number)])
            answers = (labels + (torch.arange(100) >= correct)) % 10
            return nn.functional.one_hot(answers, 10).float(), labels, torch.arange(100)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images):
            return images

    assert sanity_check(Network(), Data()) == correct / 100
    assert ("close to guessing" in capsys.readouterr().out) == guesses


def test_a_network_that_answers_nan_is_refused():
    broken = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(broken[1].bias, float("nan"))
    with pytest.raises(ValueError, match="NaN for 50 of 50 test images; its training diverged"):
        sanity_check(broken, digits(), 50)


def test_before_training_no_test_image_is_used(capsys):
    data = digits()
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    sanity_check(constant, data, 50, split="val")
    assert "on 50 val images" in capsys.readouterr().out
    assert "test" not in data._parts


def test_data_are_downloaded_first(monkeypatch, capsys):
    data = digits()
    monkeypatch.setattr(data, "prepare_data", lambda: print("fetched"))
    sanity_check(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data, 50)
    assert capsys.readouterr().out.startswith("fetched\nclean accuracy")

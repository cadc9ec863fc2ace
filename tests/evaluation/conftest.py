"""A tiny data set and network that the tests of evaluation share."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from robustsmooth.data import Batch
from robustsmooth.data.sampler import UnrepeatedSampler
from robustsmooth.evaluation import EvaluationModule


class Images:
    """Images of two brightnesses with noise, in batches; index i is image 3 i of a larger set."""

    def __init__(self, count):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(count) % 3
        shades = 0.2 + 0.3 * self.labels.float()
        self.images = (
            shades[:, None, None, None] + 0.1 * torch.randn(count, 1, 4, 4, generator=generator)
        ).clamp(0, 1)
        self.images = torch.round(self.images * 255) / 255
        self.indices = 3 * torch.arange(count)

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, at):
        return Batch(self.images[at], self.labels[at], self.indices[at])


class TinyData(pl.LightningDataModule):
    """The same few images for validation and test."""

    def __init__(self, count=11, batch_size=4):
        super().__init__()
        self.images, self.batch_size = Images(count), batch_size
        self.image_shape = (1, 4, 4)

    def _loader(self):
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = UnrepeatedSampler(self.images, ranks, rank)
        return DataLoader(self.images, self.batch_size, sampler=sampler, collate_fn=lambda batch: batch)

    train_dataloader = val_dataloader = test_dataloader = _loader


class TinyNetwork(nn.Module):
    """Distinguishes the two brightnesses."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, images):
        distance = (images.mean(dim=(1, 2, 3))[:, None] - torch.tensor([0.2, 0.5, 0.8])).abs()
        return -self.scale * distance


@pytest.fixture
def make_trainer(tmp_path):
    def made(*callbacks, **kwargs):
        settings = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
            "callbacks": list(callbacks),
            **kwargs,
        }
        return pl.Trainer(**settings)

    return made


@pytest.fixture
def network():
    return TinyNetwork()


@pytest.fixture
def tiny_data():
    return TinyData


@pytest.fixture
def check_precision(make_trainer, tiny_data, monkeypatch):
    """Run an evaluation in two precisions of the trainer: all its passes have that precision."""

    def check(callback, precision):
        lower = set()
        monkeypatch.setattr("robustsmooth.evaluation.base.answers_of", lambda *_: {})  # always in float32
        monkeypatch.setattr("robustsmooth.smoothing.engine.check_network", lambda *_, **__: None)

        class Watched(TinyNetwork):
            def forward(self, images):
                lower.add(torch.is_autocast_enabled("cpu"))
                return super().forward(images)

        def evaluate(precision):
            trainer = make_trainer(callback(), precision=precision)
            trainer.test(EvaluationModule(Watched()), tiny_data(), verbose=False)

        evaluate(precision)
        assert lower == {precision == "bf16-mixed"}
        with pytest.raises(ValueError, match="precision="):
            evaluate("bf16-mixed" if precision == "32-true" else "32-true")

    return check

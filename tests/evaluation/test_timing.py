"""Inference time: what is measured, and how many times."""

import io
import json
import time

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import nn

from robustsmooth.data import DigitsDataModule, Subset
from robustsmooth.evaluation import EvaluationModule, InferenceTime
from robustsmooth.evaluation.timing import seconds_of


class Counting(nn.Module):
    """Counts its passes and images, also those of its copies; takes a millisecond per pass."""

    num_classes = 10

    def __init__(self):
        super().__init__()
        self.batches = Shared()

    def forward(self, images):
        self.batches.append(len(images))
        time.sleep(0.001)
        return images.flatten(1)[:, :10]


class Shared(list):
    def __deepcopy__(self, memo):
        return self


def run(folder, network, **options):
    data = DigitsDataModule(channels=1, batch_size=4, subset=Subset(every=30))
    callback = InferenceTime(folder, 0.25, **{"n": 10, "images": 3, "repeats": 2, "batch_size": 4, **options})
    callback.console = Console(file=io.StringIO(), width=200)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.test(EvaluationModule(network), data, verbose=False)
    return pd.read_csv(folder / "timing.tsv", sep="\t"), callback


def test_a_vote_takes_its_passes_and_a_pass_is_one(tmp_path):
    network = Counting()
    rows, _ = run(tmp_path, network)
    clean = [4, 4, 4, 1]  # the accuracy of the network without smoothing
    fixed, votes = [2], [4] * 3 + [4]  # the fingerprint; three passes of a vote, and the setup
    for expected in (clean, fixed, votes, 2 * 3 * [1], 2 * 3 * [4, 4, 4]):  # three images, each twice
        for size in expected:
            network.batches.remove(size)
    assert set(network.batches) <= {8}  # the check whether an image's answer depends on the others
    assert rows["n"].tolist() == [10, 10, 10]
    assert (rows["single_seconds"] >= 0.001).all()
    assert (rows["vote_seconds"] >= 3 * 0.001).all()
    assert rows["device"].str.contains("CPU").all()


def test_it_continues_where_it_stopped(tmp_path):
    rows, _ = run(tmp_path, Counting())
    network = Counting()
    assert run(tmp_path, network)[0].equals(rows)
    assert network.batches == [2, 4, 4, 4, 1]
    more, _ = run(tmp_path, Counting(), images=5)
    assert len(more) == 5
    assert more[:3].equals(rows)


def test_it_prints_its_result_and_writes_a_summary(tmp_path):
    rows, callback = run(tmp_path, Counting())
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["images"] == 3
    assert summary["metrics"]["test/vote_seconds"] == pytest.approx(rows["vote_seconds"].median())
    assert "median of 3 images" in callback.console.file.getvalue()


def test_the_fastest_run_counts():
    durations = iter([0.03, 0.001, 0.02])
    assert 0.001 <= seconds_of(lambda: time.sleep(next(durations)), torch.device("cpu"), 3) < 0.02


@pytest.mark.parametrize("options", [{"n": 0}, {"images": 0}, {"repeats": 0}, {"batch_size": 0}])
def test_bad_settings_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be at least 1"):
        InferenceTime(tmp_path, 0.25, **options)
    with pytest.raises(ValueError, match="`sigma` must be at least 0"):
        InferenceTime(tmp_path, -0.25)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_passes_are_in_the_trainers_precision(check_precision, tmp_path, precision):
    check_precision(lambda: InferenceTime(tmp_path, 0.25, n=2, images=2, repeats=1), precision)

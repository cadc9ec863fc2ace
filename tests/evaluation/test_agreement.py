"""Agreement of a single pass with the vote: counts against a slow reference, and the log."""

import json

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from robustsmooth.data import DigitsDataModule, Subset
from robustsmooth.evaluation import Agreement, EvaluationModule
from robustsmooth.smoothing import HardVote, ImageRandomness, Predict, running_votes


class Small(nn.Module):
    num_classes = 10

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(images.flatten(1))


def run(folder, batch_size=64, every=40, **options):
    data = DigitsDataModule(channels=1, batch_size=batch_size, subset=Subset(every=every))
    callback = Agreement(folder, **{"sigmas": [0.0, 0.5], "n": 20, "alpha": 0.05, **options})
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
    trainer.test(EvaluationModule(Small()), data, verbose=False)
    return pd.read_csv(folder / "agreement.tsv", sep="\t")


def test_rows_hold_the_single_pass_and_the_votes(tmp_path):
    rows = run(tmp_path)
    data = DigitsDataModule(channels=1, subset=Subset(every=40))
    data.setup("test")
    batch = data.sample(10)
    source = ImageRandomness(0, "agreement", batch.indices)
    votes = running_votes(
        *(Small(), batch.images), sigma=0.5, samples=[20], ballots={"": HardVote()}, randomness=source, seed=0
    )[""][0]
    noisy = rows[rows["sigma"] == 0.5]
    assert noisy["idx"].tolist() == batch.indices.tolist()
    assert noisy["single"].tolist() == Small()(batch.images).argmax(1).tolist()
    assert noisy["top_votes"].tolist() == votes.amax(1).tolist()
    predict = Predict(n=20, alpha=0.05)
    assert noisy["vote"].tolist() == [predict.decide(item.numpy(), 0.5).prediction for item in votes]


def test_it_prints_its_result_and_writes_a_summary(tmp_path, capsys):
    rows = run(tmp_path, every=4)
    said, summary = capsys.readouterr().err, json.loads((tmp_path / "summary.json").read_text())
    right = rows[(rows["single"] == rows["label"]) & (rows["sigma"] == 0.5)]
    share = (right["vote"] == right["single"]).mean()
    assert summary["metrics"]["test/agreement@0.5"] == share
    assert summary["levels"][1]["images"] == len(right)
    assert f"{share:.1%}" in said
    before = (tmp_path / "summary.json").read_bytes(), (tmp_path / "agreement.tsv").read_bytes()
    run(tmp_path, every=4)  # a finished one is not changed
    assert before == ((tmp_path / "summary.json").read_bytes(), (tmp_path / "agreement.tsv").read_bytes())


def test_without_noise_the_vote_equals_the_single_pass(tmp_path):
    rows = run(tmp_path)
    clean = rows[rows["sigma"] == 0]
    assert len(clean) == len(rows) // 2 == 10
    assert clean["vote"].eq(clean["single"]).all()
    assert clean["top_votes"].eq(20).all()


def test_the_log_does_not_depend_on_the_loader_and_goes_on_with_what_is_missing(tmp_path):
    whole = run(tmp_path / "a")
    assert run(tmp_path / "b", batch_size=3).equals(whole)
    part = tmp_path / "c"
    run(part)
    lines = (part / "agreement.tsv").read_text().splitlines(keepends=True)
    (part / "agreement.tsv").unlink()
    (part / "agreement.rank0.tsv").write_text("".join(lines[:8]) + "360\t")
    assert run(part).equals(whole)
    with pytest.raises(ValueError, match="other settings"):
        run(part, n=30)


def test_an_image_without_rows_is_an_error(tmp_path, monkeypatch):
    """For example one that another rank has evaluated and not written."""
    monkeypatch.setattr("robustsmooth.evaluation.base.gather", lambda seen: [*seen, 363])
    with pytest.raises(
        ValueError, match=r"2 rows are missing, the first is \{'idx': '363', 'sigma': '0.0'\}"
    ):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sigmas": []}, "`sigmas`"), ({"sigmas": [-1.0]}, "`sigmas`"), ({"alpha": 2.0}, "`alpha`")],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Agreement(tmp_path, **{"sigmas": [0.1], **options})


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_passes_are_in_the_trainers_precision(check_precision, tmp_path, precision):
    check_precision(lambda: Agreement(tmp_path, [0.0, 0.5], n=3), precision)

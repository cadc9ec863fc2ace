"""Agreement of a single pass with the vote: the counts against slow twins, the log through a trainer."""

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from scipy import stats
from torch import nn

from robustsmooth.data import DigitsDataModule, Subset
from robustsmooth.evaluation import Agreement, EvaluationModule
from robustsmooth.evaluation.agreement import COPIES, tally_over_sigmas
from robustsmooth.smoothing import ImageRandomness


class Linear(nn.Module):
    """Class 0 where the mean pixel is above one half."""

    num_classes = 2

    def forward(self, images):
        score = images.flatten(1).mean(1) - 0.5
        return torch.stack([score, -score], 1)


class Small(nn.Module):
    num_classes = 10

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(images.flatten(1))


def randomness(*indices):
    return ImageRandomness(0, "agreement", torch.tensor(indices))


def test_counts_equal_one_pass_at_a_time():
    network, images, source = Small(), torch.rand(3, 1, 8, 8), randomness(5, 0, 9)
    counts = tally_over_sigmas(network, images, [0.0, 0.5], 11, source)
    slow = torch.zeros(2, 3, 10, dtype=torch.int64)
    for vote in range(11):
        noise = source.normal(images, COPIES, draw=vote // COPIES)[vote % COPIES]
        for level, sigma in enumerate([0.0, 0.5]):
            for image in range(3):
                answer = network(images[image : image + 1] + sigma * noise[image : image + 1]).argmax()
                slow[level, image, answer] += 1
    assert torch.equal(counts, slow)
    assert counts.sum(2).eq(11).all()


def test_an_images_votes_do_not_depend_on_its_batch():
    network, images = Small(), torch.rand(4, 1, 8, 8)
    together = tally_over_sigmas(network, images, [0.3], 9, randomness(0, 1, 2, 3))
    alone = tally_over_sigmas(
        network, images[2:3], [0.3], 9, ImageRandomness(0, "agreement", torch.tensor([2]))
    )
    assert torch.equal(together[:, 2:3], alone)


def test_votes_have_the_gaussian_probability():
    """On a linear classifier class 0 wins each vote with probability Phi(margin / (sigma / 8))."""
    images = torch.full((1, 1, 8, 8), 0.52)
    counts = tally_over_sigmas(
        Linear(), images, [0.2], 4000, ImageRandomness(3, "agreement", torch.tensor([0]))
    )
    share = stats.norm.cdf(0.02 / (0.2 / 8))
    low, high = stats.binom.interval(0.9999, 4000, share)
    assert low <= int(counts[0, 0, 0]) <= high


def run(folder, batch_size=64, **options):
    data = DigitsDataModule(channels=1, batch_size=batch_size, subset=Subset(every=40))
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


def test_without_noise_the_vote_is_the_pass(tmp_path):
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


def test_an_image_without_rows_is_missed(tmp_path, monkeypatch):
    """One that another rank has seen, say, and not written."""
    monkeypatch.setattr("robustsmooth.evaluation.agreement.gather", lambda seen: [*seen, 363])
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

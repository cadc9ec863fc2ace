"""Ensembles: the mean of logits, a consensus, and runs that become one network."""

import pytest
import torch
from torch import nn

from robustsmooth.models import Ensemble


class Fixed(nn.Module):
    """A network with known answers, which counts its passes."""

    num_classes = 3

    def __init__(self, logits):
        super().__init__()
        self.logits, self.asked = torch.tensor(logits), 0

    def forward(self, images):
        self.asked += 1
        return self.logits[: len(images)]


ONE = [[2.0, 0.0, 0.0], [0.0, 4.0, 0.0]]
TWO = [[3.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
THREE = [[0.0, 9.0, 0.0], [0.0, 0.0, 6.0]]
IMAGES = torch.zeros(2, 1, 2, 2)


def test_the_mean_of_the_logits():
    logits = Ensemble([Fixed(ONE), Fixed(TWO), Fixed(THREE)])(IMAGES)
    torch.testing.assert_close(logits, torch.tensor([ONE, TWO, THREE]).mean(dim=0))


def test_a_consensus_of_the_first_networks_decides():
    """The first two agree on the first image and not on the second."""
    members = [Fixed(ONE), Fixed(TWO), Fixed(THREE)]
    logits = Ensemble(members, consensus=2)(IMAGES)
    torch.testing.assert_close(logits, torch.tensor([[2.5, 0, 0], [0, 4 / 3, 3.0]]))
    assert Ensemble(members)(IMAGES).argmax(1).tolist() == [1, 2]  # another classifier
    assert logits.argmax(1).tolist() == [0, 2]


def test_a_consensus_saves_passes():
    members = [Fixed(ONE), Fixed(TWO), Fixed(THREE)]
    Ensemble(members, consensus=2)(IMAGES[:1])
    assert [member.asked for member in members] == [1, 1, 0]


@pytest.mark.parametrize(
    ("members", "consensus", "message"),
    [
        ([Fixed(ONE)], None, "at least two networks, got 1"),
        ([Fixed(ONE), Fixed(TWO)], 2, r"`model\.consensus` must be at least 2 and below"),
    ],
)
def test_bad_settings(members, consensus, message):
    with pytest.raises(ValueError, match=message):
        Ensemble(members, consensus)


def test_networks_of_other_classes():
    other = Fixed(ONE)
    other.num_classes = 4
    with pytest.raises(ValueError, match=r"the same classes, got \[3, 4\]"):
        Ensemble([Fixed(ONE), other])


def test_runs_are_certified_as_one_network(call, gaussian, natural, tmp_path, monkeypatch):
    monkeypatch.chdir(gaussian.parent)
    words = [f"checkpoint={gaussian.name}", "certificate.n0=5", "certificate.n=20", "data.subset.max=2"]
    members = ["model=ensemble", f"model.members=[{natural.name}]"]
    call("certify", *words, *members, f"hydra.run.dir={tmp_path}/both")
    call("certify", *words, f"hydra.run.dir={tmp_path}/one")
    both, one = ((tmp_path / name / "certify.settings.json").read_text() for name in ("both", "one"))
    assert both != one  # the fingerprint is that of the ensemble
    assert len((tmp_path / "both" / "certify.tsv").read_text().splitlines()) == 3

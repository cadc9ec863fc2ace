"""The command `export`: its files say what was exported, also if that is not the trained network alone."""

import re
import shutil

import pytest
import torch
from torch import nn

import robustsmooth
from robustsmooth.models import DnCNN
from robustsmooth.smoothing import GaussianNoise, UniformNoise

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def denoiser(tmp_path):
    """The file of a denoiser that changes its images."""
    denoiser = DnCNN(channels=1, depth=3, width=4)
    nn.init.normal_(denoiser.dncnn[-1].weight)
    torch.save(denoiser.state_dict(), tmp_path / "denoiser.pt")
    return tmp_path / "denoiser.pt"


def test_a_denoiser_given_at_export_is_part_of_the_file(call, gaussian, denoiser, tmp_path):
    given = ["+denoiser@model.denoiser=dncnn", "model.denoiser.depth=3", "model.denoiser.width=4"]
    words = [f"checkpoint={gaussian}", *given, f"model.denoiser_checkpoint={denoiser}"]
    call("export", *words, f"hydra.run.dir={tmp_path}/exported")
    exported, plain = robustsmooth.load(tmp_path / "exported"), robustsmooth.load(gaussian)
    assert exported.sigma == plain.sigma
    first = DnCNN(channels=1, depth=3, width=4).eval()
    first.load_state_dict(torch.load(denoiser))
    with torch.no_grad():
        torch.testing.assert_close(exported.network(IMAGES), plain.network(first(IMAGES)))


def test_a_card_has_the_certifications_of_the_exported_model_alone(call, gaussian, denoiser, tmp_path):
    """A denoiser makes another model of the same checkpoint."""
    run = shutil.copytree(gaussian, tmp_path / "run")
    given = ["+denoiser@model.denoiser=dncnn", "model.denoiser.depth=3", "model.denoiser.width=4"]
    given = [*given, f"model.denoiser_checkpoint={denoiser}"]
    models = {"plain": (20, []), "denoised": (30, given)}
    for name, (n, words) in models.items():
        few = ["data.subset.max=2", "certificate.n0=10", f"certificate.n={n}"]
        call("certify", f"checkpoint={run}", *words, *few, f"hydra.run.dir={run}/{name}")
    for name, (n, words) in models.items():
        call("export", f"checkpoint={run}", *words, f"hydra.run.dir={tmp_path}/{name}")
        card = (tmp_path / name / "README.md").read_text()
        assert re.findall(", n = ([0-9]+),", card) == [str(n)]


def test_an_ensemble_is_exported_as_its_networks(call, gaussian, natural, tmp_path):
    words = ["model=ensemble", f"model.members=[{natural}]"]
    text = call("export", f"checkpoint={gaussian}", *words, f"hydra.run.dir={tmp_path}/all", status=1)
    assert "export each of its networks by itself" in text
    assert not list((tmp_path / "all").glob("*.safetensors"))
    for run in (gaussian, natural):
        call("export", f"checkpoint={run}", f"hydra.run.dir={tmp_path}/{run.name}")
    settings = "model=ensemble", f"model.members=[{tmp_path}/{natural.name}]"
    ensemble = robustsmooth.load(tmp_path / gaussian.name, *settings).network
    members = [robustsmooth.load(run).network(IMAGES) for run in (gaussian, natural)]
    with torch.no_grad():
        torch.testing.assert_close(ensemble(IMAGES), torch.stack(members).mean(dim=0))


@pytest.mark.parametrize(
    ("changes", "noise"),
    [
        ({}, GaussianNoise(0.25)),
        ({"smoothing": {"_target_": "robustsmooth.smoothing.UniformNoise"}}, UniformNoise(0.25)),
        ({"method": {"sigma": 0.0}}, GaussianNoise(0.5)),
        ({"own": "robustsmooth.models.classifier.SmallCNN"}, GaussianNoise(0.25)),
    ],
    ids=["gaussian", "uniform", "without noise", "own network"],
)
def test_the_code_on_the_card_runs(call, gaussian, tmp_path, monkeypatch, changes, noise):
    """With the noise of the training, or sigma left to the reader."""
    content = torch.load(gaussian / "checkpoints" / "last.ckpt")
    config = content["robustsmooth"]["config"]
    own = changes.pop("own", None)
    config |= changes
    config["model"]["network"]["_target_"] = own or "robustsmooth.models.SmallCNN"
    torch.save(content, tmp_path / "a.ckpt")
    words = [f"checkpoint={tmp_path}/a.ckpt", f"trust=[{own}]" if own else "trust=[]"]
    call("export", *words, f"hydra.run.dir={tmp_path}/net")
    card = (tmp_path / "net" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].replace("100_000", "50")
    monkeypatch.chdir(tmp_path)
    names = {"images": IMAGES, "sigma": 0.5}
    exec(code, names)
    assert names["classifier"].noise == noise
    assert ("GaussianNoise(sigma)" in code) == ("smoothing.sigma=<sigma>" in card) == ("method" in changes)
    assert ("trust=[robustsmooth.models.classifier.SmallCNN]" in card) == bool(own)

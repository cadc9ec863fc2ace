"""The command `export`: its files say what was exported, also if that is not the trained network alone."""

import pytest
import torch
from torch import nn

import robustsmooth
from robustsmooth.models import DnCNN

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

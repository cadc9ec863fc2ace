"""Tests that need a GPU: ``pytest -m gpu``, as `benchmarks/gpu.sh` runs them. Without a GPU they fail."""

import csv
from pathlib import Path

import pytest
import torch

from robustsmooth.smoothing.addressing import BatchRandomness, ImageRandomness

pytestmark = pytest.mark.gpu


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_an_images_numbers_do_not_depend_on_its_batch():
    images = torch.zeros(5, 3, 8, 8, device="cuda")
    indices = torch.tensor([3, 1, 4, 15, 9])
    together = ImageRandomness(0, "p", indices).normal(images, copies=2)
    for at in range(5):
        alone = ImageRandomness(0, "p", indices[at : at + 1]).normal(images[:1], copies=2)
        assert torch.equal(together[:, at], alone[:, 0])


def test_normal_numbers_are_standard_normal():
    sample = BatchRandomness(0, "p").normal(torch.zeros(1000, device="cuda"), copies=1000).double()
    assert abs(sample.mean()) < 4 / sample.numel() ** 0.5
    assert abs(sample.var() - 1) < 4 * (2 / sample.numel()) ** 0.5


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_and_certifying(run, tmp_path, precision):
    gpu = ["trainer=gpu", f"trainer.precision={precision}"]
    run("train", *gpu, "trainer.max_epochs=8", f"hydra.run.dir={tmp_path}/run")
    words = [f"checkpoint={tmp_path}/run", "certificate.n=1000", "data.subset.max=40"]
    run("certify", *gpu, *words, f"hydra.run.dir={tmp_path}/gpu")
    table = rows(tmp_path / "gpu" / "certify.tsv")
    assert len(table) == 40
    assert sum(int(row["correct"]) for row in table) > 20


def test_the_same_classifier_on_both_devices(run, tmp_path):
    """Noise differs between devices; certified accuracies agree within the sampling error."""
    run("train", "trainer=gpu", "trainer.max_epochs=8", f"hydra.run.dir={tmp_path}/run")
    accuracy = {}
    for device in ("cpu", "gpu"):
        words = [f"checkpoint={tmp_path}/run", "certificate.n=500", f"trainer={device}"]
        run("certify", *words, f"hydra.run.dir={tmp_path}/{device}")
        table = rows(tmp_path / device / "certify.tsv")
        accuracy[device] = sum(int(r["correct"]) and float(r["radius"]) >= 0.25 for r in table) / len(table)
    assert abs(accuracy["cpu"] - accuracy["gpu"]) < 0.05


def test_compiled_certification(run, tmp_path):
    run("train", "trainer=gpu", "trainer.max_epochs=4", f"hydra.run.dir={tmp_path}/run")
    words = [f"checkpoint={tmp_path}/run", "trainer=gpu", "numerics.compile=true", "data.subset.max=8"]
    run("certify", *words, "certificate.n=500", f"hydra.run.dir={tmp_path}/c", timeout=600)
    assert len(rows(tmp_path / "c" / "certify.tsv")) == 8


def test_killed_and_resumed_training_is_identical(run, tmp_path):
    fixed = ["trainer=gpu", "trainer.deterministic=true"]
    run("train", *fixed, "trainer.max_epochs=4", f"hydra.run.dir={tmp_path}/whole")
    run("train", *fixed, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/parts")
    run("train", *fixed, "trainer.max_epochs=4", f"hydra.run.dir={tmp_path}/parts")
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)

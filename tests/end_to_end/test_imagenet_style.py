"""Folders of JPEGs as large as ImageNet's through train, certify and attack, with the paper's recipe."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from robustsmooth.models import torchvision_network

CLASSES = ["n01440764", "n01443537", "n01484850"]


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Three classes with 8 training and 4 validation JPEGs each, of about 500x375 pixels."""
    root, source = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                small = Image.fromarray(source.integers(0, 256, (12, 16, 3), dtype=np.uint8))
                size = (500, 375) if number % 2 else (333, 500)
                photograph = small.resize(size, Image.Resampling.BICUBIC)
                photograph.save(root / split / name / f"{name}_{number}.JPEG", quality=90)
    return root


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint in torchvision's format, for three classes."""
    path = tmp_path_factory.mktemp("published") / "resnet18.pth"
    torch.manual_seed(0)
    torch.save(torchvision_network("resnet18", 3).state_dict(), path)
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_heat_on_imagenet(imagenet, published, tmp_path, run):
    folder = tmp_path / "heat"
    run(
        "train",
        "method=heat",
        "data=imagenet",  # also chooses recipe/heat-imagenet
        f"data.root={imagenet}",
        "data.num_classes=3",
        "data.val_images=3",
        "data.batch_size=4",
        "data.num_workers=1",
        "data.augmentation.size=112",
        "data.test_crop=112",
        "model=torchvision",
        f"model.checkpoint={published}",
        "loss.num_probes=2",
        "trainer.limit_train_batches=2",
        f"hydra.run.dir={folder}",
    )
    assert json.loads((folder / "classes.json").read_text()) == CLASSES
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["epochs"], summary["steps"]) == (1, 2)
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    first = torch.load(published, weights_only=True)
    moved = last["state_dict"]["network.network.conv1.weight"] - first["conv1.weight"]
    assert 0 < moved.abs().max() < 1  # it started from the checkpoint and took steps

    few = ["data.subset.every=5", "data.num_workers=1"]
    certified = tmp_path / "certified"
    run(
        "certify",
        f"checkpoint={folder}",
        "certificate.n0=5",
        "certificate.n=20",
        *few,
        f"hydra.run.dir={certified}",
    )
    rows = pd.read_csv(certified / "certify.tsv", sep="\t")
    assert rows["idx"].tolist() == [0, 5, 10]
    assert rows["label"].tolist() == [0, 1, 2]  # sorted by class, four of each

    attacked = tmp_path / "attacked"
    target = ["target=network", "attack=pgd_l2", "attack.steps=2", "attack.epsilon=4"]
    run("attack", f"checkpoint={folder}", *target, *few, f"hydra.run.dir={attacked}")
    rows = pd.read_csv(attacked / "attack.tsv", sep="\t")
    assert rows["idx"].tolist() == [0, 5, 10]
    assert (rows["l2"] <= 4 * (1 + 1e-5)).all()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_larger_test_crops_and_an_unreadable_file(imagenet, published, tmp_path, run):
    """A foreign checkpoint on folders of images: the sanity check, and a damaged file in one sentence."""
    words = [
        f"checkpoint={published}",
        "model=torchvision",
        "data=imagenet",
        f"data.root={imagenet}",
        "data.num_classes=3",
        "data.num_workers=1",
        "data.subset.every=6",
        "smoothing.sigma=0.25",
        "certificate.n0=2",
        "certificate.n=4",
    ]
    done = run("certify", *words, "data.test_crop=288", f"hydra.run.dir={tmp_path / 'large'}")
    assert "clean accuracy on 2 test images:" in done.stdout
    broken = imagenet / "val" / CLASSES[1] / f"{CLASSES[1]}_2.JPEG"
    content = broken.read_bytes()
    try:
        broken.write_bytes(content[:3000])
        failed = run("certify", *words, f"hydra.run.dir={tmp_path / 'broken'}", status=1)
        sentence = f"robustsmooth certify: `{broken}` cannot be read as an image; replace it or remove it"
        assert failed.stderr.strip().splitlines()[-1] == sentence
    finally:
        broken.write_bytes(content)

"""Errors in data and checkpoints end a command with one sentence and status 1."""

import shutil

import pytest
import torch

from tests.data.conftest import class_folders, draw, official_cifar10

__all__ = ["class_folders", "draw", "official_cifar10"]  # fixtures


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["data=cifar10", "data.root=nowhere"],
            "`nowhere` holds neither cifar-10-batches-py/ nor train/ and test/",
        ),
        (
            ["data=imagenet", "data.root=nowhere"],
            "`nowhere/train` does not exist; set data.root to the folder",
        ),
        (["data=mnist", "data.root=nowhere"], "`nowhere` has no train-images-idx3-ubyte"),
        (["data.batch_size=0"], "`data.batch_size` must be at least 1, got 0"),
        (
            ["data.batch_size=2000"],
            "`batch_size` must be at most the number of training images (1253), got 2000",
        ),
        (["model.normalization=imagnet"], "`model.normalization` must be one of none, cifar10,"),
        (["model=torchvision"], "torchvision's resnet18 takes images of 3 channels, but the data (and"),
        (["model.checkpoint=nowhere.pt"], "there is no checkpoint at `nowhere.pt`"),
    ],
)
def test_an_error_is_one_sentence(call, tmp_path, words, sentence):
    said = call("train", "method=natural", "trainer=cpu", *words, cwd=tmp_path, status=1)
    assert sentence in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.slow
def test_cifar_from_training_to_export(call, official_cifar10, tmp_path):
    """The official files; then certify from a safetensors file alone."""
    root, _ = official_cifar10
    folder, exported = tmp_path / "run", tmp_path / "a.safetensors"
    call(
        "train",
        "method=gaussian",
        "data=cifar10",
        "model=cifar_resnet20",
        f"data.root={root}",
        "data.val_images=10",
        "data.batch_size=20",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "method.sigma=0.5",
        f"hydra.run.dir={folder}",
    )
    call("export", f"checkpoint={folder}", f"file={exported}", f"hydra.run.dir={tmp_path / 'export'}")
    short = ["certificate.n0=5", "certificate.n=10", "data.subset.every=5", "trainer=cpu"]
    for name, checkpoint in (("first", folder), ("second", exported)):
        call("certify", f"checkpoint={checkpoint}", *short, f"hydra.run.dir={tmp_path / name}")
    columns = [
        [line.split("\t")[:5] for line in (tmp_path / name / "certify.tsv").read_text().splitlines()]
        for name in ("first", "second")
    ]
    assert len(columns[0]) == 1 + 2
    assert columns[0] == columns[1]


def test_a_new_head_is_kept(call, tmp_path):
    """Fine-tuned with a new head, and loaded with it for evaluation."""
    pretrained, folder = tmp_path / "pretrained", tmp_path / "run"
    short = ["method=natural", "trainer=cpu", "trainer.max_epochs=1"]
    call("train", *short, f"hydra.run.dir={pretrained}")
    call("train", *short, f"model.checkpoint={pretrained}", "model.new_head=true", f"hydra.run.dir={folder}")
    call(
        "export",
        f"checkpoint={folder}",
        f"file={tmp_path / 'a.safetensors'}",
        f"hydra.run.dir={tmp_path / 'export'}",
    )
    from safetensors.torch import load_file

    trained = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    exported = load_file(tmp_path / "a.safetensors")
    assert torch.equal(exported["network.head.weight"], trained["network.network.head.weight"])


FOLDERS = ["data=imagefolder", "data.test_crop=32", "data.num_workers=0", "trainer=cpu"]


def test_a_folder_of_images_from_training_to_certification(call, class_folders, tmp_path):
    """The number of classes is not given; the weights are then certified as a foreign file."""
    data = [*FOLDERS, f"data.root={class_folders({'cat': 6, 'dog': 6}, {'cat': 2, 'dog': 2})}"]
    short = ["data.batch_size=4", "trainer.max_epochs=1"]
    folder = tmp_path / "run"
    call("train", "method=gaussian", *data, "model=torchvision", *short, f"hydra.run.dir={folder}")
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["robustsmooth"]["config"]["model"]["network"]["num_classes"] == 2
    weights = {name.removeprefix("network."): value for name, value in saved["state_dict"].items()}
    torch.save(weights, tmp_path / "foreign.pt")
    given = ["model=torchvision", "smoothing.sigma=0.5", "certificate.n0=5", "certificate.n=10"]
    certified = ["certify", f"checkpoint={tmp_path / 'foreign.pt'}", *data, *given]
    call(*certified, f"hydra.run.dir={tmp_path / 'certified'}")
    assert len((tmp_path / "certified" / "certify.tsv").read_text().splitlines()) == 1 + 4
    more = ["train", "method=gaussian", *data, "model=torchvision", short[0], "trainer.max_epochs=2"]
    removed = (tmp_path / "train" / "dog" / "0005.png").rename(tmp_path / "removed.png")
    said = call(*more, f"hydra.run.dir={folder}", status=1)
    assert f"`{folder}` began with 12 images in the training split, which has 11 now; put" in said
    removed.rename(tmp_path / "train" / "dog" / "0005.png")
    for split in ("train", "test"):
        (tmp_path / split / "dog").rename(tmp_path / split / "Dog")  # sorted before `cat`
    said = call(*more, f"hydra.run.dir={folder}", status=1)
    assert f"label 0 is 'cat' in the training of `{folder}`, but 'Dog' in the data; put" in said
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0
    assert (folder / "summary.json").exists()
    shutil.rmtree(tmp_path / "train")
    own = ["certify", f"checkpoint={folder}", "data.num_workers=0", "certificate.n=10"]
    said = call(*own, f"hydra.run.dir={tmp_path / 'other'}", status=1)
    assert "the class with label 0 is 'cat' in the training of" in said
    assert "but 'Dog' in the data; give the class folders the names of the training" in said

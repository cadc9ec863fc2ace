"""The base data module inside a real Trainer: order, augmentation, resuming, ranks."""

import functools
import math
import re

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from robustsmooth.data import Batch, CropAndFlip, DigitsDataModule, ImageTensors, Subset
from robustsmooth.evaluation import EvaluationModule
from robustsmooth.methods import GaussianModule
from robustsmooth.models import SmallCNN


def digits(**settings):
    settings = {
        "val_images": 180,
        "augmentation": CropAndFlip(1, False),
        "batch_size": 256,
        "seed": 3,
    } | settings
    return DigitsDataModule(num_classes=10, channels=1, **settings)


class Recorder(pl.LightningModule):
    """Records the images of each step; stops after some steps as if it were killed."""

    def __init__(self, stop_after=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(64, 10)
        self.seen, self.stop_after = [], stop_after
        self.validated, self.tested = [], []

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.stop_after:
            raise KilledError
        data = self.trainer.datamodule
        stored = data.part("train").__getitems__(batch.indices.tolist())
        assert torch.equal(batch.images, data.convert(stored, epoch=self.current_epoch).images)
        self.seen.append(
            (self.current_epoch, batch_idx, batch.indices.tolist(), batch.images.double().sum().item())
        )
        return torch.nn.functional.cross_entropy(self.layer(batch.images.flatten(1)), batch.labels)

    def validation_step(self, batch, batch_idx):
        self.validated += batch.indices.tolist()
        assert torch.equal(batch.images, self.stored(batch, "train"))

    def test_step(self, batch, batch_idx):
        self.tested += batch.indices.tolist()
        assert torch.equal(batch.images, self.stored(batch, "test"))

    def stored(self, batch, split):
        return self.trainer.datamodule.part(split).images[batch.indices] / 255

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class KilledError(Exception):
    pass


def trainer(folder, **checkpointing):
    callback = ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False, **checkpointing)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(max_epochs=3, accelerator="cpu", callbacks=[callback], **quiet)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    module = Recorder()
    trainer(tmp_path_factory.mktemp("whole")).fit(module, digits())
    return module


@pytest.mark.filterwarnings("ignore:.*exists and is not empty:UserWarning")
@pytest.mark.parametrize(
    "checkpointing",
    [{"save_on_train_epoch_end": True}, {"save_on_train_epoch_end": False}, {"every_n_train_steps": 3}],
    ids=["epoch", "validation", "steps"],
)
@pytest.mark.parametrize("killed_after", [4, 6, 9])
def test_a_resumed_run_gets_the_images_of_the_uninterrupted_one(
    tmp_path, uninterrupted, checkpointing, killed_after
):
    with pytest.raises(KilledError):
        trainer(tmp_path, **checkpointing).fit(Recorder(killed_after), digits())
    checkpoint = tmp_path / "last.ckpt"
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    resumed = Recorder()
    trainer(tmp_path, **checkpointing).fit(resumed, digits(), ckpt_path=checkpoint, weights_only=True)
    assert 0 < step < len(uninterrupted.seen) == 12
    assert resumed.seen == uninterrupted.seen[step:]
    assert torch.equal(resumed.layer.weight, uninterrupted.layer.weight)


class ImageRecorder(Recorder):
    """Records every image with its index."""

    def training_step(self, batch, batch_idx):
        self.seen += zip(batch.indices.tolist(), batch.images, strict=True)
        return self.layer(batch.images.flatten(1)).sum()


def test_an_image_that_is_drawn_twice_is_augmented_twice(tmp_path):
    """The first time as without weights."""
    data, module = digits(augmentation=CropAndFlip(8, True)), ImageRecorder()
    data.draw_weights = lambda epoch: torch.arange(1433 - 180) < 20
    trainer(tmp_path).fit(module, data)
    assert {index for index, _ in module.seen} == set(data.train_positions[:20])
    for chosen in data.train_positions[:20]:
        images = [image for index, image in module.seen if index == chosen]
        once = data.convert(data.part("train").__getitems__([chosen]), epoch=0).images[0]
        assert torch.equal(images[0], once)
        assert len({image.sum().item() for image in images}) > 3  # epochs


def test_splits_are_disjoint_and_validation_is_not_augmented(tmp_path, uninterrupted):
    data = digits()
    data.setup()
    trained = {index for _, _, indices, _ in uninterrupted.seen for index in indices}
    assert trained <= set(data.train_positions)
    assert not set(data.train_positions) & set(data.val_positions)
    assert sorted(set(uninterrupted.validated)) == data.val_positions
    assert len(data.train_positions) + len(data.val_positions) == len(data.part("train"))


def test_the_chosen_test_images_are_loaded_once(tmp_path):
    module, data = Recorder(), digits(subset=Subset(every=7), batch_size=10)
    trainer(tmp_path).test(module, data, verbose=False)
    assert module.tested == data.test_indices == list(range(0, 364, 7))


def test_the_batch_is_over_all_devices():
    """A rank's loader yields its share of each step, augmented as on one device."""
    alone = next(iter(digits(batch_size=60).train_dataloader()))
    shares = []
    for rank in range(3):
        data = digits(batch_size=60)
        data._rank = lambda rank=rank: (rank, 3)
        shares.append(data.convert(next(iter(data.train_dataloader())), epoch=0))
    assert all(len(share.images) == 20 for share in shares)
    joined = {
        int(index): image
        for share in shares
        for index, image in zip(share.indices, share.images, strict=True)
    }
    whole = digits(batch_size=60).convert(alone, epoch=0)
    assert set(joined) == set(whole.indices.tolist())
    assert all(
        torch.equal(joined[int(index)], image)
        for index, image in zip(whole.indices, whole.images, strict=True)
    )


def test_conversion_is_on_the_8_bit_grid():
    batch = Batch(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16), torch.zeros(1), torch.zeros(1))
    images = digits(augmentation=None).convert(batch, epoch=1).images
    assert images.dtype == torch.float32
    assert torch.equal(images.flatten(), torch.arange(256) / 255)


def test_each_epoch_has_new_augmentation():
    data = digits()
    batch = data.part("train").__getitems__(range(100))
    first, again, second = (data.convert(batch, epoch=epoch).images for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    same = (first == second).flatten(1).all(1)
    assert same.sum() < 30  # one of nine is equal by chance
    assert torch.equal(data.convert(batch).images, batch.images / 255)


def test_sample_takes_evenly_and_converts():
    data = digits(subset=Subset(every=2))
    images, labels, indices = data.sample(90)
    assert len(images) == len(labels) == 90
    assert set(indices.tolist()) < set(data.test_indices)
    assert labels.bincount().min() >= 4
    assert torch.equal(data.sample(1000).indices, torch.tensor(data.test_indices))
    assert set(data.sample(50, "val").indices.tolist()) < set(data.val_positions)
    assert set(digits(val_images=0).sample(50, "val").indices.tolist()) < set(range(1433))


def test_without_validation_images_there_is_no_loader():
    assert digits(val_images=0).val_dataloader() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "`data.batch_size` must be at least 1, got 0"),
        ({"num_workers": -1}, "`data.num_workers` must be at least 0, or null, got -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        digits(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 7}, "`data.num_classes` is 7, but the data have 10 classes"),
        ({"channels": 3}, "`data.channels` is 3, but the images have 1 channels"),
        ({"val_images": 1433}, r"`data.val_images` must be in \[0, 1433\)"),
        ({"batch_size": 1254}, r"at most the number of training images \(1253\)"),
        ({"subset": Subset(indices=[364])}, r"`subset.indices` must be in \[0, 364\)"),
    ],
)
def test_settings_that_do_not_fit_the_data(settings, message):
    data = DigitsDataModule(**{"num_classes": 10, "channels": 1, "val_images": 180} | settings)
    with pytest.raises(ValueError, match=message):
        data.train_dataloader(), data.test_dataloader()


def test_the_class_count_may_come_from_the_data():
    assert DigitsDataModule(num_classes=None, channels=1).num_classes == 10


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_tensors_take_labels_of_every_integer_type(dtype):
    part = ImageTensors(torch.full((3, 1, 2, 2), 9, dtype=torch.uint8), torch.tensor([2, 0, 1], dtype=dtype))
    batch = part.__getitems__([0, 2])
    assert torch.nn.functional.cross_entropy(torch.eye(3)[:2], batch.labels) > 0
    assert batch.labels.tolist() == [2, 1]


def test_a_single_image_may_be_black():
    assert len(ImageTensors(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]))) == 1
    assert len(ImageTensors(torch.zeros(0, 1, 2, 2, dtype=torch.uint8), torch.tensor([], dtype=int))) == 0


PIXELS, LABELS = torch.arange(80, dtype=torch.uint8).view(5, 1, 4, 4), torch.arange(5) % 2


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (PIXELS, torch.arange(6), "must have equal lengths, got 5 images and 6 labels"),
        (PIXELS, LABELS[:-1], "must have equal lengths, got 5 images and 4 labels"),
        (PIXELS, torch.eye(5).long(), "`labels` must be an integer tensor (N,), got int64 of shape (5, 5)"),
        (PIXELS, LABELS[:, None], "`labels` must be an integer tensor (N,), got int64 of shape (5, 1)"),
        (PIXELS, LABELS.float(), "`labels` must be an integer tensor (N,), got float32 of shape (5,)"),
        (PIXELS, LABELS.bool(), "`labels` must be an integer tensor (N,), got bool of shape (5,)"),
        (PIXELS, LABELS.numpy(), "`labels` must be an integer tensor (N,), got numpy.ndarray"),
        (PIXELS, LABELS.tolist(), "`labels` must be an integer tensor (N,), got list"),
        (PIXELS.numpy(), LABELS, "`images` must be a uint8 tensor (N, C, H, W), got numpy.ndarray"),
        (PIXELS[:, 0], LABELS, "`images` must be a uint8 tensor (N, C, H, W), got uint8 of shape (5, 4, 4)"),
        (PIXELS / 255, LABELS, "`images` must be a uint8 tensor (N, C, H, W), got float32"),
        ((PIXELS / 79).to(torch.uint8), LABELS, "none is above 1; multiply images in [0, 1] by 255"),
    ],
)  # fmt: skip
def test_tensors_that_are_no_images_with_labels_are_refused(images, labels, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        ImageTensors(images, labels)


def test_a_label_beyond_the_classes_is_refused():
    class Beyond(DigitsDataModule):
        def load(self, split):
            part = super().load(split)
            return ImageTensors(part.images, part.labels + 1)

    with pytest.raises(ValueError, match="the train split has labels up to 10, for 10 classes"):
        Beyond(num_classes=10, channels=1).part("train")


def test_an_empty_class_is_named():
    class Gap(DigitsDataModule):
        def load(self, split):
            part = super().load(split)
            kept = part.labels != 4
            return ImageTensors(part.images[kept], part.labels[kept])

    with pytest.raises(ValueError, match=r"the train split has no image of the classes 4"):
        Gap(num_classes=10, channels=1).setup("fit")


class Sums(pl.LightningModule):
    """A linear model whose test and validation steps write their images, one file per rank."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.layer = folder, torch.nn.Linear(64, 10)
        for parameter in self.layer.parameters():
            torch.nn.init.zeros_(parameter)

    def step(self, name, batch):
        with (self.folder / f"{name}.rank{self.global_rank}").open("a") as file:
            file.writelines(
                f"{index} {image.double().sum().item()}\n"
                for index, image in zip(batch.indices, batch.images, strict=True)
            )

    def training_step(self, batch, batch_idx):
        self.step(f"train{self.current_epoch}.{batch_idx}", batch)
        return torch.nn.functional.cross_entropy(self.layer(batch.images.flatten(1)), batch.labels)

    def validation_step(self, batch, batch_idx):
        self.step("val", batch)

    def test_step(self, batch, batch_idx):
        self.step("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.ddp
def test_two_ranks_get_the_images_of_one_process(tmp_path):
    """The same images and augmentation in each step, each test image once, the same weights."""

    def rows(folder, name):
        return sorted(line for path in folder.glob(f"{name}.rank*") for line in path.read_text().splitlines())

    weights = {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        strategy = {"strategy": "ddp_fork"} if devices == 2 else {}
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet |= {"enable_checkpointing": False, "num_sanity_val_steps": 0}
        runner = pl.Trainer(
            max_epochs=2, accelerator="cpu", devices=devices, default_root_dir=folder, **strategy, **quiet
        )
        module = Sums(folder)
        runner.fit(module, digits())
        weights[devices] = module.layer.weight.detach().clone()
        runner.test(module, digits(), verbose=False)
    names = {path.name.partition(".rank")[0] for path in (tmp_path / "1").iterdir()}
    assert len(names) == 2 * 4 + 2
    for name in names:
        assert rows(tmp_path / "1", name) == rows(tmp_path / "2", name), name
    assert len(rows(tmp_path / "2", "test")) == 364
    assert torch.allclose(weights[1], weights[2], atol=1e-6)


@pytest.mark.ddp
@pytest.mark.filterwarnings("ignore:.*was called before the ``update`` method")
def test_a_rank_without_images_does_not_block_the_others(tmp_path):
    """One test image and one validation image on two ranks: right metrics, and no rank waits forever."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "max_epochs": 1}
    quiet["use_distributed_sampler"] = False  # as in conf/trainer

    def trainer():
        ranks = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_fork"}
        return pl.Trainer(default_root_dir=tmp_path, **ranks, **quiet)

    network = SmallCNN(num_classes=10, width=4)
    network.num_classes = 10
    data = digits(subset=Subset(indices=[5]), val_images=1)
    testing = trainer()
    testing.test(EvaluationModule(network), data, verbose=False)
    assert float(testing.callback_metrics["test/top1"]) in (0, 1)
    optimizer = functools.partial(torch.optim.SGD, lr=0.01)
    training = trainer()
    training.fit(GaussianModule(network, optimizer, sigma=0.25), data)
    assert float(training.callback_metrics["val/top1"]) in (0, 1)
    assert math.isfinite(float(training.callback_metrics["val/loss"]))


def test_validation_images_can_be_evaluated():
    data = digits(subset=Subset(split="val", every=3), val_images=60)
    data.setup("test")
    assert data.test_indices == data.val_positions[::3]
    batch = next(iter(data.test_dataloader()))
    assert batch.indices.tolist() == data.test_indices[: len(batch.indices)]
    assert torch.equal(batch.labels, data.part("train").labels[batch.indices])
    assert torch.equal(data.sample(5).indices, batch.indices[[0, 4, 8, 12, 16]])


def test_without_validation_images_none_can_be_evaluated():
    with pytest.raises(ValueError, match="there are no validation images"):
        _ = digits(subset=Subset(split="val"), val_images=0).test_indices

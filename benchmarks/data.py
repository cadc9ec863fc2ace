"""The cost of loading data: training with the real pipeline beside training on one constant batch.

    python benchmarks/data.py --cifar10 data/cifar10      # real images: official files or class folders
    python benchmarks/data.py                             # random pixels in the official files' format

One Lightning training of a ResNet-20 on Gaussian-augmented images, in which every other step gets the same
constant batch instead of the next real one. A step's time runs from the end of the step before, so that
fetching, augmenting and converting are in it; taking turns makes the ratio of the medians independent of
what else the machine is doing. Then the parts of the pipeline alone, the memory, and JPEGs of ImageNet's
size through worker processes. Writes Markdown.
"""

import robustsmooth  # isort: skip  # before Lightning, see robustsmooth/_torchvision.py

import argparse
import itertools
import os
import pickle
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image

from robustsmooth.data import Batch, CIFAR10DataModule, CropAndFlip, ImageFolderDataModule, RandomResizedCrop
from robustsmooth.methods import GaussianModule
from robustsmooth.models import CifarResNet, build_classifier

warnings.filterwarnings("ignore")


class TakingTurns:
    """A loader that yields the constant batch after each real one."""

    def __init__(self, real: Any, constant: Batch) -> None:
        self.real, self.constant = real, constant

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.real:
            yield batch
            yield self.constant


class HalfConstant(CIFAR10DataModule):
    """CIFAR-10 with the constant batch, which is float already, at every other step."""

    def train_dataloader(self) -> Any:
        """Real and constant batches in turns."""
        real = super().train_dataloader()
        return TakingTurns(real, self.convert(next(iter(real)), epoch=0))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Do not change the constant batch."""
        if batch.images.is_floating_point():
            return batch
        return super().on_after_batch_transfer(batch, dataloader_idx)


class Clock(pl.Callback):
    """Seconds between the ends of steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Read the clock."""
        self.ends.append(time.perf_counter())


def training(data: CIFAR10DataModule, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of the real and of the constant steps."""
    torch.manual_seed(0)
    network = build_classifier(CifarResNet(20, 10), 10, "cifar10", channels_last=True)
    module = GaussianModule(network, partial(torch.optim.SGD, lr=0.1, momentum=0.9), sigma=0.25)
    clock = Clock()
    trainer = pl.Trainer(
        max_steps=2 * steps + 3,
        accelerator="cpu",
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    times = [later - earlier for earlier, later in itertools.pairwise(clock.ends)][2:]  # warm by now
    return times[1::2], times[0::2]  # step 0 is real, and times[0] belongs to step 3, a constant one


def milliseconds(work: Callable[[], object], turns: int = 30) -> float:
    """The fastest turn: the time of the work without other load."""
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def resident() -> float:
    """MB of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def random_cifar10(folder: Path) -> Path:
    """The official files with random pixels."""
    inside = folder / "cifar-10-batches-py"
    inside.mkdir()
    source = np.random.default_rng(0)
    (inside / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(digit) for digit in range(10)]}))
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        data = source.integers(0, 256, (10_000, 3072), dtype=np.uint8)
        content = {"data": data, "labels": [place % 10 for place in range(10_000)]}
        (inside / name).write_bytes(pickle.dumps(content))
    return folder


def photographs(folder: Path, count: int) -> Path:
    """Smooth JPEGs of 500x375 pixels, about 30 kB each."""
    source = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split / "a").mkdir(parents=True)
        for number in range(count if split == "train" else 1):
            small = Image.fromarray(source.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            photograph = small.resize((500, 375), Image.Resampling.BICUBIC)
            photograph.save(folder / split / "a" / f"{number:04d}.JPEG", quality=90)
    return folder


def large_images(folder: Path, count: int, workers: int) -> float:
    """Images per second through decoding and random crops to 224 pixels, without the start of the workers."""
    data = ImageFolderDataModule(
        str(folder), augmentation=RandomResizedCrop(224), num_workers=workers, batch_size=16
    )
    batches = iter(data.train_dataloader())
    next(batches)
    start = time.perf_counter()
    images = sum(len(batch.images) for batch in batches)
    return images / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="folder of the data; random pixels without it")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each kind")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"robustsmooth {robustsmooth.__version__}, torch {torch.__version__}, {options.threads} threads")
    print(f"batch {options.batch}, ResNet-20\n")
    with tempfile.TemporaryDirectory() as place:
        root = options.cifar10 or random_cifar10(Path(place))
        data = HalfConstant(
            str(root), num_classes=10, batch_size=options.batch, augmentation=CropAndFlip(4, True)
        )
        before, start = resident(), time.perf_counter()
        train = data.part("train")
        opened, after = time.perf_counter() - start, resident()
        real, constant = (statistics.median(times) for times in training(data, options.steps))
        batch = train.__getitems__(list(range(0, 50_000, 50_000 // options.batch))[: options.batch])
        positions = batch.indices.tolist()
        crop = data.augmentation
        print("| training | ms per step | images/s |\n|---|---|---|")
        for name, seconds in (("one constant batch", constant), ("real pipeline", real)):
            print(f"| {name} | {1000 * seconds:.1f} | {options.batch / seconds:.0f} |")
        print(f"\nthroughput of the real pipeline: {constant / real:.3f} of the constant batch\n")
        print("| part of the pipeline | ms per batch |\n|---|---|")
        print(f"| fetch from memory | {milliseconds(lambda: train.__getitems__(positions)):.2f} |")
        if crop is not None:
            print(f"| crop and flip | {milliseconds(lambda: crop(batch.images, batch.indices, 1)):.2f} |")
        print(f"| to float in [0, 1] | {milliseconds(lambda: data.convert(batch)):.2f} |")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(f"\n50 000 training images opened in {opened:.1f} s; {after - before:.0f} MB more resident")
        print(f"(154 MB of pixels), {peak:.0f} MB at the peak of the whole benchmark.\n")
        folder = photographs(Path(place) / "large", 256)
        print("| JPEGs of 500x375 to 224 pixels | images/s |\n|---|---|")
        for workers in (0, 1, options.threads):
            print(f"| {workers} worker processes | {large_images(folder, 256, workers):.0f} |")


if __name__ == "__main__":
    main()

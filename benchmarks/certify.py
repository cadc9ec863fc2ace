"""Certification at the speed of the network: votes per second beside the bare forward pass and others.

    python benchmarks/certify.py                    # ResNet-20 on the CPU: a quarter of an hour, if idle
    python benchmarks/certify.py --clock cpu        # the same on a machine that others use
    python benchmarks/certify.py --device cuda      # ResNet-110 and ResNet-50 on a GPU
    python benchmarks/certify.py --part radius      # fixed_radius against fixed n on the digits: five minutes

All contestants run in one process and take turns; each number is the median over the turns. Votes count
one noisy image each, n0 and n together. Contestants:

* bare: the network on one constant batch, the best over batch sizes and memory formats;
* per core: the same with a batch for each core of a CPU, as our engine computes: the most that it can reach;
* published: the loop of the published code (Cohen et al. 2019, `core.py`): one image at a time, batches of
  1000, contiguous, counts brought to the host after every batch;
* ART: the randomized-smoothing class of the adversarial-robustness-toolbox;
* ours: the engine as `robustsmooth.certify` uses it, by default and with bf16 and compilation.
"""

import argparse
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robustsmooth.models import CifarResNet, Classifier, Normalize, SmallCNN, torchvision_network
from robustsmooth.smoothing import (
    Cohen,
    FixedRadius,
    Forward,
    GaussianNoise,
    Numerics,
    SmoothedClassifier,
    VoteEngine,
)
from robustsmooth.smoothing.workers import workers_for

warnings.filterwarnings("ignore")
SIGMA, N0 = 0.25, 100
clock = time.perf_counter


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of `work` until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def bare(
    network: nn.Module, shape: tuple[int, ...], device: torch.device, layout: bool, size: int, votes: int
):
    """The network alone on one batch, with the default numerics in the given memory format."""
    forward = Forward(network, Numerics(channels_last=layout), device)
    batch = torch.rand((size, *shape), device=device).to(memory_format=forward.memory_format)
    passes = max(1, round(votes / size))
    return lambda: passes * size / seconds(lambda: [forward(batch) for _ in range(passes)], device)


def bare_per_core(network: nn.Module, shape: tuple[int, ...], device: torch.device, size: int, votes: int):
    """The network alone with a batch per core, channels last; None on a GPU."""
    if device.type != "cpu":
        return None
    forward = Forward(network, Numerics(channels_last=True), device)
    cores = workers_for(device)
    batches = [torch.rand((size, *shape)).to(memory_format=forward.memory_format) for _ in range(16)]
    passes = max(1, round(votes / size))

    def run() -> float:
        def work() -> None:
            pending = [cores.submit(forward, batches[number % 16]) for number in range(passes)]
            for item in pending:
                item.result()

        return passes * size / seconds(work, device)

    return run


def published(network: nn.Module, images: Tensor, device: torch.device, classes: int, n: int):
    """The published loop: sample, predict, copy the counts to the host, one batch and one image at a time."""

    def count(image: Tensor, n: int) -> np.ndarray:
        counts = np.zeros(classes, dtype=int)
        for start in range(0, n, 1000):
            batch = image.repeat((min(1000, n - start), 1, 1, 1))
            predictions = network(batch + torch.randn_like(batch) * SIGMA).argmax(1)
            for label in predictions.cpu().numpy():
                counts[label] += 1
        return counts

    def run() -> float:
        with torch.no_grad():
            taken = seconds(lambda: [(count(image, N0), count(image, n)) for image in images], device)
        return len(images) * (N0 + n) / taken

    return run


def ours(network: nn.Module, images: Tensor, device: torch.device, numerics: Numerics, n: int):
    """The engine; its setup (tuning, compilation) happens here and is not timed."""
    certificate = Cohen(n0=N0, n=n)
    engine = VoteEngine(network, GaussianNoise(SIGMA), certificate, random_inside=False, numerics=numerics)
    indices = itertools.count()

    def run() -> float:
        engine.submit(images, torch.tensor([next(indices) for _ in images]))
        return certificate.max_votes * len(images) / seconds(lambda: list(engine.run(flush=True)), device)

    engine.submit(images, torch.tensor([next(indices) for _ in images]))  # the warm-up runs them
    run.engine = engine
    return run


def art(network: nn.Module, images: Tensor, device: torch.device, num_classes: int, n: int):
    """The class of the adversarial-robustness-toolbox; None where it is not installed."""
    try:
        from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
    except ImportError:
        return None
    smoothed = PyTorchRandomizedSmoothing(
        model=network,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=num_classes,
        device_type="gpu" if device.type == "cuda" else "cpu",
        sample_size=N0,
        scale=SIGMA,
        alpha=0.001,
    )

    def run() -> float:
        taken = seconds(lambda: smoothed.certify(images.cpu().numpy(), n=n, batch_size=256), device)
        return len(images) * (N0 + n) / taken

    return run


def race(
    name: str, network: Classifier, shape: tuple[int, ...], votes: int, args: argparse.Namespace
) -> None:
    """All contestants on one network, with `votes` in a turn."""
    device = torch.device(args.device)
    network.to(device).eval()
    images = torch.rand((args.images, *shape), device=device)
    n = max(1, votes // args.images - N0)
    sizes = args.sizes or (
        [64, 128, 256, 512, 1024, 2048] if device.type == "cuda" else [32, 48, 64, 96, 128, 256]
    )
    contestants: dict[str, Callable[[], float] | None] = {
        # The many bare passes together take the time of a few contestants.
        f"bare, {size}, {'channels last' if layout else 'contiguous'}": bare(
            network, shape, device, layout, size, votes // 4
        )
        for layout in (False, True)
        for size in sizes
    }
    contestants |= {
        f"per core, {size}, channels last": bare_per_core(network, shape, device, size, votes // 4)
        for size in sizes
    }
    contestants |= {
        "bare as published (contiguous, 1000)": bare(network, shape, device, False, 1000, votes // 4),
        "published loop": published(network, images, device, network.num_classes, n),
        "ours, default": ours(network, images, device, Numerics(), n),
        "ours, compiled": ours(network, images, device, Numerics(compile=True), n),
        "ours, bf16": ours(network, images, device, Numerics("bf16-mixed"), n),
        "ours, bf16, compiled": ours(network, images, device, Numerics("bf16-mixed", compile=True), n),
        "ART": art(network, images, device, network.num_classes, n),
    }
    speeds: dict[str, list[float]] = {label: [] for label, run in contestants.items() if run}
    for turn in range(-1, args.turns):  # the first one warms up
        for label, item in speeds.items():
            speed = contestants[label]()
            if turn >= 0:
                item.append(speed)
    median = {label: statistics.median(values) for label, values in speeds.items()}
    fastest = max((label for label in median if label.startswith("bare, ")), key=median.__getitem__)
    limit = max(
        (label for label in median if label.startswith(("bare, ", "per core"))), key=median.__getitem__
    )
    loop = median["published loop"]
    machine = (
        f"{args.device}, {torch.get_num_threads()} threads, {args.clock} clock, torch {torch.__version__}"
    )
    print(f"\n## {name}, {machine}\n")
    print("| contestant | votes/s | of the fastest bare forward | of the published loop |")
    print("| --- | ---: | ---: | ---: |")
    for label, speed in median.items():
        print(f"| {label} | {speed:,.0f} | {speed / median[fastest]:.2f} | {speed / loop:.2f} |")
    print(f"\nThe fastest bare forward: {fastest}.")
    for label, run in contestants.items():
        if label.startswith("ours"):
            print(f"{label}: {run.engine.batch_size} at a time, {run.engine.numerics}")

    def aim(text: str, ratios: Sequence[float]) -> None:
        print(f"{text}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")

    # Ratios within a turn, and the closest pair measured again side by side, so that other load cancels.
    for name, label in (("fastest bare, aim 0.95", fastest), (f"the limit ({limit})", limit)):
        aim(f"(1) ours / {name}", [contestants["ours, default"]() / contestants[label]() for _ in range(9)])
    turns = {label: np.array(item) / speeds["published loop"] for label, item in speeds.items()}
    aim("(2) ours / published loop, aim 2", turns["ours, default"])
    aim("(3) ours with bf16 and compiled / published loop, aim 5", turns["ours, bf16, compiled"])
    same_predictions(network, images, device)


def same_predictions(network: nn.Module, images: Tensor, device: torch.device, n: int = 2000) -> None:
    """Votes that differ between our default numerics and the published ones, on the same noise."""
    noise = GaussianNoise(SIGMA)
    default = SmoothedClassifier(network, noise).votes(images, n)
    plain = SmoothedClassifier(network, noise, numerics=Numerics("32-true", False))
    low = SmoothedClassifier(network, noise, numerics=Numerics("bf16-mixed"))
    for label, other in (
        ("fp32, contiguous, batch 1000", plain.votes(images, n, batch_size=1000)),
        ("bf16", low.votes(images, n)),
    ):
        moved = np.abs(default - other).sum() // 2
        print(f"Votes that differ from {label}: {moved} of {default.sum()} net")


def radius(args: argparse.Namespace) -> None:
    """`fixed_radius` against fixed n = 100 000 on trained digits."""
    from robustsmooth.data import DigitsDataModule

    data = DigitsDataModule(channels=1, normalization={"mean": [0.3057], "std": [0.3761]})
    data.setup()
    train = data.part("train")
    network = Classifier(SmallCNN(num_classes=10, width=8), Normalize([0.3057], [0.3761]), num_classes=10)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    everything = data.convert(train.__getitems__(data.train_positions))
    torch.manual_seed(0)
    for _ in range(30):
        for at in torch.randperm(len(everything.images)).split(64):
            loss = nn.functional.cross_entropy(
                network(everything.images[at] + SIGMA * torch.randn_like(everything.images[at])),
                everything.labels[at],
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    test = data.convert(data.part("test").__getitems__(data.test_indices[: args.images]))
    classifier = SmoothedClassifier(network.eval(), GaussianNoise(SIGMA))
    fixed = classifier.certify(test.images, Cohen(n=100_000), indices=test.indices)
    classifier.seed = 1  # other noise: independent decisions
    undecided: list[str] = []
    print("\n| radius | fixed n: certified | fixed_radius: certified | different | votes, times fewer |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for wanted in (0.1, 0.25, 0.5):
        quick = classifier.certify(test.images, FixedRadius(radius=wanted, n=100_000), indices=test.indices)
        sure = np.array([record.radius >= wanted for record in fixed])
        early = np.array([record.radius >= wanted for record in quick])
        votes = np.mean([record.votes for record in quick])
        print(
            f"| {wanted} | {sure.sum()} of {len(sure)} | {early.sum()} | {(sure != early).sum()} | "
            f"{100_100 / votes:.1f} ({votes:,.0f}) |"
        )
        undecided += [f"{fixed[at].radius:.4f} for {wanted}" for at in np.flatnonzero(sure != early)]
    print(
        f"Radii that fixed n certified where the decisions differ: {', '.join(undecided) or 'none differs'}"
    )


VOTES = "votes of one turn; few make the published batches small, and our start and end count"
CLOCK = "cpu: processor seconds on one thread, for ratios on a machine that others use"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", choices=["speed", "radius"], default="speed")
    parser.add_argument("--images", type=int, default=None, help="images to certify")
    parser.add_argument("--votes", type=int, help=VOTES)
    parser.add_argument("--sizes", type=int, nargs="+", help="batches of the bare forward; many by default")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help=CLOCK)
    args = parser.parse_args()
    if args.clock == "cpu":
        global clock
        clock = time.process_time
        torch.set_num_threads(1)
    if args.part == "radius":
        args.images = args.images or 100
        radius(args)
        return
    args.images = args.images or 4
    normalize = Normalize([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])

    def cifar(depth: int, votes: int) -> None:
        network = Classifier(CifarResNet(depth, 10), normalize, num_classes=10)
        race(f"ResNet-{depth}", network, (3, 32, 32), args.votes or votes, args)

    if args.device == "cpu":
        cifar(20, 16_000)
        return
    cifar(110, 80_000)
    network = Classifier(torchvision_network("resnet50", 1000), num_classes=1000)
    race("ResNet-50", network, (3, 224, 224), args.votes or 8_000, args)


if __name__ == "__main__":
    main()

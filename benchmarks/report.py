"""The time and the size of a page about as many logs as have been published in this field.

Writes 2 632 logs in the published format, with as many images as the public ones have, and reports on them:
``python benchmarks/report.py --folder outputs/logs``. The aim is a page in under 20 seconds.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri

METHODS = ("cohen", "smoothadv", "macer", "consistency", "smoothmix", "catrs", "stability", "sun")
SIZES = (
    ("cifar10", 500, 20, 1382),
    ("cifar10", 100, 100, 528),
    ("mnist", 10_000, 1, 309),
    ("cifar10", 10_000, 1, 167),
    ("cifar10-c", 500, 100, 105),
    ("imagenet", 500, 100, 48),
    ("imagenet", 427, 100, 36),
    ("fmnist", 10_000, 1, 21),
    ("cifar10", 250, 20, 18),
    ("cifar100", 10_000, 1, 14),
    ("imagenet", 513, 2500, 2),
    ("cifar10", 9, 1, 2),
)
"""Of the public logs: the data set, how many images, the step between their numbers, how many such logs."""
PATTERN = (
    r"logs/(?P<data>[^/]+)/(?P<model>[^/]+)/(?P<method>[a-z]+)/setting_(?P<setting>\d+)/"
    r"noise_(?P<train_sigma>[0-9.]+)/test/sigma_(?P<sigma>[0-9.]+)"
)


def write_logs(folder: Path, sizes: Sequence[tuple[str, int, int, int]] = SIZES) -> None:
    """Logs of classifiers whose top class has Phi(normal) of the votes, radii rounded to three digits."""
    random, votes, alpha = np.random.default_rng(0), 100_000, 0.001
    every = [(data, step * np.arange(images)) for data, images, step, logs in sizes for _ in range(logs)]
    for number, (data, index) in enumerate(every):
        method, sigma = METHODS[number % 8], (0.12, 0.25, 0.5, 1.0)[number // 8 % 4]
        label = (7 * index + len(data)) % 10
        counts = random.binomial(votes, ndtr(random.normal(1 + 0.1 * (number % 8), 1, len(index))))
        bound = betaincinv(np.maximum(counts, 1), votes - np.maximum(counts, 1) + 1, alpha)
        radius = np.where(bound > 0.5, sigma * ndtri(bound), 0.0)
        answer = np.where(random.random(len(index)) < 0.9, label, (label + 1) % 10)
        answer = np.where(radius > 0, answer, -1)
        columns = zip(index, label, answer, radius, answer == label, strict=True)
        lines = [
            f"{i}\t{y}\t{p}\t{r:.3g}\t{int(c)}\t0:00:{10 + i % 40}.{i % 1000:06d}"
            for i, y, p, r, c in columns
        ]
        place = f"{data}/resnet110/{method}/setting_{number}/noise_{sigma:.2f}/test/sigma_{sigma:.2f}"
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "\n".join(["idx\tlabel\tpredict\tradius\tcorrect\ttime", *lines]) + "\n", encoding="utf-8"
        )


def main() -> None:
    """Write the logs if they do not exist, and time the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark-logs"))
    arguments = parser.parse_args()
    if not arguments.folder.exists():
        write_logs(arguments.folder / "logs")
    from robustsmooth.report import write_report

    entry = {
        "path": str(arguments.folder / "logs" / "**" / "sigma_*"),
        "pattern": PATTERN,
        "n": 100_000,
        "alpha": 0.001,
    }
    wall, processor = time.perf_counter(), time.process_time()
    write_report(entry, arguments.folder / "report", formats=["html"])
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    size = (arguments.folder / "report" / "report.html").stat().st_size / 1e6
    logs = sum(count for *_, count in SIZES)
    print(f"{logs} logs: {wall:.1f} s ({processor:.1f} s of processor time), a page of {size:.1f} MB")


if __name__ == "__main__":
    main()

"""The search for a fast device batch and memory format on this machine, with a few passes."""

import math
import time
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Literal

import torch
from torch import Tensor, nn

from robustsmooth.smoothing.numerics import Forward, Numerics, synchronize
from robustsmooth.smoothing.workers import CallingThread, workers_for

_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_MOST_SECONDS = 0.7  # the longest pass that the search makes
_IMAGES = 96  # the fewest images in one measurement
_TURNS, _SECONDS_OF_TURNS = 8, 3.0  # at most
_SHARE = 0.1  # of the votes' time, for the search
_UNMEASURED = 128  # the largest batch that is taken without a measurement


@dataclass(frozen=True)
class Tuning:
    """The result of the search.

    Attributes:
        batch_size: The device batch.
        numerics: With `channels_last` decided.
        votes_per_second: Of all cores together; nan if nothing was measured.
    """

    batch_size: int
    numerics: Numerics
    votes_per_second: float


def tune(
    network: nn.Module,
    shape: tuple[int, ...],
    device: torch.device,
    batch_size: int | Literal["auto"] = "auto",
    numerics: Numerics | None = None,
    random_inside: bool = False,
    votes: int | None = None,
    images: int | None = None,
) -> Tuning:
    """Find a fast device batch and memory format with a few passes, computed as votes are (`workers`).

    The candidates are measured in turns, so that other processes slow all of them alike; those that are
    clearly slower are dropped. The global generators are not changed.

    Args:
        network: Maps images to logits.
        shape: ``(C, H, W)``.
        device: Where the network is.
        batch_size: Fixed, or ``"auto"``.
        numerics: What is fixed and what is ``"auto"``; nothing is compiled in the search.
        random_inside: Whether the network itself is random.
        votes: How many votes are going to be computed. The search takes about a tenth of their time, and is
            skipped if that is too short to measure anything. None: no limit.
        images: Of how many images, if known. A pass of a random network has one row for each at most.

    Returns:
        The smallest batch within 3 % of the best median speed: its noise fits better into the caches, and
        less of it is padding when there are too few votes.

    Raises:
        ValueError: If the given batch does not fit into memory.
    """
    numerics = numerics or Numerics()
    sizes: tuple[int, ...] = _SIZES
    if random_inside and images and images < sizes[-1]:
        sizes = (*(size for size in sizes if size < images), images)
    workers = workers_for(device, random_inside)
    layouts = [False, True] if numerics.channels_last == "auto" else [bool(numerics.channels_last)]
    at_once = max(1, workers.helpers)
    least = 2 * _IMAGES * at_once * len(layouts)  # images of the shortest search
    if batch_size == "auto" and votes is not None and _SHARE * votes < least:
        few = [size for size in sizes if size * at_once <= votes and size <= _UNMEASURED]
        return Tuning(max(few, default=sizes[0]), replace(numerics, channels_last=layouts[0]), math.nan)
    begin = time.perf_counter()

    def is_over() -> bool:
        return votes is not None and time.perf_counter() - begin > _SHARE * votes / (at_once * best)

    forwards = {
        layout: Forward(network, replace(numerics, compile=False, channels_last=layout), device)
        for layout in layouts
    }
    samples: dict[tuple[int, bool], list[float]] = {}
    slower = 0  # how many sizes in a row were clearly slower than the best
    for size in sizes if batch_size == "auto" else (batch_size,):
        for layout, forward in forwards.items():
            samples[size, layout] = [_speed(forward, (size, *shape), workers, warm_up=True)]
        best = max(max(item) for item in samples.values())
        here = max(samples[size, layout][0] for layout in forwards)
        slower = slower + 1 if here < 0.85 * best else 0
        if slower == 2 or 2 * size > _MOST_SECONDS * here or (best and is_over()):
            break
    if not best:
        raise ValueError(f"a device batch of {size} images does not fit into memory; give a smaller one")
    speeds = {candidate: item[0] for candidate, item in samples.items() if item[0] > 0.85 * best}
    turns = _TURNS if len(speeds) > 1 and size <= _MOST_SECONDS * best else 0
    until = time.perf_counter() + _SECONDS_OF_TURNS
    for _ in range(turns):
        if time.perf_counter() > until or is_over():
            break
        for size, layout in speeds:
            samples[size, layout].append(_speed(forwards[layout], (size, *shape), workers))
        medians = {candidate: median(samples[candidate]) for candidate in speeds}
        best = max(medians.values())
        speeds = {candidate: speed for candidate, speed in medians.items() if speed > 0.85 * best}
    size, layout = min(
        (candidate for candidate, speed in speeds.items() if speed >= 0.97 * best),
        key=lambda candidate: (candidate[0], -speeds[candidate]),
    )
    return Tuning(size, replace(numerics, channels_last=layout), at_once * best)


def _speed(forward: Forward, shape: tuple[int, ...], workers: CallingThread, warm_up: bool = False) -> float:
    """Images per second of one worker while all of them compute; 0 if a batch does not fit into memory."""
    devices = [forward.device] if forward.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):  # random networks draw from the global generator
            batch = torch.rand(shape, device=forward.device)
            batch = batch.to(memory_format=forward.memory_format)
            several = range(max(1, workers.helpers))
            paces = [workers.submit(_pace, forward, batch, warm_up) for _ in several]
            return mean(pace.result() for pace in paces)
    except RuntimeError as error:  # on a GPU it is an OutOfMemoryError, on a CPU it has only this text
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        if forward.device.type == "cuda":
            torch.cuda.empty_cache()
        return 0.0


def _pace(forward: Forward, batch: Tensor, warm_up: bool) -> float:
    """Noisy images per second, from a few passes in this thread."""
    randomness = torch.Generator(forward.device).manual_seed(0)

    def one_pass() -> float:
        synchronize(forward.device)
        start = time.perf_counter()
        forward(torch.empty_like(batch).normal_(generator=randomness).add_(batch))
        synchronize(forward.device)
        return time.perf_counter() - start

    if warm_up and (seconds := one_pass()) > _MOST_SECONDS:
        return len(batch) / seconds
    seconds, images = 0.0, 0
    while images < _IMAGES and seconds < _MOST_SECONDS:
        seconds, images = seconds + one_pass(), images + len(batch)
    return images / seconds

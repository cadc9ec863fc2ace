"""The device batch and the memory format that are quick on this machine, found with a few passes."""

import time
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Literal

import torch
from torch import Tensor, nn

from robustsmooth.smoothing.numerics import Forward, Numerics
from robustsmooth.smoothing.workers import Workers, workers_for

__all__ = ["Tuning", "tune"]

_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_MOST_SECONDS = 0.7  # of one pass that is only there to compare batch sizes
_IMAGES = 96  # that one measurement takes at least
_TURNS, _SECONDS_OF_TURNS = 8, 3.0  # at most


@dataclass(frozen=True)
class Tuning:
    """What was found to be quick.

    Attributes:
        batch_size: The device batch.
        numerics: With `channels_last` decided.
        votes_per_second: Of all cores, in passes over noisy images; nan if nothing was measured.
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
) -> Tuning:
    """Find a quick device batch and memory format with a few passes, computed as votes will be (`workers`).

    The candidates take turns, so that other work on the machine meets all of them; those that are clearly
    slower drop out. The global generators stay as they are.

    Args:
        network: Maps images to logits.
        shape: ``(C, H, W)``.
        device: Where the network is.
        batch_size: Fixed, or ``"auto"``.
        numerics: What is fixed and what is ``"auto"``; compilation is left out of the search.
        random_inside: Whether the network draws noise of its own.

    Returns:
        The smallest batch within 3 % of the best median speed: it keeps its noise in the caches and leaves
        less undone where votes run out.

    Raises:
        ValueError: If the given batch does not fit into memory.
    """
    numerics = numerics or Numerics()
    workers = workers_for(device, random_inside)
    layouts = [False, True] if numerics.channels_last == "auto" else [bool(numerics.channels_last)]
    forwards = {
        layout: Forward(network, replace(numerics, compile=False, channels_last=layout), device)
        for layout in layouts
    }
    samples: dict[tuple[int, bool], list[float]] = {}
    slower = 0  # sizes in a row that were clearly slower than the best
    for size in _SIZES if batch_size == "auto" else (batch_size,):
        for layout, forward in forwards.items():
            samples[size, layout] = [_speed(forward, (size, *shape), workers, warm_up=True)]
        best = max(max(each) for each in samples.values())
        here = max(samples[size, layout][0] for layout in forwards)
        slower = slower + 1 if here < 0.85 * best else 0
        if slower == 2 or 2 * size > _MOST_SECONDS * here:
            break
    if not best:
        raise ValueError(f"a device batch of {size} images does not fit into memory; give a smaller one")
    speeds = {candidate: each[0] for candidate, each in samples.items() if each[0] > 0.85 * best}
    turns = _TURNS if len(speeds) > 1 and size <= _MOST_SECONDS * best else 0
    until = time.perf_counter() + _SECONDS_OF_TURNS
    for _ in range(turns):
        for size, layout in speeds:
            samples[size, layout].append(_speed(forwards[layout], (size, *shape), workers))
        medians = {candidate: median(samples[candidate]) for candidate in speeds}
        best = max(medians.values())
        speeds = {candidate: speed for candidate, speed in medians.items() if speed > 0.85 * best}
        if time.perf_counter() > until:
            break
    size, layout = min(
        (candidate for candidate, speed in speeds.items() if speed >= 0.97 * best),
        key=lambda candidate: (candidate[0], -speeds[candidate]),
    )
    return Tuning(size, replace(numerics, channels_last=layout), max(1, workers.helpers) * best)


def _speed(forward: Forward, shape: tuple[int, ...], workers: Workers, warm_up: bool = False) -> float:
    """Images per second of one worker while all compute; zero if a batch does not fit into memory."""
    devices = [forward.device] if forward.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):  # networks that are random inside draw from the global generator
            batch = torch.rand(shape, device=forward.device)
            batch = batch.to(memory_format=forward.memory_format)
            several = range(max(1, workers.helpers))
            paces = [workers.submit(_pace, forward, batch, warm_up) for _ in several]
            return mean(pace.result() for pace in paces)
    except RuntimeError as error:  # a GPU's has a type of its own, a CPU's only this text
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        if forward.device.type == "cuda":
            torch.cuda.empty_cache()
        return 0.0


def _pace(forward: Forward, batch: Tensor, warm_up: bool) -> float:
    """Noisy images per second of a few passes in this thread."""
    randomness = torch.Generator(forward.device).manual_seed(0)

    def one_pass() -> float:
        _synchronize(forward.device)
        start = time.perf_counter()
        forward(torch.empty_like(batch).normal_(generator=randomness).add_(batch))
        _synchronize(forward.device)
        return time.perf_counter() - start

    if warm_up and (seconds := one_pass()) > _MOST_SECONDS:
        return len(batch) / seconds
    seconds, images = 0.0, 0
    while images < _IMAGES and seconds < _MOST_SECONDS:
        seconds, images = seconds + one_pass(), images + len(batch)
    return images / seconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

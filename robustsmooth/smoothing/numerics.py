"""How the network is computed: precision, memory layout, compilation, device batch.

Rounding decides votes whose two largest logits nearly agree, so the numerics are part of *which*
classifier is certified. They are fixed for a run and written beside its results.
"""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from statistics import mean, median
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from robustsmooth.smoothing.crew import Crew, crew

__all__ = ["Forward", "Numerics", "Precision", "Tuning", "tune"]

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_MOST_SECONDS = 0.7  # of one pass that is only there to compare batch sizes
_IMAGES = 96  # that one measurement takes at least
_TURNS, _SECONDS_OF_TURNS = 8, 3.0  # at most


@dataclass(frozen=True)
class Numerics:
    """How a network is evaluated.

    Args:
        precision: As the trainer names it: ``32-true``, or ``bf16-mixed`` or ``16-mixed`` for autocast. A
            network in lower precision is a slightly different classifier.
        channels_last: Keep images channels last in memory, which is quicker for most convolutions;
            ``"auto"`` tries both.
        compile: Compile the network once (tens of seconds), with its weights as constants and BatchNorm
            folded into the convolutions, which rounds differently.
    """

    precision: Precision = "32-true"
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise ValueError(f"`precision` must be one of {known}, got {self.precision!r}")
        if self.channels_last not in (True, False, "auto"):
            raise ValueError(f"`channels_last` must be true, false or auto, got {self.channels_last!r}")

    def described(self, device: torch.device) -> dict[str, Any]:
        """Plain values that identify the numerics, the device's own settings included."""
        facts: dict[str, Any] = asdict(self) | {"device": device.type}
        if device.type == "cuda":
            facts["tf32"] = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        return facts


@contextmanager
def plain_tensors() -> Iterator[None]:
    """No gradients inside a ``with`` block, and no inference mode, which compiled graphs do not survive."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class _PerThread(threading.local):
    """A network's modules once per thread, its weights once: what a module keeps of a pass is not another's.

    Args:
        network: The network; never computed itself.
    """

    def __init__(self, network: nn.Module) -> None:
        weights = {id(each): each for each in (*network.parameters(), *network.buffers())}
        self.network = copy.deepcopy(network, weights)


class Forward:
    """A frozen copy of a network under fixed numerics: images ``(B, C, H, W)`` in, logits ``(B, K)`` out.

    A copy, so that modes, memory formats and frozen constants never reach the network itself, which may
    go on training, and so that nobody changes the classifier while it is certified.

    Args:
        network: Maps images in [0, 1] to logits.
        numerics: With `channels_last` decided.
        device: Where the network is.
    """

    def __init__(self, network: nn.Module, numerics: Numerics, device: torch.device) -> None:
        self.numerics, self.device = numerics, device
        self.memory_format = torch.channels_last if numerics.channels_last else torch.contiguous_format
        with plain_tensors():
            frozen = copy.deepcopy(network).eval().requires_grad_(False)
            for weight in (*frozen.parameters(), *frozen.buffers()):
                if weight.dim() == 4:  # `Module.to` would fail at the factors of CPNI, which have five
                    weight.data = weight.data.contiguous(memory_format=self.memory_format)
        for module in frozen.modules():  # a network that arranges its input is told how
            if hasattr(module, "memory_format"):
                module.memory_format = self.memory_format  # type: ignore[assignment]
        own = _PerThread(frozen)
        self._call: Callable[[Tensor], Tensor] = lambda batch: own.network(batch)
        if numerics.compile:
            from torch._inductor import config

            # Frozen graphs of earlier networks keep their weights and count as recompilations, of which a few
            # end compilation. As an option of `torch.compile`, freezing would find the weights to be inputs.
            torch.compiler.reset()
            self._call = config.patch(freezing=True)(torch.compile(frozen, dynamic=False))

    def __call__(self, batch: Tensor) -> Tensor:
        """Logits, float32, of a batch that is already in the right memory format."""
        dtype = _AUTOCAST.get(self.numerics.precision)
        with plain_tensors(), torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            return self._call(batch).float()


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
    """Find a quick device batch and memory format with a few passes, computed as votes will be (`crew`).

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
    workers = crew(device, random_inside)
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


def _speed(forward: Forward, shape: tuple[int, ...], workers: Crew, warm_up: bool = False) -> float:
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

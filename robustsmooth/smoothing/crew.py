"""Who computes: on a CPU each core a batch of its own, elsewhere the one who asks.

Small images are too little work for several cores in one batch: they wait for each other in every layer,
and all but one of them while noise is drawn. A core with a batch of its own waits for nobody, and what it
computes does not depend on how many cores there are.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import ParamSpec, Protocol, TypeVar

import torch

__all__ = ["Alone", "Crew", "Pending", "crew"]

P = ParamSpec("P")
T = TypeVar("T")
Result = TypeVar("Result", covariant=True)


class Pending(Protocol[Result]):
    """What will have been computed."""

    def result(self) -> Result:
        """The result, as soon as it is there; raises what the computation raised."""
        ...


class Crew(Protocol):
    """Who computes.

    Attributes:
        helpers: How many threads work beside the one that asks.
    """

    helpers: int

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Pending[T]:
        """Have something computed."""
        ...


class _Done(Pending[Result]):
    def __init__(self, value: Result) -> None:
        self._value = value

    def result(self) -> Result:
        return self._value


class Alone:
    """Computes at once, in the thread that asks, with all of its cores."""

    helpers = 0

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Pending[T]:
        """See `Crew.submit`."""
        return _Done(work(*args, **kwargs))


class _Cores:
    """One thread for each core.

    Args:
        cores: How many.
    """

    def __init__(self, cores: int) -> None:
        self.helpers = cores
        self._pool = ThreadPoolExecutor(cores)
        started = Barrier(cores)

        def start(_: int) -> None:
            torch.get_num_threads()  # or the thread's first work would set what all threads have
            torch.set_num_threads(1)
            started.wait()

        list(self._pool.map(start, range(cores)))
        torch.set_num_threads(cores)  # what threads that others start later will have

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Pending[T]:
        return self._pool.submit(work, *args, **kwargs)


def crew(device: torch.device) -> Crew:
    """Who computes on a device: as many cores as torch has threads here, or whoever asks."""
    cores = torch.get_num_threads()
    return Alone() if device.type != "cpu" or cores == 1 else _cores(cores, os.getpid())


@lru_cache(maxsize=1)
def _cores(cores: int, process: int) -> _Cores:
    """The threads are kept; a forked process has none of its parent's."""
    return _Cores(cores)

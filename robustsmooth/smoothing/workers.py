"""Threads that compute device batches: one for each CPU core; on a GPU the calling thread.

For small images, several cores on one batch wait for each other in every layer, and all but one are idle
while noise is drawn. With one batch per core no core waits, and results do not depend on the number of cores.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


class CallingThread:
    """Computes device batches immediately, in the calling thread, with all of its cores.

    Attributes:
        helpers: How many threads compute, beside the calling one.
    """

    helpers = 0

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Compute something, now or later."""
        done: Future[T] = Future()
        done.set_result(work(*args, **kwargs))
        return done


class Cores(CallingThread):
    """Computes device batches in one thread for each core.

    Args:
        cores: How many.
    """

    def __init__(self, cores: int) -> None:
        self.helpers = cores
        self._pool = ThreadPoolExecutor(cores)
        started = Barrier(cores)

        def start(_: int) -> None:
            torch.get_num_threads()  # otherwise the thread's first work would set the number for all threads
            torch.set_num_threads(1)
            started.wait()

        list(self._pool.map(start, range(cores)))
        torch.set_num_threads(cores)  # for threads that are started later

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `CallingThread.submit`."""
        return self._pool.submit(work, *args, **kwargs)


def workers_for(device: torch.device, random_inside: bool = False) -> CallingThread:
    """The workers of a device: on a CPU one per thread of torch, otherwise the calling thread.

    Networks that are random inside draw from the global generator, so their batches are computed one after
    the other. A process that OpenMP has bound to one core (``OMP_PROC_BIND``) also uses the calling thread
    only, since new threads would be bound to the same core.
    """
    cores = torch.get_num_threads()
    bound = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1
    alone = random_inside or device.type != "cpu" or cores == 1 or bound
    return CallingThread() if alone else _cores(cores, os.getpid())


@lru_cache(maxsize=1)
def _cores(cores: int, process: int) -> Cores:
    """The threads are kept; a forked process needs its own."""
    return Cores(cores)

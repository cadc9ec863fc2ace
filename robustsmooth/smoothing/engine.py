"""The vote engine: runs many procedures in full device batches.

Every image has its own procedure, a state machine that asks for votes (see
`certificates.base`). The engine packs the requested votes into device batches of one fixed shape: the last
votes of one image and the first votes of the next share a batch. Sums stay on the device. The counts of an
image are copied to the host once per request, after its last vote, and nothing waits for them as long as
there are other votes to compute.

A vote is addressed by (seed, purpose, image index, number) and computed in a batch of fixed shape. It depends
on nothing else: neither on the other images nor on the time. On a CPU each core computes its own batches (see
`workers`), so a vote does not depend on the number of cores either, unless the network is random inside.
"""

import bisect
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from robustsmooth.smoothing.addressing import address, generator
from robustsmooth.smoothing.ballots import answers
from robustsmooth.smoothing.certificates.base import Begun, Case, Counts, Procedure, Request, Steps
from robustsmooth.smoothing.checks import check_images, check_network, check_noise
from robustsmooth.smoothing.noise import BLOCK, Noise
from robustsmooth.smoothing.numerics import Forward, Numerics, plain_tensors
from robustsmooth.smoothing.tuning import Tuning, tune
from robustsmooth.smoothing.workers import workers_for


@dataclass(frozen=True)
class Finished:
    """An image whose procedure has ended.

    Attributes:
        index: The image's index in its data set.
        label: Its label, -1 if unknown.
        record: What the procedure returned.
        seconds: The image's share of the engine's time, by votes.
    """

    index: int
    label: int
    record: Any
    seconds: float


@dataclass(eq=False)
class _Image:
    """An image in the engine."""

    arrival: int
    prepared: Tensor
    case: Case
    steps: Steps[Any]
    request: Request
    left: int  # votes of the request that are not yet in a batch
    drawn: dict[str, int] = field(default_factory=dict)  # votes per purpose so far
    seconds: float = 0.0
    slot: int = -1  # row of the tally while a request is being computed
    block: "_Block | None" = None  # the noise block of its next votes

    @property
    def number(self) -> int:
        """Number of the purpose's next vote."""
        return self.drawn.get(self.request.purpose, 0)


class _Block:
    """`BLOCK` noisy copies of an image, drawn when the first pass needs them and shared with the next pass.

    Args:
        key: Distinguishes it from the other blocks of the image.
        draw: Draws the copies.
    """

    def __init__(self, key: tuple[str, int], draw: Callable[[], Tensor]) -> None:
        self.key, self._draw = key, draw
        self._lock = Lock()
        self._copies: Tensor | None = None

    def copies(self) -> Tensor:
        """The copies, ``(BLOCK, C, H, W)``."""
        with self._lock:
            if self._copies is None:
                self._copies = self._draw()
            return self._copies


@dataclass(frozen=True)
class _Piece:
    """Rows of a device batch and what to write there: copies from a noise block, or the clean image."""

    rows: slice
    source: _Block | Tensor
    copies: slice


@dataclass(frozen=True)
class _Pass:
    """A pass of the network that has been started."""

    ballots: Future[Tensor]  # one row of votes for each row of the batch
    batch: Tensor
    owners: list[int]  # each row's slot in the tally
    rows: list[tuple[_Image, int]]  # whose votes, and how many
    last: list[_Image]  # images whose request this pass completes


class VoteEngine:
    """Runs a procedure for many images in full device batches.

        engine = VoteEngine(network, noise, Cohen(n=1000))
        engine.submit(images, indices, labels)
        for finished in engine.run(flush=True): ...

    On a CPU several threads compute at the same time, each with its own copy of the modules. A network must
    not write to anything else; for one that does, call `torch.set_num_threads(1)` before.

    Networks that are random inside (PNI, CPNI) are certified soundly: each pass computes at most one vote of
    an image and draws the network's noise once, from its own address. So the votes of an image are
    independent draws of input noise and network noise together.

    Args:
        network: Maps images in [0, 1], ``(B, C, H, W)``, to logits ``(B, K)``.
        noise: The smoothing noise.
        procedure: The certificate or other procedure to run for each image.
        seed: The run's seed.
        numerics: Precision, memory format, compilation.
        random_inside: Whether the network itself is random; None to find out.
        tuning: A batch size and memory format found before; by default they are searched for with the first
            images, unless ``procedure.batch_size`` fixes them.
        examined: The network has passed `check_network` before, with images of this shape.

    Raises:
        TypeError: If `noise` is not a `Noise`.
    """

    def __init__(
        self,
        network: nn.Module,
        noise: Noise,
        procedure: Procedure,
        *,
        seed: int = 0,
        numerics: Numerics | None = None,
        random_inside: bool | None = None,
        tuning: Tuning | None = None,
        examined: bool = False,
    ) -> None:
        check_noise(noise)
        self.network, self.noise, self.procedure, self.seed = network, noise, procedure, seed
        self.numerics, self.random_inside, self.tuning = numerics or Numerics(), random_inside, tuning
        self._examined = examined
        self.votes = 0
        """Votes cast so far, padding left out."""
        self.watch: Callable[[int], None] = lambda votes: None
        """Called after every pass, with the number of its votes."""
        self._ready = self._failed = False
        self._arrivals = 0
        self._asking: list[_Image] = []  # by arrival
        self._passes: deque[_Pass] = deque()
        self._reading: deque[tuple[_Image, Tensor, Any]] = deque()

    # ------------------------------------------------------------------ in

    def submit(
        self,
        images: Tensor,
        indices: Tensor,
        labels: Tensor | None = None,
        finished: Collection[int] = (),
        begun: Mapping[int, Begun] | None = None,
    ) -> None:
        """Submit images. Nothing is computed yet, except that the network is examined with the first ones.

        Args:
            images: ``(B, C, H, W)`` float in [0, 1], on the network's device.
            indices: ``(B,)`` int64, their indices in the data set.
            labels: ``(B,)`` int64, if known.
            finished: Indices of images that are finished already and are skipped. The others keep their
                places: the noise inside a network may depend on the row of an image.
            begun: By index, the votes of an earlier run, for a certificate that continues from them.

        Raises:
            TypeError: If the images are not a floating-point tensor.
            ValueError: If they are not in [0, 1], or the network does not take them; see `check_images`
                and `check_network`.
        """
        check_images(images)
        images = images.float()
        names = indices.tolist()
        classes = [-1] * len(names) if labels is None else labels.tolist()
        if not len(images) == len(names) == len(classes):
            raise ValueError(
                f"each image needs one index and one label, got {len(images)} images, {len(names)} indices "
                f"and {len(classes)} labels"
            )
        if not self._ready and len(images):
            self._set_up(images)
        prepared = self.noise.prepare(images)
        for image, index, label in zip(prepared, names, classes, strict=True):
            if index not in finished:
                before = (begun or {}).get(index)
                case = Case(self.noise, self._classes, int(label), int(index), self.seed, before)
                steps = self.procedure.steps(case)
                request = next(steps)
                asking = _Image(self._arrivals, image, case, steps, request, request.votes)
                if before is not None:
                    asking.drawn["estimate"] = before.votes
                self._asking.append(asking)
            self._arrivals += 1

    @property
    def waiting(self) -> int:
        """Images that were submitted and are not finished."""
        return len(self._asking) + sum(len(passe.last) for passe in self._passes) + len(self._reading)

    # ------------------------------------------------------------------ out

    def run(self, flush: bool = False) -> Iterator[Finished]:
        """Compute as long as the requested votes fill a batch.

        Args:
            flush: Finish all images, with batches that are not full.

        Yields:
            Images as they finish.
        """
        if self._failed:
            raise RuntimeError("a pass has failed, and votes of several images are lost: make a new engine")
        if not self._ready:
            return
        self._clock = time.perf_counter()
        while True:
            yield from self._read(wait=self.random_inside is True)
            rows = self._next_rows(flush and not self._passes and not self._reading)
            if rows:
                self._start(rows)
            if self._passes and (not rows or len(self._passes) > self._workers.helpers):
                self._finish(self._passes.popleft())
            elif rows:
                continue
            elif self._reading:
                yield from self._read(wait=True)
            else:
                return

    def _next_rows(self, flush: bool) -> list[tuple[_Image, int, int]]:
        """The images of the next batch: (image, first row, number of rows); empty if votes are too few."""
        if self.random_inside:
            return self._next_cohort(flush)
        rows, used = [], 0
        for image in self._asking:
            taken = min(image.left, self.batch_size - used)
            rows.append((image, used, taken))
            used += taken
            if used == self.batch_size:
                return rows
        return rows if flush else []

    def _next_cohort(self, flush: bool) -> list[tuple[_Image, int, int]]:
        """One row for each image of a fixed group whose next vote has the same number.

        Groups are formed by arrival and rows are fixed within a group, so that the network's noise for an
        image does not depend on which images have finished before.
        """
        if not self._asking:
            return []
        first = self._asking[0]
        cohort = first.arrival // self.batch_size
        if self._arrivals < (cohort + 1) * self.batch_size and not flush:
            return []
        return [
            (image, image.arrival % self.batch_size, 1)
            for image in self._asking
            if image.arrival // self.batch_size == cohort
            and (image.request.purpose, image.number) == (first.request.purpose, first.number)
        ]

    def _start(self, rows: list[tuple[_Image, int, int]]) -> None:
        """Start a pass of the network over one device batch; nothing here waits for the device."""
        owners = [0] * self.batch_size  # padding is counted in slot 0, which is never read
        lead, number = rows[0][0].request.purpose, rows[0][0].number
        pieces: list[_Piece] = []
        with plain_tensors():
            for image, row, count in rows:
                if image.slot < 0:
                    image.slot = self._free_slot()
                owners[row : row + count] = [image.slot] * count
                pieces += self._pieces(image, row, count)
            batch = self._batches.pop()
            ballots = self._workers.submit(self._compute, batch, pieces, lead, number)
        last = [image for image, _, _ in rows if not image.left]
        self._passes.append(_Pass(ballots, batch, owners, [(image, count) for image, _, count in rows], last))
        for image in last:  # they are among the first ones
            self._asking.remove(image)

    def _compute(self, batch: Tensor, pieces: list[_Piece], purpose: str, number: int) -> Tensor:
        """Fill a batch and compute its votes: on a CPU, the work of one core."""
        with plain_tensors():
            for piece in pieces:
                source = piece.source
                batch[piece.rows] = source if isinstance(source, Tensor) else source.copies()[piece.copies]
            return self.procedure.ballot(self._logits(batch, purpose, number))

    def _logits(self, batch: Tensor, purpose: str, number: int) -> Tensor:
        if not self.random_inside:
            return self._forward(batch)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(address(self.seed, f"{purpose}/inside", number))
            return self._forward(batch)

    def _finish(self, done: _Pass) -> None:
        """Count the votes of a pass. On a GPU the pass may still be running; counting is queued after it."""
        try:
            ballots = done.ballots.result()
        except BaseException:
            self._failed = True
            raise
        with plain_tensors():
            owners = torch.tensor(done.owners, pin_memory=self.device.type == "cuda")
            self._tally.index_add_(0, owners.to(self.device, non_blocking=True), ballots)
        self._batches.append(done.batch)
        now = time.perf_counter()
        total = sum(count for _, count in done.rows)
        for image, count in done.rows:
            image.seconds += (now - self._clock) * count / total
        self._clock = now
        for image in done.last:
            self._collect(image)
        self.votes += total
        self.watch(total)

    def _pieces(self, image: _Image, row: int, count: int) -> Iterator[_Piece]:
        """Assign rows of the batch to the next votes of an image."""
        request, number = image.request, image.number
        image.drawn[request.purpose] = number + count
        image.left -= count
        if not request.noisy:
            yield _Piece(slice(row, row + count), self.noise.clean(image.prepared), slice(None))
            return
        while count:
            which, start = divmod(number, BLOCK)
            taken = min(count, BLOCK - start)
            if image.block is None or image.block.key != (request.purpose, which):
                image.block = self._block(image, request.purpose, which)
            yield _Piece(slice(row, row + taken), image.block, slice(start, start + taken))
            row, number, count = row + taken, number + taken, count - taken

    def _block(self, image: _Image, purpose: str, which: int) -> _Block:
        def draw() -> Tensor:
            source = generator(self.seed, purpose, image.case.index, which, device=self.device)
            return self.noise.sample(image.prepared, BLOCK, source)

        return _Block((purpose, which), draw)

    def _collect(self, image: _Image) -> None:
        """Start copying an image's counts to the host, and free its slot."""
        image.block = None
        counts = self._tally[image.slot]
        if self.device.type == "cuda":
            host = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True)
            host.copy_(counts, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(self.device))
        else:
            host, arrived = counts.clone(), None
        counts.zero_()
        self._free.append(image.slot)
        image.slot = -1
        self._reading.append((image, host, arrived))

    def _read(self, wait: bool) -> Iterator[Finished]:
        """Give procedures the counts that have arrived; with `wait`, wait for all of them."""
        while self._reading:
            image, host, arrived = self._reading[0]
            if arrived is not None and not arrived.query():
                if not wait:
                    return
                arrived.synchronize()
            self._reading.popleft()
            finished = self._advance(image, host.numpy())
            if finished is not None:
                yield finished

    def _advance(self, image: _Image, counts: Counts) -> Finished | None:
        try:
            image.request = image.steps.send(counts)
        except StopIteration as stop:
            return Finished(image.case.index, image.case.label, stop.value, image.seconds)
        image.left = image.request.votes
        bisect.insort(self._asking, image, key=lambda item: item.arrival)
        return None

    # ------------------------------------------------------------------ set-up

    def _set_up(self, images: Tensor) -> None:
        """Choose device, numerics and batch size from the first images."""
        self.device = images.device
        with plain_tensors():
            if self.random_inside is None or not self._examined:
                plain = Forward(self.network, Numerics(channels_last=False), self.device)
                source = generator(self.seed, "check", device=self.device)
                found = check_network(plain, images[0], self.noise, source)
                self.random_inside = found if self.random_inside is None else self.random_inside
            self._workers = workers_for(self.device, self.random_inside)
            if self.tuning is None:
                shape, size = tuple(images.shape[1:]), self.procedure.batch_size
                self.tuning = tune(
                    self.network,
                    shape,
                    self.device,
                    size,
                    self.numerics,
                    random_inside=self.random_inside,
                    votes=len(images) * self.procedure.max_votes,
                    images=len(images),
                )
            self.batch_size, self.numerics = self.tuning.batch_size, self.tuning.numerics
            # Compiled code depends on the number of cores that a thread uses.
            self._workers.submit(self._set_up_network, images[:1]).result()
            self._tally = torch.zeros((1, self._classes), dtype=torch.int64, device=self.device)
        self._free: list[int] = []
        self._ready = True

    def _set_up_network(self, image: Tensor) -> None:
        self._forward = Forward(self.network, self.numerics, self.device)
        with plain_tensors(), torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            batch = image.repeat(self.batch_size, 1, 1, 1).to(memory_format=self._forward.memory_format)
            self._batches = [batch.clone() for _ in range(1 + self._workers.helpers)]
            logits = self._forward(batch)
            self._classes = logits.shape[1]
        if not answers(logits).any():
            raise ValueError(f"the network returns NaN in precision {self.numerics.precision}; take 32-true")

    def _free_slot(self) -> int:
        """A row of the tally for one request of one image."""
        if not self._free:
            size = len(self._tally)
            self._tally = torch.cat([self._tally, torch.zeros_like(self._tally)])
            self._free = list(range(size, 2 * size))
        return self._free.pop()

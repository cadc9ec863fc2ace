"""How far a vote count has come: images, votes per second, time left."""

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

__all__ = ["VotingProgress", "duration"]

_LINE_EVERY = 60.0  # seconds, where there is no terminal to draw on


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Examples:
        >>> duration(0.4), duration(75), duration(7384)
        ('1 s', '1:15 min', '2:03 h')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    clock = str(timedelta(seconds=whole))
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{clock.rsplit(':', 1)[0]} h"


class VotingProgress:
    """A bar on the terminal; where there is none, a line every minute.

    Args:
        title: What is going on.
        images: How many images there are to do here.
        votes_per_image: Votes that one takes at most.
        console: Where to write.
        disable: Show nothing.
    """

    def __init__(
        self, title: str, images: int, votes_per_image: int, console: Console, disable: bool = False
    ) -> None:
        self.title, self.images, self.votes_per_image = title, images, votes_per_image
        self.console, self.disable = console, disable
        self.finished, self.finished_votes = 0, 0
        self._start = self._spoken = time.perf_counter()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("images, {task.fields[speed]}"),
            console=console,
            transient=True,
            disable=disable or not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=images, speed="")
        self._bar.start()

    def advance(self, votes: int) -> None:
        """One image is finished; it took so many votes."""
        self.finished += 1
        self.finished_votes += votes

    def update(self, votes: int) -> None:
        """Show how far it is.

        Args:
            votes: All votes so far.
        """
        if self.disable:
            return
        now = time.perf_counter()
        elapsed = now - self._start
        # Images yet to come will take what finished ones took; before any, what they may take at most.
        expected = (self.finished_votes + self.votes_per_image) / (self.finished + 1)
        left = (expected * self.images - votes) / max(votes, 1) * elapsed
        speed = (
            f"{self.finished / elapsed:.3g} images/s, {votes / elapsed:,.0f} votes/s, {duration(left)} left"
        )
        self._bar.update(self._task, completed=self.finished, speed=speed)
        if not self.console.is_terminal and now - self._spoken > _LINE_EVERY:
            self._spoken = now
            self.console.print(f"{self.title} {self.finished}/{self.images} images, {speed}", highlight=False)

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def __enter__(self) -> "VotingProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

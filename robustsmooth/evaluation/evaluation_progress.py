"""The progress of an evaluation: images, passes per second, time left."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from robustsmooth.terminal import Turn, duration, say


class EvaluationProgress:
    """A progress bar on a terminal; elsewhere a line after some seconds and then every minute.

    The time left is estimated from the passes of this run, without the first one, which also chooses kernels
    and allocates memory. Until then nothing is shown.

    Args:
        title: What is being done.
        images: How many images this process evaluates.
        most_passes: The most passes that an image can take; None if unknown.
        unit: The name of a pass.
        console: Where to write.
        disable: Show nothing.
    """

    def __init__(
        self,
        title: str,
        images: int,
        most_passes: int | None,
        unit: str,
        console: Console,
        disable: bool = False,
    ) -> None:
        self.title, self.images, self.most_passes, self.unit = title, images, most_passes, unit
        self.console, self.disable = console, disable
        self.passes, self.finished, self._of_finished = 0, 0, 0
        self._first: tuple[float, int] | None = None  # when the clock was started, and at how many passes
        self._turn = Turn()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("images{task.fields[speed]}"),
            console=console,
            transient=True,
            disable=disable or not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=images, speed="")
        self._bar.start()

    def advance(self, passes: int, images: int = 0, of_images: int | None = None) -> None:
        """Update the display.

        Args:
            passes: How many since the last call.
            images: How many images were finished since then.
            of_images: How many passes those images took; if None, all passes so far belong to finished
                images.
        """
        self.passes, self.finished = self.passes + passes, self.finished + images
        if images:
            self._of_finished = self.passes if of_images is None else self._of_finished + of_images
        now = time.perf_counter()
        if self._first is None and self.passes:
            self._first = now, self.passes
        if self.disable:
            return
        said = self.said(now)
        self._bar.update(self._task, completed=self.finished, speed=said)
        if not self.console.is_terminal and self._turn.is_due(now):
            say(self.console, f"{self.title} {self.finished}/{self.images} images{said}")

    def said(self, now: float) -> str:
        """Speed and time left, as far as they are known at `now`."""
        start, before = self._first or (now, 0)
        elapsed = now - start
        if self.passes <= before or elapsed <= 0:
            return ""
        speed = (self.passes - before) / elapsed
        text = f", {speed:,.0f} {self.unit}/s" if speed >= 10 else f", {speed:.2g} {self.unit}/s"
        if self.finished:
            text = f", {self.finished / elapsed:.3g} images/s{text}"
        expected, most = self._expected()
        if expected is None:
            return text
        left = max(0.0, expected * self.images - self.passes) / speed
        return f"{text}, {'at most ' if most else ''}{duration(left)} left"

    def stop(self) -> None:
        """Remove the progress bar."""
        self._bar.stop()

    def _expected(self) -> tuple[float | None, bool]:
        """Expected passes per image, and whether that is an upper bound."""
        if not self.finished:
            return self.most_passes, True
        if self.most_passes is None:
            return self._of_finished / self.finished, False
        # Images to come take about what finished ones took; one at the upper bound keeps the guess careful.
        return (self._of_finished + self.most_passes) / (self.finished + 1), False

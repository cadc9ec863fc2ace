"""Messages of a running command: on the terminal, and with the time in its log."""

import logging
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.text import Text

_FIRST_LINE, _LINE_EVERY = 5.0, 60.0  # seconds


class Terminal(Console):
    """A console on standard error; when sent to another process, on that one's."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def __reduce__(self) -> tuple[Any, ...]:  # a console holds a lock, which cannot be sent
        return Terminal, ()


def say(console: Console, line: str) -> None:
    """Print a line, and write it to the command's log (``train.log``, ...).

    Args:
        console: Where to print.
        line: May contain rich's markup.
    """
    console.print(line, highlight=False, soft_wrap=True)
    plain = Text.from_markup(line).plain
    record = logging.LogRecord("robustsmooth", logging.INFO, __file__, 0, plain, None, None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


class Turn:
    """Whether it is time for a line of progress: after some seconds, and then every minute."""

    def __init__(self) -> None:
        self._spoken = time.perf_counter() - _LINE_EVERY + _FIRST_LINE

    def is_due(self, now: float) -> bool:
        """Whether to print now; if so, the next minute starts.

        Args:
            now: From ``time.perf_counter``.
        """
        due = now - self._spoken > _LINE_EVERY
        if due:
            self._spoken = now
        return due


def duration(seconds: float) -> str:
    """Seconds as text.

    Examples:
        >>> duration(0.4), duration(75), duration(7384)
        ('1 s', '1:15 min', '2:03 h')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    clock = str(timedelta(seconds=whole))
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{clock.rsplit(':', 1)[0]} h"

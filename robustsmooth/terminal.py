"""What a command says while it runs."""

from typing import Any

from rich.console import Console

__all__ = ["Terminal"]


class Terminal(Console):
    """Standard error, for people; sent to another process, it is that one's."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def __reduce__(self) -> tuple[Any, ...]:  # a console holds a lock, which cannot be sent
        return Terminal, ()

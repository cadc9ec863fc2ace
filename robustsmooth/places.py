"""The places of other runs in a run's config, from which it starts or learns."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PLACES = ("checkpoint", "denoiser_checkpoint", "start", "targets")
"""Keys of a config that name another run."""


def named_places(config: Mapping[str, Any]) -> Iterator[str]:
    """The places that a config names, at any level."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from named_places(value)
        elif key in PLACES and isinstance(value, str):
            yield value


def places_now(recorded: str, started_in: str | Path, before: str | Path, now: Path) -> list[Path]:
    """Where a place in a run's config may be now: beside the run if both were moved or copied, or unchanged.

    Args:
        recorded: The place, relative to `started_in`.
        started_in: The working directory of the run's command.
        before: The run folder as it was recorded, relative to `started_in` too.
        now: The run folder.
    """
    path, before = (
        Path(os.path.normpath(Path(started_in) / Path(item).expanduser())) for item in (recorded, before)
    )
    while before.name and before.name == now.name:
        before, now = before.parent, now.parent
    return [now / path.relative_to(before), path] if path.is_relative_to(before) else [path]


def require_finished(place: str | Path) -> None:
    """Check that a run folder whose network is used or evaluated holds a training that has ended.

    It may have ended before its last epoch, as ``trainer.max_time`` or early stopping decide. All other
    places are accepted, a file of checkpoints of an unfinished training too.

    Raises:
        ValueError: If the training has not ended.
    """
    folder = Path(place).expanduser()
    if (folder / "checkpoints" / "last.ckpt").is_file() and not (folder / "summary.json").is_file():
        raise ValueError(
            f"the training in `{place}` has not ended; finish it first: start its command again (or name one "
            "of the files in its folder `checkpoints`, which is used as it is; a copy needs summary.json too)"
        )

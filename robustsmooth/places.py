"""The places of other runs in a run's config, from which it starts or learns."""

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


def require_finished(place: str | Path) -> None:
    """Check that a run folder from which another run starts or learns holds a training that has ended.

    It may have ended before its last epoch, as ``trainer.max_time`` or early stopping decide. All other
    places are accepted, a file of checkpoints of an unfinished training too.

    Raises:
        ValueError: If the training has not ended.
    """
    folder = Path(place).expanduser()
    if (folder / "checkpoints").is_dir() and not (folder / "summary.json").is_file():
        raise ValueError(
            f"the training in `{place}` has not ended; finish it first: start its command again (or name one "
            "of the files in its folder `checkpoints`, which is used as it is)"
        )

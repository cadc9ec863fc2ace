"""The record log: one row per example, written image by image, continued after an interruption.

While an evaluation runs, each rank appends to its own ``<name>.rank<r>.tsv`` and flushes every
row, so that a killed job has lost at most the row it was writing. At the end the parts are merged,
sorted by key and checked, into ``<name>.tsv``. On restart the finished keys of all parts are read
and not computed again. Beside the rows, ``<name>.settings.json`` holds what the rows depend on; a
restart with other settings is refused. Nothing is written before the first row.
"""

import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from robustsmooth.files import write_whole

Key = tuple[str, ...]

_ADDED = ("image",)
"""Columns that logs of earlier versions do not have; their rows hold `_UNKNOWN` there."""
_UNKNOWN = "-"
_NUMBERS = "answers."
"""Settings with this prefix are lists of numbers, compared up to rounding; earlier versions lack them."""
_CLOSE = 0.02
_TYPED = {
    "certify": {
        "procedure": "certificate",
        "noise": "smoothing",
        "numerics.batch_size": "certificate.batch_size",
    },
    "predict": {
        "procedure": "prediction",
        "noise": "smoothing",
        "numerics.batch_size": "prediction.batch_size",
    },
    "attack": {
        "numerics.batch_size": "batch_size",
        "target.name": "target",
        "target.noise": "smoothing",
        "target.numerics.batch_size": "prediction.batch_size",
        "target.numerics": "numerics",
        "target": "prediction",
    },
}
"""Settings, by log, that the user types under another name; the first match counts."""
_MACHINE = ("torch", "device", "tf32", "threads")
"""Settings of these names, in any group, may differ when no row is left to compute."""


def _read_rows(path: Path) -> list[list[str]]:
    """All complete rows of a part; an incomplete last line is left out.

    Raises:
        ValueError: If the file does not hold text.
    """
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    try:
        return [line.split("\t") for line in complete.decode("utf-8").split("\n")] if complete else []
    except UnicodeDecodeError as error:
        line = complete.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} of `{path}` is damaged, it is not text; delete the line, and the same command "
            "computes its row again"
        ) from error


class Extension(NamedTuple):
    """Rows that a restart replaces by rows with more votes.

    Attributes:
        column: A count: of two rows with the same key, the one with the larger count is kept.
        goes_on: Whether a row (text by column) is to be replaced.
    """

    column: str
    goes_on: Callable[[Mapping[str, str]], bool]


class RecordLog:
    """An append-only table on disk, shared by the ranks of one evaluation.

    Args:
        folder: The run folder; created with the first row if missing.
        name: The table's name: ``certify``, ``predict``, ``attack``.
        columns: Column names, the same for every row.
        key: The columns that identify a row, such as ``["idx"]``; they must hold integers or text
            without tabs.
        settings: Everything that the rows depend on, as plain values. Compared on restart.
        rank: This process's rank.
        may_change: Settings, with dotted names, that a restart may change.
        extension: Which rows a restart extends, if any.
        asked: The keys of all rows that are asked for; None if unknown. If they are finished, another machine
            or version of torch may open the log, and its settings stay.

    Attributes:
        finished: Keys of the rows that are finished (as text), without those that are extended.
        begun: The rows to extend, by key, as text by column.
        known: ``label`` and ``image`` of every row, by the first column of the key.

    Raises:
        ValueError: If the folder holds rows that were written under other settings or columns, or whose
            settings are gone; or if a file there is damaged.
    """

    def __init__(
        self,
        folder: Path | str,
        name: str,
        columns: Sequence[str],
        key: Sequence[str],
        settings: Mapping[str, Any],
        rank: int = 0,
        may_change: Collection[str] = (),
        extension: Extension | None = None,
        asked: Collection[Key] | None = None,
    ) -> None:
        self.folder, self.name, self.rank = Path(folder), name, rank
        self._may_change, self._extension = may_change, extension
        self.columns, self.key = list(columns), list(key)
        self.settings = json.loads(json.dumps(dict(settings), sort_keys=True))
        self._key_at = [self.columns.index(column) for column in self.key]
        facts = {column: self.columns.index(column) for column in ("label", "image") if column in columns}
        self.finished: set[Key] = set()
        self.known: dict[str, dict[str, str]] = {}
        for row in self._all_rows():
            self.finished.add(self._key_of(row))
            self.known.setdefault(row[self._key_at[0]], {fact: row[at] for fact, at in facts.items()})
        self.begun = self._find_begun()
        if asked is not None and self.finished - self.begun.keys() >= set(asked):
            self.settings = _with_machine_of(self.settings, self._written())
        self._check_settings()  # after the rows: another rank may be writing both, the settings first
        self.finished -= self.begun.keys()
        self._part = self.folder / f"{name}.rank{rank}.tsv"
        self._file: BinaryIO | None = None

    @staticmethod
    def written_settings(folder: Path | str, name: str) -> dict[str, Any]:
        """The settings of the rows that a folder holds already; empty if there are none.

        Raises:
            ValueError: If the file is damaged.
        """
        path = Path(folder) / f"{name}.settings.json"
        if not path.exists():
            return {}
        try:
            settings = json.loads(path.read_bytes())
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise ValueError(
                f"`{path}`, which says what the rows of {name} depend on, is damaged; put back a copy of it, "
                "or choose another folder with hydra.run.dir=..."
            )
        return settings

    @property
    def path(self) -> Path:
        """The path of the merged table."""
        return self.folder / f"{self.name}.tsv"

    def __contains__(self, key: object) -> bool:
        return _as_key(key) in self.finished

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row, at once and as a whole. Floats are written in full precision.

        Raises:
            KeyError: If a column is missing from `row`.
            ValueError: If a value holds a tab or a line end.
            OSError: If the row cannot be written (a full disk, say); the rows before it stay.
        """
        values = [str(row[column]) for column in self.columns]
        if any(character in value for value in values for character in "\t\r\n"):
            raise ValueError(f"a row of {self.name} must not hold tabs or line ends, got {values}")
        self._write(values)
        self.finished.add(self._key_of(values))

    def rows(self) -> list[dict[str, str]]:
        """The merged rows, as text by column."""
        header, *body = _read_rows(self.path)
        return [dict(zip(header, row, strict=True)) for row in body]

    def merge(self, expected: Iterable[Key | int] | None = None) -> Path:
        """Merge the parts of all ranks into one sorted table (call on rank 0, after a barrier).

        Args:
            expected: The keys that must be there; any missing one is an error.

        Returns:
            The path of the merged table.

        Raises:
            ValueError: If an expected row is missing.
        """
        self.close()
        rows = self._longest_rows()
        missing = [key for key in map(_as_key, expected or ()) if key not in rows]
        if missing:
            first = dict(zip(self.key, missing[0], strict=True))
            raise ValueError(
                f"{self.path}: {len(missing)} rows are missing, the first is {first}; "
                "start the same command again to finish them"
            )
        self._write_settings()
        ordered = sorted(rows.values(), key=lambda row: [_sortable(row[at]) for at in self._key_at])
        write_whole(self.path, "".join("\t".join(row) + "\n" for row in [self.columns, *ordered]))
        for part in [*self._parts(), *self.folder.glob(f"{self.name}.rank*.settings.json")]:
            part.unlink()
        return self.path

    def close(self) -> None:
        """Close this rank's file; rows stay where they are."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}.rank*.tsv"))

    def _key_of(self, row: Sequence[str]) -> Key:
        return tuple(row[at] for at in self._key_at)

    def _all_rows(self) -> list[list[str]]:
        """The rows of the table and of all parts. A line with too few or too many cells is computed again."""
        rows: list[list[str]] = []
        for path in [self.path, *self._parts()]:
            if path.exists():
                rows += self._read(path)
        return rows

    def _longest_rows(self) -> dict[Key, list[str]]:
        """One row for each key: the first one, or the one with the most votes."""
        rows: dict[Key, list[str]] = {}
        for row in self._all_rows():
            kept = rows.setdefault(self._key_of(row), row)
            if self._extension is not None:
                at = self.columns.index(self._extension.column)
                if int(row[at]) > int(kept[at]):
                    rows[self._key_of(row)] = row
        return rows

    def _find_begun(self) -> dict[Key, dict[str, str]]:
        if self._extension is None:
            return {}
        rows = {key: dict(zip(self.columns, row, strict=True)) for key, row in self._longest_rows().items()}
        return {key: row for key, row in rows.items() if self._extension.goes_on(row)}

    def _read(self, path: Path) -> list[list[str]]:
        # The process may have been killed before the header was written.
        header, *body = _read_rows(path) or [self.columns]
        before = [column for column in self.columns if column not in _ADDED]
        if header == self.columns:
            return [row for row in body if len(row) == len(header)]
        if header == before:
            places = [header.index(column) if column in header else None for column in self.columns]
            return [
                [_UNKNOWN if at is None else row[at] for at in places]
                for row in body
                if len(row) == len(header)
            ]
        raise ValueError(
            f"`{path}` has the columns {header}, this version writes {self.columns}; "
            "choose another folder with hydra.run.dir=..."
        )

    def _key(self, name: str) -> str:
        """The name of a setting as the user types it."""
        for stored, typed in _TYPED.get(self.name, {}).items():
            if f"{name}.".startswith(f"{stored}."):
                return typed + name.removeprefix(stored)
        return name

    def _check_settings(self) -> None:
        settings = self.folder / f"{self.name}.settings.json"
        if self.finished and not settings.exists():
            raise ValueError(
                f"`{self.folder}` holds rows of {self.name}, but `{settings.name}`, which says what they "
                "depend on, is gone; put it back, or choose another folder with hydra.run.dir=..."
            )
        then, now = _flat(self._written()), _flat(self.settings)
        different = dict.fromkeys(  # each once: an attack and the vote after it may share a setting
            f"{self._key(name)}={then.get(name)!r} then, {now.get(name)!r} now"
            for name in sorted(then.keys() | now.keys())
            if not name.startswith(_NUMBERS)
            and name not in self._may_change
            and then.get(name) != now.get(name)
        )
        if self.finished and different:
            raise ValueError(
                f"{self.folder} holds {self.name} rows of other settings ({'; '.join(different)}); "
                "choose another folder with hydra.run.dir=..., or continue with the old settings"
            )
        answers = [name for name in then.keys() & now.keys() if name.startswith(_NUMBERS)]
        if self.finished and not all(same_numbers(then[name], now[name]) for name in answers):
            raise ValueError(
                f"`{self.folder}` holds {self.name} rows of a network that has the same weights and gives "
                "other answers: its code has changed; choose another folder with hydra.run.dir=..."
            )

    def _write_settings(self) -> None:
        """Write the settings before the first row, on whichever rank comes first.

        A log that a restart may extend gets the settings of its last start, such as the larger n.
        """
        if (self.finished and self._extension is None) or self._written() == self.settings:
            return
        own = self.folder / f"{self.name}.rank{self.rank}.settings.json"
        write_whole(own, json.dumps(self.settings, indent=2, sort_keys=True) + "\n")
        own.replace(self.folder / f"{self.name}.settings.json")

    def _written(self) -> dict[str, Any]:
        return self.written_settings(self.folder, self.name)

    def _begin(self) -> BinaryIO:
        """Open this rank's part for appending, without an incomplete last line."""
        self._write_settings()
        rows = [self.columns, *self._read(self._part)] if self._part.exists() else [self.columns]
        write_whole(self._part, "".join("\t".join(row) + "\n" for row in rows))
        return self._part.open("ab", buffering=0)

    def _write(self, values: Sequence[str]) -> None:
        if self._file is None:
            self._file = self._begin()
        line, before = ("\t".join(values) + "\n").encode(), self._file.tell()
        try:
            written = self._file.write(line)
            if written != len(line):  # a full disk takes a part; the second write raises the reason
                self._file.write(line[written:])
        except OSError:
            os.truncate(self._part, before)
            raise


def _as_key(key: object) -> Key:
    return tuple(str(part) for part in (key if isinstance(key, tuple) else (key,)))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names, to name precisely what differs."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _with_machine_of(settings: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, but what says on which machine rows were computed as it is written."""
    merged = {name: written[name] for name in _MACHINE if name in written}
    for name, value in settings.items():
        then = written.get(name)
        if isinstance(value, dict) and isinstance(then, dict):
            merged[name] = _with_machine_of(value, then)
        elif name not in _MACHINE:
            merged[name] = value
    return merged


def same_numbers(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two lists of numbers agree up to rounding, relative to the largest of them.

    Args:
        one: Logits, say; NaN equals NaN.
        other: The same logits, computed again.
    """
    if len(one) != len(other):
        return False
    slack = _CLOSE * max((abs(value) for value in (*one, *other) if math.isfinite(value)), default=0.0)
    return all(a == b or abs(a - b) <= slack or (a != a and b != b) for a, b in zip(one, other, strict=True))


def _sortable(text: str) -> tuple[float, str]:
    try:
        return (float(text), "")
    except ValueError:
        return (float("inf"), text)

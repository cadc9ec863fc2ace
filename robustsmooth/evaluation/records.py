"""The record log: one row per example, written as it goes, continued after an interruption.

While an evaluation runs, each rank appends to its own ``<name>.rank<r>.tsv`` and flushes every
row, so that a killed job has lost at most the row it was writing. At the end the parts are merged,
sorted by key and checked, into ``<name>.tsv``. On restart the finished keys of all parts are read
and not computed again. Beside the rows, ``<name>.settings.json`` holds what the rows depend on; a
restart with other settings is refused rather than mixed in.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

__all__ = ["RecordLog"]

Key = tuple[str, ...]


def _read_rows(path: Path) -> list[list[str]]:
    """All complete rows of a part; a torn last line is left out."""
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    return [line.split("\t") for line in complete.decode("utf-8").split("\n")] if complete else []


class RecordLog:
    """An append-only table on disk, shared by the ranks of one evaluation.

    Args:
        folder: The run folder; created if missing.
        name: The table's name: ``certify``, ``predict``, ``attack``.
        columns: Column names, the same for every row.
        key: The columns that identify a row, such as ``["idx"]``; they must hold integers or text
            without tabs.
        settings: Everything that the rows depend on, as plain values. Compared on restart.
        rank: This process's rank.

    Raises:
        ValueError: If the folder holds rows that were written under other settings or columns.
    """

    def __init__(
        self,
        folder: Path | str,
        name: str,
        columns: Sequence[str],
        key: Sequence[str],
        settings: Mapping[str, Any],
        rank: int = 0,
    ) -> None:
        self.folder, self.name, self.rank = Path(folder), name, rank
        self.columns, self.key = list(columns), list(key)
        self.settings = json.loads(json.dumps(dict(settings), sort_keys=True))
        self._key_at = [self.columns.index(column) for column in self.key]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_settings()
        self.finished: set[Key] = {self._key_of(row) for row in self._all_rows()}
        """Keys of the rows that are already there (as text)."""
        self._part = self.folder / f"{name}.rank{rank}.tsv"
        self._open_part()

    @staticmethod
    def written_settings(folder: Path | str, name: str) -> dict[str, Any]:
        """The settings of the rows that a folder holds already; empty if there are none."""
        path = Path(folder) / f"{name}.settings.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @property
    def path(self) -> Path:
        """Where the merged table lands."""
        return self.folder / f"{self.name}.tsv"

    def __contains__(self, key: object) -> bool:
        parts = key if isinstance(key, tuple) else (key,)
        return tuple(str(part) for part in parts) in self.finished

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
        rows: dict[Key, list[str]] = {}
        for row in self._all_rows():
            rows.setdefault(self._key_of(row), row)
        if expected is not None:
            wanted = [
                tuple(str(part) for part in key) if isinstance(key, tuple) else (str(key),)
                for key in expected
            ]
            missing = [key for key in wanted if key not in rows]
            if missing:
                first = dict(zip(self.key, missing[0], strict=True))
                raise ValueError(
                    f"{self.path}: {len(missing)} rows are missing, the first is {first}; "
                    "start the same command again to finish them"
                )
        ordered = sorted(rows.values(), key=lambda row: [_sortable(row[at]) for at in self._key_at])
        draft = self.path.with_suffix(".tsv.tmp")
        with draft.open("w", encoding="utf-8", newline="") as file:
            file.write("\t".join(self.columns) + "\n")
            file.writelines("\t".join(row) + "\n" for row in ordered)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
        for part in self._parts():
            part.unlink()
        return self.path

    def close(self) -> None:
        """Close this rank's file; rows stay where they are."""
        self._file.close()

    def __enter__(self) -> "RecordLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}.rank*.tsv"))

    def _key_of(self, row: Sequence[str]) -> Key:
        return tuple(row[at] for at in self._key_at)

    def _all_rows(self) -> list[list[str]]:
        rows: list[list[str]] = []
        for path in [self.path, *self._parts()]:
            if not path.exists():
                continue
            header, *body = _read_rows(path) or [self.columns]  # a part may be killed before its header
            if header != self.columns:
                raise ValueError(
                    f"{path} has the columns {header}, this version writes {self.columns}; "
                    "choose another folder with hydra.run.dir=..."
                )
            rows += [row for row in body if len(row) == len(self.columns)]
        return rows

    def _check_settings(self) -> None:
        path = self.folder / f"{self.name}.settings.json"
        if path.exists():
            then, now = _flat(json.loads(path.read_text(encoding="utf-8"))), _flat(self.settings)
            different = [
                f"{name}={then.get(name)!r} then, {now.get(name)!r} now"
                for name in sorted(then.keys() | now.keys())
                if then.get(name) != now.get(name)
            ]
            if different:
                raise ValueError(
                    f"{self.folder} holds {self.name} rows of other settings ({'; '.join(different)}); "
                    "choose another folder with hydra.run.dir=..., or go on with the old settings"
                )
        elif self.rank == 0:
            draft = path.with_suffix(".json.tmp")
            draft.write_text(json.dumps(self.settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            draft.replace(path)

    def _open_part(self) -> None:
        """Open this rank's part for appending, without the torn line that a kill may have left."""
        if self._part.exists():
            os.truncate(self._part, self._part.read_bytes().rfind(b"\n") + 1)
        self._file: BinaryIO = self._part.open("ab", buffering=0)
        if self._file.tell() == 0:
            self._write(self.columns)

    def _write(self, values: Sequence[str]) -> None:
        line, before = ("\t".join(values) + "\n").encode(), self._file.tell()
        try:
            written = self._file.write(line)
            if written != len(line):  # the disk took a part of the line; say why
                self._file.write(line[written:])
        except OSError:
            os.truncate(self._part, before)
            raise


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names, to tell precisely what differs."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _sortable(text: str) -> tuple[float, str]:
    try:
        return (float(text), "")
    except ValueError:
        return (float("inf"), text)

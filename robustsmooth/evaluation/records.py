"""The record log: one row per example, written as it goes, continued after an interruption.

While an evaluation runs, each rank appends to its own ``<name>.rank<r>.tsv`` and flushes every
row, so that a killed job has lost at most the row it was writing. At the end the parts are merged,
sorted by key and checked, into ``<name>.tsv``. On restart the finished keys of all parts are read
and not computed again. Beside the rows, ``<name>.settings.json`` holds what the rows depend on; a
restart with other settings is refused rather than mixed in.
"""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["RecordLog"]

Key = tuple[str, ...]


def _read_rows(path: Path) -> list[list[str]]:
    """All complete rows of a part; a torn last line is left out."""
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    return list(csv.reader(complete.splitlines(), delimiter="\t"))


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
        self._file = self._open_part()

    @property
    def path(self) -> Path:
        """Where the merged table lands."""
        return self.folder / f"{self.name}.tsv"

    def __contains__(self, key: object) -> bool:
        parts = key if isinstance(key, tuple) else (key,)
        return tuple(str(part) for part in parts) in self.finished

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row and flush it. Floats are written in full precision.

        Raises:
            KeyError: If a column is missing from `row`.
        """
        values = [str(row[column]) for column in self.columns]
        self._file.write("\t".join(values) + "\n")
        self._file.flush()
        self.finished.add(self._key_of(values))

    def merge(self, expected: Iterable[Key | int] | None = None) -> Path:
        """Merge the parts of all ranks into one sorted table (call on rank 0, after a barrier).

        Args:
            expected: The keys that must be there; any missing one is an error.

        Returns:
            The path of the merged table.

        Raises:
            ValueError: If an expected row is missing, or two rows of one key differ in their key
                columns only by repetition.
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
                raise ValueError(
                    f"{self.path}: {len(missing)} rows are missing, the first is "
                    f"{dict(zip(self.key, missing[0], strict=True))}; start the same command again to finish them"
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
            header, *body = _read_rows(path) or [self.columns]
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
            written = json.loads(path.read_text(encoding="utf-8"))
            different = [
                f"{name}={written.get(name)!r} then, {self.settings.get(name)!r} now"
                for name in sorted(written.keys() | self.settings.keys())
                if written.get(name) != self.settings.get(name)
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

    def _open_part(self) -> Any:
        """Open this rank's part for appending, without the torn line that a kill may have left."""
        if self._part.exists():
            content = self._part.read_bytes()
            with self._part.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
        file = self._part.open("a", encoding="utf-8", newline="")
        if file.tell() == 0:
            file.write("\t".join(self.columns) + "\n")
            file.flush()
        return file


def _sortable(text: str) -> tuple[float, str]:
    try:
        return (float(text), "")
    except ValueError:
        return (float("inf"), text)

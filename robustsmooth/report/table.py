"""A table with typed columns; `latex`, `markup` and `terminal` define how it looks."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

ColumnKind = Literal["fact", "measurement", "certificate", "assumption", "estimate", "empirical"]

KIND_TITLES = {
    "fact": "",
    "measurement": "",
    "certificate": "certified",
    "assumption": "if the assumption holds",
    "estimate": "estimated, no guarantee",
    "empirical": "empirical",
}
"""How a column's heading names the guarantee of its numbers."""

BOLD = "Bold: the best of the rows about the same data."
BOLD_CERTIFIED = (
    "Bold: the best of comparable rows; comparable certifications have the same images, n, α and procedure."
)
"""Part of the notes of a table with bold values, of which one column may have several."""


@dataclass(frozen=True)
class Column:
    """A column: the keys of its values in the rows, and how they are printed.

    Attributes:
        key: Name in the rows; machine-readable files use it.
        title: Heading, with the unit.
        kind: A fact, a plain measurement, or a number with one kind of guarantee.
        style: ``text``, ``percent`` (shares in [0, 1]), or a format such as ``.3f``.
        low: Key of the lower end of the confidence interval, if there is one; `high` is the upper end. In a
            row without a value they are its bounds.
        high: See `low`.
        best: Whether the largest or the smallest value is printed bold; among comparable rows.
        head: A title over neighbouring columns that share it, in the page; it does not repeat its words in
            their titles there.
        spread: Key of the standard deviation over seeds, if there is one.
        only_files: Whether it is only in the files for programs.
        if_several: Whether it is left out if all rows have the same value.
        with_interval: Whether the interval is printed wherever the value is: that of a difference.
        beside: Key of a column that is never shown without this one, even if no value of this one is known.
        unknown: Why a value of this one may be missing beside one of that column: a part of a sentence.
    """

    key: str
    title: str
    kind: ColumnKind = "fact"
    style: str = "text"
    low: str | None = None
    high: str | None = None
    best: Literal["max", "min"] | None = None
    head: str = ""
    spread: str | None = None
    only_files: bool = False
    if_several: bool = False
    with_interval: bool = False
    beside: str = ""
    unknown: str = ""

    def text(self, row: Mapping[str, Any], key: str | None = None) -> str:
        """The value as it is printed, without its interval; or its bounds, or a dash if nothing is known."""
        value = row.get(key or self.key)
        if _missing(value):
            return self._ends(row) or "–"
        if self.style == "text" or not isinstance(value, int | float | np.number):
            return f"{value:g}" if isinstance(value, float) else str(value)
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        if self.style == "d" and value == int(value):
            value = int(value)
        spread = self._spread(row, key)
        return self._number(value) + ("" if spread is None else f" ± {self._number(spread)}")

    def _number(self, value: Any) -> str:
        return f"{100 * value:.1f}" if self.style == "percent" else format(value, self.style)

    def _spread(self, row: Mapping[str, Any], key: str | None) -> float | None:
        """The value with its standard deviation, if that is known."""
        spread = row.get(self.spread) if self.spread and key in (None, self.key) else None
        return None if spread is None or math.isnan(spread) else spread

    def interval(self, row: Mapping[str, Any]) -> str:
        """The confidence interval as it is printed; empty if there is none."""
        return "" if _missing(row.get(self.key)) else self._ends(row)

    def _ends(self, row: Mapping[str, Any]) -> str:
        if self.low is None or self.high is None or _missing(row.get(self.low)):
            return ""
        low, high = self.text(row, self.low), self.text(row, self.high)
        return f"{low} to {high}" if low[:1] in "+-" or high[:1] in "+-" else f"{low}–{high}"

    def line(self, row: Mapping[str, Any]) -> str:
        """The value, with its interval if it must not be without: for a terminal and for LaTeX."""
        interval = self.interval(row) if self.with_interval else ""
        return f"{self.text(row)} ({interval})" if interval else self.text(row)


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        name: File name without suffix.
        title: What the table shows.
        columns: Its columns, from left to right.
        rows: Its rows; may hold more keys than the columns show.
        note: How to read it.
        intervals: What the intervals are; shown where they are printed.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""
    intervals: str = ""
    _best: dict[tuple[str, str], float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for column in (column for column in self.columns if column.best):
            groups: dict[str, list[float]] = {}
            for row in self.rows:
                value = row.get(column.key)
                if isinstance(value, int | float) and not math.isnan(value):
                    groups.setdefault(_group(row, column), []).append(value)
            for name, values in groups.items():
                if len({column.text({column.key: value}) for value in values}) > 1:
                    self._best[name, column.key] = max(values) if column.best == "max" else min(values)

    @property
    def notes(self) -> str:
        """How to read the table: its note, and what its bold values, and dashes beside an ACR, mean."""
        shown = {column.key: column for column in self.used}
        reasons = {
            column.unknown
            for column in shown.values()
            if column.beside in shown and any(_alone(shown[column.beside], column, row) for row in self.rows)
        }
        dashes = [f"–: {reason}; do not read the ACR alone." for reason in sorted(reasons)]
        kinds = {shown[key].kind for _, key in self._best if key in shown}
        bold = BOLD if kinds <= {"measurement", "empirical"} else BOLD_CERTIFIED
        return " ".join(filter(None, [self.note, bold if kinds else "", *dashes]))

    @property
    def used(self) -> list[Column]:
        """The columns in which some row has a value, and several ones where only that is worth a column."""
        return [column for column in self._known if not column.only_files]

    @property
    def _known(self) -> list[Column]:
        known = {
            column.key
            for column in self.columns
            if any(column.text(row) != "–" for row in self.rows)
            and not (column.if_several and len({row.get(column.key) for row in self.rows}) == 1)
        }
        return [column for column in self.columns if column.key in known or column.beside in known]

    def is_best(self, column: Column, row: Mapping[str, Any]) -> bool:
        """Whether this is the column's best value, as printed."""
        best, value = self._best.get((_group(row, column), column.key)), row.get(column.key)
        if best is None or not isinstance(value, int | float) or abs(value - best) > 0.01 + 0.01 * abs(best):
            return False
        return column.text({column.key: row.get(column.key)}) == column.text({column.key: best})

    def frame(self) -> pd.DataFrame:
        """All keys of the rows, unrounded; the guarantee of a column is part of its name."""
        names: dict[str, str] = {}
        for column in self._known:
            prefix = f"{column.kind}/" if KIND_TITLES[column.kind] else ""
            for key in filter(None, (column.key, column.low, column.high, column.spread)):
                if key == column.key or any(row.get(key) is not None for row in self.rows):
                    names[key] = prefix + key
        return pd.DataFrame([{names[key]: row.get(key) for key in names} for row in self.rows])


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _alone(first: Column, second: Column, row: Mapping[str, Any]) -> bool:
    """Whether a row has a value in the first column and none in the second."""
    return first.text(row) != "–" == second.text(row)


def file_name(*parts: str) -> str:
    """The name of a table's or a figure's files: letters, digits and underscores, without empty parts."""
    return "_".join(filter(None, (re.sub(r"\W+", "_", part).strip("_") for part in parts)))


def _group(row: Mapping[str, Any], column: Column) -> str:
    """What a row has in common with those that it is compared with in a column: at least the data set."""
    among = row.get("among", row.get("data_set", row.get("data", "")))
    return str(among.get(column.key) if isinstance(among, Mapping) else among)


def plain_rows(table: Table) -> list[dict[str, Any]]:
    """A table's rows as plain values, unrounded; see `Table.frame`."""
    return [
        {str(key): _json(value) for key, value in row.items()}
        for row in table.frame().to_dict(orient="records")
    ]


def _json(value: Any) -> Any:
    """JSON has no infinity and no NaN: the first becomes text, the second null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value.item() if hasattr(value, "item") else value

"""Reading the logs of evaluations, ours and published ones, complete or not, into tidy tables.

A log has a header and one tab separated row per image. The usual certification log has the columns ``idx
label predict radius correct time`` (Cohen et al. 2019); ours starts with the same six. Predictions of -1 are
abstentions. Times are seconds or ``h:m:s``. Real logs may have Windows line ends, be empty, or stop in the
middle of a line: this is reported and is not an error.
"""

import io
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from robustsmooth.kinds import FIELD_COLUMNS, KINDS
from robustsmooth.statistics import ABSTAIN

INTEGERS = ("idx", "label", "predict", "correct")
TEXTS = {"time": str, "image": str}
"""Columns that are never read as numbers: a clock, and a hash, which may happen to have digits only."""
_CLOCK = re.compile(rb"\t\d+:\d+:\d+(\.\d+)?\r?$")
_CLOCK_ROW = np.dtype(
    [
        *((name, "f8" if name == "radius" else "i8") for name in FIELD_COLUMNS[:-1]),
        *(("hours", "i8"), ("minutes", "i8"), ("seconds", "f8")),
    ]
)
_DAYS = re.compile(r"^(\d+) days?, (.*)$")
_TRUTH = {"True": 1, "False": 0, "true": 1, "false": 0}


@dataclass(frozen=True)
class Log:
    """One log, read.

    Attributes:
        kind: What was evaluated.
        path: Where it was read from.
        rows: One row per image (and setting, where an attack has several), numbers as numbers, the
            time in seconds.
        problems: What was wrong with the file, one sentence each.
    """

    kind: str
    path: Path
    rows: pd.DataFrame
    problems: tuple[str, ...] = field(default=())


def kind_of(columns: list[str]) -> str | None:
    """Which evaluation writes these columns; None if the columns are not those of a known log."""
    names = set(columns)
    if "idx" not in names:
        return None
    return next((kind.name for kind in KINDS.values() if names.issuperset(kind.marks)), None)


def read_header(path: Path) -> list[str]:
    """The column names in a file's first line; an empty name if the file is empty or no text."""
    try:
        with path.open("rb") as file:
            return _columns(file.read(4096))
    except OSError:
        return [""]


def _columns(content: bytes) -> list[str]:
    first = re.split(rb"[\r\n]", content.lstrip(b"\xef\xbb\xbf"), maxsplit=1)[0]
    return first.decode("utf-8", "replace").strip().split("\t")


def seconds(text: str) -> float:
    """A time as the field writes it: seconds, or Python's ``h:m:s`` with or without days.

    Returns:
        Seconds; NaN when the text is neither.

    Examples:
        >>> seconds("0:01:05.5"), seconds("12.25"), seconds("1 day, 0:00:01")
        (65.5, 12.25, 86401.0)
    """
    try:
        hours, minutes, rest = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(rest)
    except ValueError:
        match = _DAYS.match(text)
    if match:
        return 86400 * int(match[1]) + seconds(match[2])
    try:
        return float(text)
    except ValueError:
        return float("nan")


def read_log(path: Path | str, kind: str | None = None) -> Log:
    """Read one log.

    Args:
        path: A file with a header and tab separated rows.
        kind: What the file must be; found from the header by default. An empty file, which has no
            header, becomes an empty log of this kind (``certify`` when it is None).

    Returns:
        The rows that are whole, and what was wrong with the others.

    Raises:
        ValueError: If the file is not a log of an evaluation.
    """
    path = Path(path)
    content = path.read_bytes()
    if not content.strip():
        return Log(kind or "certify", path, pd.DataFrame(columns=list(FIELD_COLUMNS)), (f"{path} is empty",))
    if b"\n" not in content:  # line ends of old Macintoshes
        content = content.replace(b"\r", b"\n")
    header = _columns(content)
    found = kind_of(header)
    if found is None or (kind is not None and found != kind):
        raise ValueError(
            f"{path} is no {kind or 'robustness'} log: its first line must name columns such as "
            f"{' '.join(FIELD_COLUMNS)}, got {' '.join(header)[:80]!r}"
        )
    problems: list[str] = []
    content = _without_torn_line(content, header, path, problems)
    rows = _believable(_parse(content, header, path, problems), found, path, problems)
    return Log(found, path, once_each(rows, path, problems), tuple(problems))


def _without_torn_line(content: bytes, header: list[str], path: Path, problems: list[str]) -> bytes:
    """Drop a last line that stops in the middle.

    A line without its end is whole only if it is in the published format and its last column, the time,
    has a fraction; then nothing that a certificate needs can be missing.
    """
    if content.endswith(b"\n"):
        return content
    body, _, last = content.rpartition(b"\n")
    if not body:  # only the header, without a line end
        return content
    fields = last.decode("utf-8", "replace").strip().split("\t")
    if tuple(header) == FIELD_COLUMNS and len(fields) == len(header) and "." in fields[-1]:
        return content
    problems.append(f"{path}: the last line is half written and was left out")
    return body + b"\n"


def _parse(content: bytes, header: list[str], path: Path, problems: list[str]) -> pd.DataFrame:
    """Convert bytes to a table of numbers; fast if every cell is a number, otherwise line by line."""
    try:
        rows = _parse_clocks(content, header)
        if rows is not None:
            return rows
        if content.count(b"\t") != (len(header) - 1) * len(content.splitlines()):
            raise ValueError("a line is too short, too long or empty")
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            rows = pd.read_csv(io.BytesIO(content), sep="\t", index_col=False, dtype=TEXTS)
        rows.columns = pd.Index(header)
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError, ValueError):
        rows = _parse_line_by_line(content, header)
    needed = [column for column in (*INTEGERS, "radius") if column in header]
    for column in header:
        if column == "time":
            rows[column] = _times(rows[column])
        elif column not in TEXTS and rows[column].dtype.kind not in "if":
            rows[column] = _numbers(rows[column], anyway=column in needed)
    unreadable = np.logical_or.reduce([np.isnan(rows[column].to_numpy()) for column in needed])
    if unreadable.any():
        problems.append(f"{path}: {int(unreadable.sum())} rows are not readable and were left out")
        rows = rows[~unreadable]
    if rows.empty:
        problems.append(f"{path} has no rows")
    floats = [column for column in needed if column != "radius" and rows[column].dtype != np.int64]
    return rows.astype(dict.fromkeys(floats, "int64")).reset_index(drop=True) if floats else rows


def _parse_clocks(content: bytes, header: list[str]) -> pd.DataFrame | None:
    """Parse a published log with a time ``h:m:s`` in every line at once; None if it is not one.

    For the usual 500 images NumPy takes a fifth of pandas' time.
    """
    first = content.split(b"\n", 2)[1:2]
    if tuple(header) != FIELD_COLUMNS or not first or not _CLOCK.search(first[0]):
        return None
    cells = io.BytesIO(content.replace(b":", b"\t"))
    try:
        rows = np.loadtxt(cells, _CLOCK_ROW, delimiter="\t", comments=None, skiprows=1, ndmin=1)
    except ValueError:
        return None
    if np.isnan(rows["radius"]).any():
        return None
    columns = {name: rows[name] for name in header[:-1]}
    columns["time"] = 3600 * rows["hours"] + 60 * rows["minutes"] + rows["seconds"]
    return pd.DataFrame(columns, copy=False)


def _believable(rows: pd.DataFrame, kind: str, path: Path, problems: list[str]) -> pd.DataFrame:
    """Rows that contradict themselves are reported and count as wrong answers."""
    if kind not in ("certify", "predict") or not {"predict", "correct"} <= set(rows) or rows.empty:
        return rows
    predict, claimed = rows["predict"].to_numpy(), rows["correct"].to_numpy() == 1
    hit = (predict == rows["label"].to_numpy() if "label" in rows else claimed) & (predict != ABSTAIN)
    faults = {"say that they are correct although the prediction is not the label": claimed & ~hit}
    if "radius" in rows:
        radius = rows["radius"].to_numpy()
        faults["have a radius that is negative or not finite"] = ~((radius >= 0) & (radius < np.inf))
    for fault, where in faults.items():
        if where.any():
            problems.append(f"{path}: {int(where.sum())} rows {fault}; they count as wrong answers")
    if (hit & ~claimed).any():
        count = int((hit & ~claimed).sum())
        problems.append(f"{path}: {count} rows say that they are wrong although the prediction is the label")
    bad = np.logical_or.reduce(list(faults.values()))
    if not bad.any():
        return rows
    fair = {name: rows[name].where(~bad, 0) for name in ("correct", "radius") if name in rows}
    return rows.assign(**fair)


def _numbers(column: pd.Series, anyway: bool) -> pd.Series:
    """Convert truth values and numbers; a column of words is not changed, unless it must be numbers."""
    numbers = pd.to_numeric(column.astype(str).replace(_TRUTH), errors="coerce")
    return numbers if anyway or (len(numbers) and numbers.notna().mean() >= 0.5) else column


def _parse_line_by_line(content: bytes, header: list[str]) -> pd.DataFrame:
    """Every cell as text; a line of another length becomes a row of nothing."""
    lines = content.decode("utf-8", "replace").splitlines()[1:]
    cells = [line.split("\t") for line in lines if line.strip()]
    filled = [row if len(row) == len(header) else [""] * len(header) for row in cells]
    return pd.DataFrame(filled, columns=header, dtype=str)


def _times(column: pd.Series) -> np.ndarray:
    """A column of times in seconds."""
    try:
        return column.to_numpy().astype(float)
    except ValueError:
        return np.array([seconds(str(text)) for text in column.to_numpy(object)])


def once_each(rows: pd.DataFrame, path: Path, problems: list[str]) -> pd.DataFrame:
    """One row of each image (and setting): that with the most votes, the first of several with as many.

    A log that was appended to twice counts once; one that is extended has a row with more votes.
    """
    key = [
        column for column in ("idx", "epsilon", "num_noise", "sigma", "samples", "voting") if column in rows
    ]
    if key == ["idx"] and (np.diff(rows["idx"].to_numpy()) > 0).all():  # the usual order
        return rows
    ranked = rows.sort_values("votes", ascending=False, kind="stable") if "votes" in rows else rows
    repeated = ranked.duplicated(key).reindex(rows.index).to_numpy(dtype=bool)
    if not np.any(repeated):
        return rows
    problems.append(f"{path}: {int(repeated.sum())} rows repeat an image and were left out")
    return rows[~repeated].reset_index(drop=True)

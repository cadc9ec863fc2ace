"""Tables in a terminal: as many columns as fit, the first rows, and a note about the rest."""

from collections.abc import Mapping, Sequence
from typing import Any

from robustsmooth.report.table import KIND_TITLES, Column, Table

MOST_ROWS = 20
MOST_PROBLEMS = 10
NARROWEST = 24
"""The width to which a column of texts may be folded, so that numbers are not."""
NARROWEST_OF_PAIRS = 10
"""The same for the names of two methods that are compared."""
NAMES = ("run", "second", "vote")
"""Columns with a name that are not the first one: left out last."""
MAIN = 2
"""Results that are left out after the facts."""
LAST = (
    "seconds", "abstained", "images", "alpha", "reachable_radius", "max_radius", "votes", "top1", "model",
    "complete", "certificate", "counts", "restated", "median_radius", "clean", "p_value", "only_first",
    "only_second", "p_value_holm", "certified_accuracy",
)  # fmt: skip
"""Columns that are left out first if there is no space, in this order."""


def show(tables: Sequence[Table], problems: Sequence[str], where: str) -> None:
    """Print tables; `where` is the place with all rows and columns."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for problem in problems[:MOST_PROBLEMS]:
        console.print(f"Problem: {problem}", style="yellow", markup=False, highlight=False)
    if len(problems) > MOST_PROBLEMS:
        console.print(
            f"... and {len(problems) - MOST_PROBLEMS} problems more in {where}", style="yellow", markup=False
        )
    for table in tables:
        used = columns_that_fit(table, console.width)
        console.print(_rich(table, used, console.width))
        left_out = [f"{count} more rows"] if (count := len(table.rows) - len(_rows(table, used))) else []
        left_out += [f"{count} more columns"] if (count := len(table.used) - len(used)) else []
        if left_out:
            console.print(f"{' and '.join(left_out)} in {where}", style="dim", markup=False, highlight=False)
        console.print()


def columns_that_fit(table: Table, width: int) -> list[Column]:
    """The columns that fit without breaking numbers and words; always with the first one."""
    rows = table.rows[:MOST_ROWS]
    used = table.used
    needed = {column.key: _width(column, rows) for column in used}
    for column in (column for column in used if column.style == "text"):
        pair = column.key in ("first", "second", "certified_by")
        needed[column.key] = min(needed[column.key], NARROWEST_OF_PAIRS if pair else NARROWEST)
    drop = _left_out_first(table)
    while drop and sum(needed[column.key] + 3 for column in used) + 1 > width:
        out = drop.pop(0)
        used = [column for column in used if out.key not in (column.key, column.beside)]
        used = [column for column in used if column.key != out.beside]
    return used


def _left_out_first(table: Table) -> list[Column]:
    """All columns but the first, in the order in which they are left out if there is no space.

    First `LAST`, then what is right of the main results, then facts (those that are the same in all rows
    first, then texts, which names often include), then the main results, and names at the end.
    """
    others = table.used[1:]
    order = [column for key in LAST for column in others if column.key == key]
    rest = [column for column in reversed(others) if column not in order]
    results = [column for column in rest if column.kind != "fact"][-MAIN:]
    right = rest[: rest.index(results[0])] if results else []
    names = [column for column in rest if column.key in NAMES]
    facts = [column for column in rest if column not in (*results, *right, *names)]
    facts.sort(key=lambda fact: (len({fact.line(row) for row in table.rows}) > 1, fact.style != "text"))
    return [*order, *right, *facts, *results, *names]


def _width(column: Column, rows: Sequence[Mapping[str, Any]]) -> int:
    words = [*column.title.split(), *KIND_TITLES[column.kind].split()]
    return max(map(len, [*words, *(column.line(row) for row in rows)]))


def _rows(table: Table, used: Sequence[Column]) -> list[Mapping[str, Any]]:
    """The first rows, without those that have no result in these columns."""
    results = [column for column in used if column.kind != "fact"]
    first = table.rows[:MOST_ROWS]
    return [row for row in first if not results or any(column.text(row) != "–" for column in results)]


def _rich(table: Table, used: Sequence[Column], width: int) -> Any:
    """The table for a terminal; where there is not enough space, texts are folded and numbers are not."""
    from rich.markup import escape
    from rich.table import Table as RichTable
    from rich.text import Text

    title, note = escape(table.title), escape(table.notes) or None
    rows = _rows(table, used)
    needed = {column.key: _width(column, rows) for column in used}
    narrow = sum(needed.values()) + 3 * len(used) + 1 > width
    drawn = RichTable(title=title, caption=note, title_justify="left", caption_justify="left")
    for column in used:
        tag = KIND_TITLES[column.kind]
        heading = Text.assemble(column.title, (f"\n{tag}" if tag else "", "dim"))
        number = column.style != "text"
        drawn.add_column(heading, justify="right" if number else "left", overflow="fold",
                         min_width=needed[column.key] if number else None,
                         width=needed[column.key] if number and narrow else None)  # fmt: skip
    for row in rows:
        drawn.add_row(
            *(Text(column.line(row), "bold" if table.is_best(column, row) else "") for column in used)
        )
    return drawn

"""A table that knows what its columns are, and how it looks in a terminal, a paper, a page and a file."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

__all__ = ["Column", "Table", "plain_rows", "write_tables"]

ColumnKind = Literal["fact", "measurement", "certificate", "assumption", "estimate", "empirical"]

KIND_TITLES = {
    "fact": "",
    "measurement": "",
    "certificate": "certified",
    "assumption": "if the assumption holds",
    "estimate": "estimated, no guarantee",
    "empirical": "empirical",
}
"""What a column's heading says of the guarantee of its numbers."""


@dataclass(frozen=True)
class Column:
    """A column: where its values are in the rows, and how they are printed.

    Attributes:
        key: Name in the rows; machine-readable files use it.
        title: Heading, with the unit.
        kind: A fact, a plain measurement, or a number with one kind of guarantee.
        style: ``text``, ``percent`` (shares in [0, 1]), or a format such as ``.3f``.
        low: Key of the lower end of the confidence interval, if there is one; `high` is the upper end.
        high: See `low`.
        best: Whether the largest or the smallest value is printed bold.
    """

    key: str
    title: str
    kind: ColumnKind = "fact"
    style: str = "text"
    low: str | None = None
    high: str | None = None
    best: Literal["max", "min"] | None = None

    def text(self, row: Mapping[str, Any], key: str | None = None) -> str:
        """The value as it is printed, without its interval; a dash where there is none."""
        value = row.get(key or self.key)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "–"
        if self.style == "text":
            return f"{value:g}" if isinstance(value, float) else str(value)
        if math.isinf(value):
            return "∞"
        return f"{100 * value:.1f}" if self.style == "percent" else format(value, self.style)

    def interval(self, row: Mapping[str, Any]) -> str:
        """The confidence interval as it is printed; empty where there is none."""
        if self.low is None or self.high is None or pd.isna(row.get(self.low, math.nan)):
            return ""
        return f"{self.text(row, self.low)}–{self.text(row, self.high)}"


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        name: File name without suffix.
        title: What the table shows.
        columns: Its columns, from left to right.
        rows: Its rows; may hold more keys than the columns show.
        note: How to read it.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""
    _best: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for column in self.columns:
            values = [row[column.key] for row in self.rows if isinstance(row.get(column.key), int | float)]
            values = [value for value in values if not math.isnan(value)]
            if column.best and len(self.rows) > 1 and values:
                self._best[column.key] = max(values) if column.best == "max" else min(values)

    @property
    def used(self) -> list[Column]:
        """The columns in which some row has a value."""
        return [column for column in self.columns if any(column.text(row) != "–" for row in self.rows)]

    def is_best(self, column: Column, row: Mapping[str, Any]) -> bool:
        """Whether this is the column's best value, as printed."""
        best = self._best.get(column.key)
        return best is not None and column.text(row) == column.text({column.key: best})

    def frame(self) -> pd.DataFrame:
        """All keys of the rows, unrounded; the guarantee of a column is part of its name."""
        names: dict[str, str] = {}
        for column in self.used:
            prefix = (
                f"{column.kind}/"
                if column.kind in ("certificate", "assumption", "estimate", "empirical")
                else ""
            )
            for key in filter(None, (column.key, column.low, column.high)):
                names[key] = prefix + key
        return pd.DataFrame([{names[key]: row.get(key) for key in names} for row in self.rows])

    def markdown(self) -> str:
        """GitHub's Markdown."""
        used = self.used
        lines = [
            f"### {self.title}",
            "",
            "| " + " | ".join(_heading(column) for column in used) + " |",
            "|" + "|".join("---" if column.style == "text" else "--:" for column in used) + "|",
        ]
        for row in self.rows:
            cells = []
            for column in used:
                text = column.text(row).replace("|", "\\|")
                text = f"**{text}**" if self.is_best(column, row) else text
                cells.append(" ".join(filter(None, [text, _bracket(column.interval(row))])))
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])

    def latex(self) -> str:
        """A LaTeX table for the package booktabs."""
        used = self.used
        lines = [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_latex(f'{self.title}. {self.note}'.strip())}}}",
            rf"  \label{{tab:{self.name.replace('_', '-')}}}",
            rf"  \begin{{tabular}}{{{''.join('l' if column.style == 'text' else 'r' for column in used)}}}",
            r"    \toprule",
            "    " + " & ".join(_latex(_heading(column)) for column in used) + r" \\",
            r"    \midrule",
        ]
        for row in self.rows:
            cells = []
            for column in used:
                text = _latex(column.text(row))
                cells.append(rf"\textbf{{{text}}}" if self.is_best(column, row) else text)
            lines.append("    " + " & ".join(cells) + r" \\")
        lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""]
        return "\n".join(lines)

    def html(self, most_rows: int = 100) -> str:
        """A table for the page; intervals are small print under the values."""
        used = self.used
        head = "".join(
            f'<th scope="col" class="{column.kind}{_number(column)}">{html.escape(column.title)}'
            f"{_tag(KIND_TITLES[column.kind])}</th>"
            for column in used
        )
        body = []
        for row in self.rows[:most_rows]:
            cells = []
            for column in used:
                text = html.escape(column.text(row))
                text = f"<b>{text}</b>" if self.is_best(column, row) else text
                interval = column.interval(row)
                small = f"<small>{html.escape(interval)}</small>" if interval else ""
                cells.append(f'<td class="{_number(column).strip()}">{text}{small}</td>')
            body.append(f"<tr>{''.join(cells)}</tr>")
        left_out = len(self.rows) - most_rows
        more = (
            f'<p class="note">{left_out} more rows are in tables/{self.name}.csv.</p>' if left_out > 0 else ""
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{more}"

    def rich(self) -> Any:
        """A table for the terminal."""
        from rich.table import Table as RichTable
        from rich.text import Text

        used = self.used
        table = RichTable(
            title=self.title, caption=self.note or None, title_justify="left", caption_justify="left"
        )
        for column in used:
            tag = KIND_TITLES[column.kind]
            heading = Text.assemble(column.title, (f"\n{tag}" if tag else "", "dim"))
            table.add_column(heading, justify="left" if column.style == "text" else "right")
        for row in self.rows:
            cells = [Text(column.text(row), "bold" if self.is_best(column, row) else "") for column in used]
            table.add_row(*cells)
        return table


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write each table as Markdown, LaTeX, CSV and JSON, unrounded in the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        frame = table.frame()
        frame.to_csv(folder / f"{table.name}.csv", index=False)
        content = {"title": table.title, "note": table.note, "rows": plain_rows(table)}
        (folder / f"{table.name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / f"{table.name}.md").write_text(table.markdown(), encoding="utf-8")
        (folder / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")


def plain_rows(table: Table) -> list[dict[str, Any]]:
    """A table's rows as plain values, unrounded; see `Table.frame`."""
    return [
        {str(key): _json(value) for key, value in row.items()}
        for row in table.frame().to_dict(orient="records")
    ]


def _json(value: Any) -> Any:
    """JSON knows no infinity and no NaN: the first becomes text, the second null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value.item() if hasattr(value, "item") else value


def _heading(column: Column) -> str:
    return " ".join(filter(None, [column.title, _bracket(KIND_TITLES[column.kind])]))


def _bracket(text: str) -> str:
    return f"({text})" if text else ""


def _tag(text: str) -> str:
    return f"<span>{html.escape(text)}</span>" if text else ""


def _number(column: Column) -> str:
    return "" if column.style == "text" else " number"


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "σ": r"$\sigma$", "ε": r"$\epsilon$",
    "α": r"$\alpha$", "∞": r"$\infty$", "≥": r"$\geq$", "≤": r"$\leq$", "±": r"$\pm$", "ℓ": r"$\ell$", 
    "√": r"$\sqrt{}$", "₂": r"$_2$",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)

"""Tables as Markdown and as HTML."""

import html
import json
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from robustsmooth.report.table import KIND_TITLES, Column, Table

FIRST_ROWS = 30
"""So many rows are in the page directly; the others are shown on request."""


def as_markdown(table: Table) -> str:
    """GitHub's Markdown, with the intervals beside the values."""
    used = table.used
    lines = [
        f"### {_plain(table.title)}",
        "",
        "| " + " | ".join(_plain(_heading(column)) for column in used) + " |",
        "|" + "|".join("---" if column.style == "text" else "--:" for column in used) + "|",
    ]
    for row in table.rows:
        cells = []
        for column in used:
            text = _plain(column.text(row))
            text = f"**{text}**" if table.is_best(column, row) else text
            cells.append(" ".join(filter(None, [text, _bracket(column.interval(row))])))
        lines.append("| " + " | ".join(cells) + " |")
    note = " ".join(filter(None, [table.notes, table.intervals]))
    return "\n".join([*lines, "", *([_plain(note), ""] if note else [])])


def as_html(table: Table) -> str:
    """A table that the page's script sorts and filters; intervals are small print under the values.

    Rows beyond the first are a list in JSON, which the script puts into the table when they are asked for.
    """
    used = table.used
    body = [_row(table, used, row) for row in table.rows]
    rest = ""
    if len(body) > FIRST_ROWS:
        text = json.dumps(body[FIRST_ROWS:], ensure_ascii=False).replace("<", "\\u003c")
        rest = f'<script type="application/json">{text}</script>'
    return (
        f'<div class="scroll"><table data-rows="{len(body)}"><thead>{_heads(used)}</thead>'
        f"<tbody>{''.join(body[:FIRST_ROWS])}</tbody></table></div>{rest}"
    )


def _heads(used: list[Column]) -> str:
    """The heading, in two rows if neighbouring columns share a title."""
    rows = []
    if any(column.head for column in used):
        spans = [
            (head, len(list(columns))) for head, columns in groupby(used, key=lambda column: column.head)
        ]
        cells = [f'<th colspan="{count}" class="head">{_breakable(head)}</th>' for head, count in spans]
        rows.append(f'<tr class="heads">{"".join(cells)}</tr>')
    titles = "".join(
        f'<th scope="col" class="{column.kind}{_number(column)}" tabindex="0">{_breakable(_below(column))}'
        f"{_tag(KIND_TITLES[column.kind])}</th>"
        for column in used
    )
    return "".join([*rows, f'<tr class="titles">{titles}</tr>'])


def _row(table: Table, used: list[Column], row: Mapping[str, Any]) -> str:
    cells = []
    for column in used:
        text, *spread = column.text(row).split(" ± ") if _number(column) else [column.text(row)]
        small = "<br>".join(filter(None, [*(f"± {std}" for std in spread), column.interval(row)]))
        text = f"<b>{html.escape(text)}</b>" if table.is_best(column, row) else html.escape(text)
        small = f"<small>{small}</small>" if small else ""
        cells.append(f'<td class="number">{text}{small}</td>' if _number(column) else f"<td>{text}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _plain(text: str) -> str:
    """Text for Markdown that ends no cell and begins no HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _heading(column: Column) -> str:
    return " ".join(filter(None, [column.title, _bracket(KIND_TITLES[column.kind])]))


def _bracket(text: str) -> str:
    return f"({text})" if text else ""


def _tag(text: str) -> str:
    return f"<span>{html.escape(text)}</span>" if text else ""


def _number(column: Column) -> str:
    return "" if column.style == "text" else " number"


def _below(column: Column) -> str:
    """The words of its title that are not in the title over it."""
    return " ".join(word for word in column.title.split() if word not in column.head.split())


def _breakable(title: str) -> str:
    """A heading that may be broken after underscores, as in names of attacks."""
    return html.escape(title).replace("_", "_<wbr>")

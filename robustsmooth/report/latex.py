"""Tables for papers: LaTeX with booktabs, wide ones in panels, long ones over several pages.

The packages are booktabs, array and longtable. A table keeps within the text width of a standard article;
columns that do not fit follow below, after the columns, or numbers, that tell the rows apart.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, takewhile

from robustsmooth.report.table import KIND_TITLES, Column, Table

TEXT_WIDTH = 345.0
"""Points, of LaTeX's article."""
CHARACTER = 4.6
"""Points of a wide character in footnotesize."""
SEPARATION = 3.0
WIDEST = 22
"""Characters of a text column; longer texts are folded."""
FEW = 30
"""Rows that fit into one floating table; longer tables may break between pages."""
NUMBER = Column("number", "#", style="d")
"""Tells rows apart in panels, if there is no space for the columns that do."""


def as_latex(table: Table) -> str:
    """A LaTeX table, with the intervals of differences only."""
    table = replace(table, rows=[{**row, NUMBER.key: at} for at, row in enumerate(table.rows, 1)])
    panels = _panels(table)
    floating = sum(len(table.rows) + _lines(panel) + 2 for panel in panels) <= FEW + 6
    caption = rf"\caption{{{_escaped(f'{table.title}. {table.notes}'.strip())}}}\label{{tab:{_label(table)}}}"
    small = rf"\footnotesize\setlength{{\tabcolsep}}{{{SEPARATION:g}pt}}"
    if floating:
        inner = "\n  \\par\\medskip\n".join(_tabular(table, panel) for panel in panels)
        lines = [r"\begin{table}", r"  \centering", f"  {caption}", f"  {small}", inner, r"\end{table}"]
    else:
        lines = [r"\begingroup", small]
        lines += [_longtable(table, panel, caption if panel is panels[0] else "") for panel in panels]
        lines += [r"\endgroup"]
    return "\n".join([*lines, ""])


def _panels(table: Table) -> list[list[Column]]:
    """The columns in groups that fit the text, each with those in front that tell the rows apart."""
    used = table.used
    if _width(table, used) <= TEXT_WIDTH:
        return [used]
    names = _names(table)
    panels = [[*names]]
    for unit in _units([column for column in used if column not in names]):
        if _width(table, [*panels[-1], *unit]) > TEXT_WIDTH and len(panels[-1]) > len(names):
            panels.append([*names])
        panels[-1] += unit
    return panels


def _names(table: Table) -> list[Column]:
    """The columns of every panel: as many in front as tell the rows apart, or else the rows' numbers.

    Numbers stand before the first column, or alone, so that all other columns fit beside them.
    """
    used = table.used
    facts = list(takewhile(lambda column: column.kind == "fact", used))
    front = [facts[:count] for count in range(1, len(facts) + 1)]
    enough = [columns for columns in front if _rows_differ(table, columns)][:1]
    for names in (*enough, [NUMBER, *used[:1]]):
        others = _units([column for column in used if column not in names])
        if all(_width(table, [*names, *unit]) <= TEXT_WIDTH for unit in others):
            return names
    return [NUMBER]


def _rows_differ(table: Table, columns: Sequence[Column]) -> bool:
    return len({tuple(column.line(row) for column in columns) for row in table.rows}) == len(table.rows)


def _units(columns: Sequence[Column]) -> list[list[Column]]:
    """Columns that stay together: an ACR and its p_A."""
    units: list[list[Column]] = []
    for column in columns:
        if units and column.beside == units[-1][-1].key:
            units[-1].append(column)
        else:
            units.append([column])
    return units


def _characters(table: Table, column: Column) -> int:
    cells = max((len(column.line(row)) for row in table.rows), default=0)
    heading = max(map(len, column.title.split()), default=0)
    return min(max(cells, heading), WIDEST) if column.style == "text" else max(cells, heading)


def _width(table: Table, columns: Sequence[Column]) -> float:
    """Total width of columns in points; a heading over several columns may be wider."""
    total = 0.0
    for kind, group in groupby(columns, key=lambda item: item.kind):
        title = CHARACTER * len(KIND_TITLES[kind]) + 2 * SEPARATION
        total += max(title, sum(_points(table, column) for column in group))
    return total


def _points(table: Table, column: Column) -> float:
    return CHARACTER * _characters(table, column) + 2 * SEPARATION


def _format(table: Table, columns: Sequence[Column]) -> str:
    """Column types; texts that are folded are as wide as they may be."""
    types = []
    for column in columns:
        folded = rf">{{\raggedright\arraybackslash}}p{{{CHARACTER * WIDEST:.0f}pt}}"
        types.append(folded if _is_folded(table, column) else "l" if column.style == "text" else "r")
    return "".join(types)


def _is_folded(table: Table, column: Column) -> bool:
    return column.style == "text" and max(len(column.line(row)) for row in table.rows) > WIDEST


def _head_lines(table: Table, columns: Sequence[Column]) -> list[str]:
    """The kind of guarantee over neighbours that share it, then the titles, folded into lines."""
    spans = [
        (KIND_TITLES[kind], len(list(group))) for kind, group in groupby(columns, key=lambda item: item.kind)
    ]
    lines, rules, at = [], [], 1
    if any(title for title, _ in spans):
        cells = []
        for title, count in spans:
            cells.append(rf"\multicolumn{{{count}}}{{c}}{{{_escaped(title)}}}")
            rules += [rf"\cmidrule(lr){{{at}-{at + count - 1}}}"] if title else []
            at += count
        lines += [" & ".join(cells) + r" \\", "".join(rules)]
    folded = [_folded(column.title, _characters(table, column)) for column in columns]
    deepest = max(map(len, folded))
    for line in zip(*([""] * (deepest - len(words)) + words for words in folded), strict=True):
        cells = [rf"\multicolumn{{1}}{{{'l' if column.style == 'text' else 'r'}}}{{{_escaped(text)}}}"
                 for column, text in zip(columns, line, strict=True)]  # fmt: skip
        lines.append(" & ".join(cells) + r" \\")
    return lines


def _lines(columns: Sequence[Column]) -> int:
    return 2 + max(len(column.title.split()) for column in columns)


def _folded(title: str, width: int) -> list[str]:
    """The words of a title in lines no longer than the column is wide anyway."""
    lines: list[str] = []
    for word in title.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _body(table: Table, columns: Sequence[Column]) -> list[str]:
    """The rows; a long word, such as the name of a file, may be broken after an underscore."""
    lines = []
    breaks = [r"\_\allowbreak{}" if _is_folded(table, column) else r"\_" for column in columns]
    for row in table.rows:
        texts = [
            (_escaped(column.line(row)).replace(r"\_", underscore), table.is_best(column, row))
            for column, underscore in zip(columns, breaks, strict=True)
        ]
        lines.append(" & ".join(rf"\textbf{{{text}}}" if best else text for text, best in texts) + r" \\")
    return lines


def _tabular(table: Table, columns: Sequence[Column]) -> str:
    lines = [r"\toprule", *_head_lines(table, columns), r"\midrule", *_body(table, columns), r"\bottomrule"]
    inner = "\n".join(f"    {line}" for line in lines)
    return f"  \\begin{{tabular}}{{{_format(table, columns)}}}\n{inner}\n  \\end{{tabular}}"


def _longtable(table: Table, columns: Sequence[Column], caption: str) -> str:
    head = [r"\toprule", *_head_lines(table, columns), r"\midrule"]
    return "\n".join([
        rf"\begin{{longtable}}{{{_format(table, columns)}}}", *([rf"{caption}\\"] if caption else []),
        *head, r"\endfirsthead", *head, r"\endhead", r"\bottomrule", r"\endfoot",
        *_body(table, columns), r"\end{longtable}",
    ])  # fmt: skip


def _label(table: Table) -> str:
    return table.name.replace("_", "-")


_REPLACED = {
    "\\": r"\textbackslash{}",
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "σ": r"$\sigma$", "ε": r"$\epsilon$",
    "α": r"$\alpha$", "∞": r"$\infty$", "≥": r"$\geq$", "≤": r"$\leq$", "±": r"$\pm$", "ℓ": r"$\ell$",
    "√": r"$\sqrt{}$", "₂": r"$_2$", "[": "{[}", "]": "{]}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "\n": " ", "\t": " ",
}  # fmt: skip


def _escaped(text: str) -> str:
    """Text escaped for LaTeX; characters that its standard fonts lack become question marks."""
    safe = "".join(
        _REPLACED.get(character, character if " " <= character < "\u0180" else "?") for character in text
    )
    return re.sub(r"\bp\\_A\b", "$p_A$", safe)

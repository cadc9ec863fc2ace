"""Figures: a title, a note, and a function that draws; as PNG and PDF files, and as SVG in the page.

Colours are those of Okabe and Ito, which colour-blind readers can distinguish (without their yellow, too pale
on white); lines differ in their dashes too. matplotlib is imported when a figure is drawn.
"""

from __future__ import annotations

import html
import io
import itertools
import logging
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from robustsmooth.report.comparable import Repeated, line_name, repetitions
from robustsmooth.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_LINES = 7
"""If there are more lines than colours, the best ones get colours, the others are grey."""

MOST_GREY = 300
"""More grey lines would only fill the picture."""

STYLE: dict[Any, Any] = {
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.25, "legend.frameon": False, "legend.fontsize": 8.5, "lines.linewidth": 1.8,
    "svg.fonttype": "none", "pdf.fonttype": 42, "text.parse_math": False, "font.family": "sans-serif",
    "savefig.dpi": 160, "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
}  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A figure to draw.

    Attributes:
        name: File name without suffix.
        title: Its heading.
        note: How to read it.
        draw: Draws into the axes.
    """

    name: str
    title: str
    note: str
    draw: Callable[[Axes], None]

    def figure(self) -> Figure:
        """Draw it, with title and axis labels."""
        import matplotlib as mpl
        from matplotlib.figure import Figure

        with mpl.rc_context(STYLE):
            figure = Figure()
            axes = figure.subplots()
            title = textwrap.fill(self.title, 48)  # what fits above the axes
            axes.set_title(title)
            self.draw(axes)
            lines = [line for line in axes.get_lines() if not re.match(r"_child\d|$", str(line.get_label()))]
            texts = shortened([str(line.get_label()) for line in lines])
            long = any(len(text) > 28 for text in texts)
            rows = len(texts) if long else math.ceil(len(texts) / 2)
            if texts:
                figure.legend(lines, texts, loc="lower left", ncols=1 if long else 2)
            # Margins in inches: matplotlib's own layouts draw every figure twice.
            width, top, bottom = 5.6, 0.15 + 0.2 * len(title.splitlines()), 0.55 + 0.2 * rows
            height = 2.8 + top + bottom
            figure.set_size_inches(width, height)
            figure.subplots_adjust(
                left=0.7 / width, right=1 - 0.1 / width, bottom=bottom / height, top=1 - top / height
            )
            return figure

    def svg(self) -> str:
        """As an SVG element that scales with the page; its identifiers do not clash with other figures'."""
        import matplotlib as mpl

        figure, buffer = self.figure(), io.StringIO()
        with mpl.rc_context({**STYLE, "svg.hashsalt": self.name}):
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{self.name}-", text)
        text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
        text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
        return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(self.title)}"', 1)


def named_apart(drawings: Iterable[Drawing]) -> list[Drawing]:
    """The drawings, of which no two have the same files: a name that is taken gets a number."""
    taken: set[str] = set()  # in lower case, since some file systems ignore it
    apart = []
    for drawing in drawings:
        name, number = drawing.name, 1
        while name.lower() in taken:
            number += 1
            name = f"{drawing.name}_{number}"
        taken.add(name.lower())
        apart.append(replace(drawing, name=name))
    return apart


def write_figures(drawings: Sequence[Drawing], folder: Path, formats: Sequence[str] = ("png", "pdf")) -> None:
    """Draw the figures into files."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # says which tables of a font it embeds
    for drawing in drawings:
        figure = drawing.figure()
        with mpl.rc_context(STYLE):
            for suffix in formats:
                dated: dict[str, Any] = {"metadata": {"CreationDate": None}} if suffix == "pdf" else {}
                figure.savefig(folder / f"{drawing.name}.{suffix}", **dated)


def line_style(position: int) -> dict[str, Any]:
    """Colour and dashes of the line at a position; seven colours with four dashes each are different."""
    turn, colour = divmod(position, len(PALETTE))
    return {"color": PALETTE[colour], "linestyle": DASHES[(turn + colour) % len(DASHES)]}


@dataclass(frozen=True)
class Line(Generic[Repeated]):
    """A line of a figure: a run, or the mean of runs that differ only in the seed.

    Attributes:
        members: The runs.
        label: For the legend.
        style: Colour and dashes; None if there are none left.
    """

    members: list[Repeated]
    label: str
    style: dict[str, Any] | None

    def values(self, curve: Callable[[Repeated], np.ndarray]) -> np.ndarray:
        """The curves of the members, one row each."""
        return np.array([curve(member) for member in self.members])


class Styles:
    """One colour per classifier and one line per run, the same in every figure of a report.

    Args:
        ranked: All runs, the best first. The first seven classifiers get colours; further evaluations of one
            of the same kind (certified with another number of votes, say) get its colour and other dashes.
        methods: The name of the method of each classifier that was trained under several seeds: these share
            a colour.
        lines: The `line_name` of each evaluation: those with the same one are one line.
    """

    def __init__(self, ranked: Iterable[Run], methods: Mapping[str, str], lines: Mapping[Run, str]) -> None:
        self._methods, self._lines = methods, lines
        self._classifiers: dict[str, int] = {}
        self._variants: dict[str, dict[tuple[str, ...], int]] = {}
        runs = list(ranked)
        for run in runs:
            classifier, variant = self._names(run)
            self._classifiers.setdefault(classifier, len(self._classifiers))
            known = self._variants.setdefault(classifier, {})
            if run.logs and variant not in known:  # a training has the line of its first evaluations
                taken = [number for other, number in known.items() if {*other[1:]} & {*run.logs}]
                known[variant] = next(number for number in itertools.count() if number not in taken)
        self._taken = [self.of(run) for run in runs]
        self._lent: dict[Any, dict[str, Any]] = {}

    def _names(self, run: Run) -> tuple[str, tuple[str, ...]]:
        """The classifier, or the method of several seeds; and the name of the line with the kinds of logs."""
        own = str(run.facts.get("classifier", run.label))
        return self._methods.get(own, own), (self._lines.get(run, run.label), *run.logs)

    def colour(self, run: Run) -> str | None:
        """The colour of a run's classifier; None if there is none left."""
        position = self._classifiers[self._names(run)[0]]
        return PALETTE[position] if position < MOST_LINES else None

    def of(self, run: Run) -> dict[str, Any] | None:
        """Colour and dashes of a run; None if there are none left."""
        classifier, variant = self._names(run)
        position, number = self._classifiers[classifier], self._variants[classifier].get(variant, 0)
        if position >= MOST_LINES or number >= len(DASHES):
            return None
        return line_style(position + number * len(PALETTE))

    def of_each(self, groups: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
        """The style of each group's best run; if it has none, one that no other run of the report has.

        If all are taken, it is one that no other group has.
        """
        best = {
            name: min(runs, key=lambda run: self._classifiers[self._names(run)[0]])
            for name, runs in groups.items()
        }
        looks = {name: style for name, run in best.items() if (style := self.of(run))}
        for name, run in best.items():
            if name not in looks:
                looks[name] = self._lend(run, list(looks.values()))
        return {name: looks[name] for name in groups}

    def _lend(self, run: Run, here: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A style for a run without one, the same in every figure; not one of the figure's others."""
        own, colours = self._names(run), {style["color"] for style in here}
        if own not in self._lent or self._lent[own] in here:
            every = map(line_style, range(len(PALETTE) * len(DASHES)))
            free = [style for style in every if style not in here]
            self._lent[own] = min(free, key=lambda style: (style in self._taken, style["color"] in colours))
            self._taken.append(self._lent[own])
        return self._lent[own]

    def lines(self, items: Iterable[Repeated]) -> tuple[list[Line[Repeated]], list[Line[Repeated]]]:
        """The lines of a figure, runs under several seeds as one: those with a style, and the others."""
        lines = [Line(group, line_name(group), self.of(group[0].run)) for group in repetitions(items)]
        return [line for line in lines if line.style], [line for line in lines if not line.style]


def left_out(labels: Sequence[str], how: str = "left out", most: int = 6) -> str:
    """A sentence about the lines that a figure leaves out; empty if there are none."""
    names = list(dict.fromkeys(labels))
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f" {how[0].upper()}{how[1:]}: {', '.join(names[:most])}{more}."


def shortened(labels: Sequence[str], most: int = 44) -> list[str]:
    """Labels for a legend: a part of very long ones is left out, near the middle, if they stay different.

    matplotlib would hide those with an underscore in front.
    """
    for head in sorted(range(most - 1), key=lambda place: abs(place - most // 2)):
        cut = [
            f"{label[:head]}…{label[head - most + 1 :]}" if len(label) > most else label for label in labels
        ]
        if len({*cut}) == len({*labels}):
            break
    else:
        cut = list(labels)
    return [f" {label}" if label.startswith("_") else label for label in cut]


def grey_lines(axes: Axes, x: np.ndarray, curves: Iterable[np.ndarray]) -> None:
    """Draw the curves that got no colour; many of them become an image, which keeps the page small."""
    from matplotlib.collections import LineCollection

    lines = [np.column_stack([x, y]) for y in itertools.islice(curves, MOST_GREY)]
    many = len(lines) > MOST_GREY // 6
    axes.add_collection(LineCollection(lines, colors="0.8", linewidths=0.7, zorder=1, rasterized=many))


def percent_axes(axes: Axes, x: str, y: str) -> None:
    """Name the axes of a finished drawing; y runs from 0 to at most 100 percent, x from 0."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(0, min(100, max(10, axes.get_ylim()[1])))
    axes.set_xlim(left=0)

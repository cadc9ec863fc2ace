"""Our curves compared with published ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from robustsmooth.report.evaluations import Certification
from robustsmooth.report.figures.certified import RADIUS, TESTED, by_acr, curve, places, radius_grid, sigma_of
from robustsmooth.report.figures.drawing import MARKERS, Drawing, Styles, left_out, percent_axes
from robustsmooth.report.published import Published

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def beside_published(
    certifications: Sequence[Certification], published: Sequence[Published], styles: Styles
) -> Drawing | None:
    """Certified accuracy of our runs as lines, of published ones as marks at their radii.

    Published results are shown at our noise levels, where possible with our network: those of our methods,
    each with its best setting, and the best complete one. The title has the numbers of votes if they differ.
    None if nothing is published at our levels.
    """
    drawn, grey = by_acr(styles, certifications)
    ours = [item for line in drawn for item in line.members]
    levels = {sigma_of(item) for item in ours} or {paper.facts["sigma"] for paper in published}
    methods = {item.run.facts.get("method") for item in ours}
    networks = {item.run.facts.get("model") for item in ours}
    near = [paper for paper in published if paper.facts["sigma"] in levels and "rerun" not in paper.source]
    alike = {paper.facts["sigma"] for paper in near if paper.facts["model"] in networks}
    near = [p for p in near if p.facts["model"] in networks or p.facts["sigma"] not in alike]
    near = list(_best(near, "method", "sigma", "model").values())
    best = set(_best(near, "sigma").values())
    chosen = [paper for paper in near if paper.methods & methods or paper in best]
    chosen.sort(key=lambda paper: paper not in best)
    if not chosen:
        return None
    shown, more = chosen[: len(MARKERS)], chosen[len(MARKERS) :]

    def draw(axes: Axes) -> None:
        grid = radius_grid(ours)
        for line in drawn:
            at, marks = places(line.members, grid)
            mean = line.values(partial(curve, grid=at)).mean(0)
            axes.plot(at, mean, label=line.label, **(line.style or {}), **marks)
        for paper, marker in zip(shown, MARKERS, strict=False):
            known = paper.accuracy > 0
            axes.plot(
                paper.radii[known],
                100 * paper.accuracy[known],
                color="0.35",
                linestyle=":",
                linewidth=0.9,
                marker=marker,
                markersize=4,
                label=_label(paper, shown),
            )
        percent_axes(axes, RADIUS, "Certified accuracy (% of all images)")

    sources = sorted({f"{paper.facts['method']}: {paper.source}" for paper in shown})
    theirs = ", ".join(sorted({paper.facts["model"] for paper in shown}))
    note = f"Grey marks: published results with {theirs} ({'; '.join(sources)}). "
    note += "Networks, epochs, images and n differ."
    note += TESTED if any(item.guarantee.at_some_radii for item in ours) else ""
    note += left_out([paper.label for paper in more])
    note += left_out([line.label for line in grey])
    title = "Beside published results" + _unequal(ours, shown)
    return Drawing("published", title, note, draw)


def _label(paper: Published, shown: Sequence[Published]) -> str:
    """Its name in the legend, with the network if the name is there twice, and with missing images."""
    alike = [other.name for other in shown].count(paper.name)
    words = [paper.name, *([str(paper.facts["model"])] if alike > 1 else [])]
    words += [] if paper.complete else [f"{paper.images} of {paper.expected} images"]
    return ", ".join(words)


def _best(published: Sequence[Published], *names: str) -> dict[tuple, Published]:
    """The largest ACR, if possible of a complete log, of all that agree in some facts."""
    found: dict[tuple, Published] = {}
    for paper in sorted(published, key=lambda paper: (paper.complete, paper.acr)):
        found[tuple(paper.facts[name] for name in names)] = paper
    return found


def _unequal(ours: Sequence[Certification], published: Sequence[Published]) -> str:
    """The numbers of votes n of ours and of the published runs, if they are not all the same."""
    here = sorted({item.run.facts.get("n") for item in ours}, key=str)
    there = sorted({paper.facts["n"] for paper in published})
    if not here or here == there:
        return ""
    mine = ", ".join("unknown" if n is None else f"{n:,.0f}" for n in here)
    return f" (n: ours {mine}; theirs {', '.join(f'{n:,}' for n in there)})"

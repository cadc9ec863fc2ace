"""Our curves beside published ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustsmooth.report.evaluations import Certification
from robustsmooth.report.figures.certified import RADIUS, curve, radius_grid, sigma_of
from robustsmooth.report.figures.drawing import MARKERS, Drawing, Styles, left_out, percent_axes, shortened
from robustsmooth.report.published import Published

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["beside_published"]


def beside_published(
    certifications: Sequence[Certification], published: Sequence[Published], styles: Styles
) -> Drawing:
    """Certified accuracy of our runs as lines, of published ones as marks at their radii.

    Published ones are shown at the noise levels that ours have: of our methods, and the best one.
    """
    drawn = [(each, style) for each in certifications if (style := styles.of(each.run)) is not None]
    levels = {sigma_of(each) for each, _ in drawn} or {paper.facts["sigma"] for paper in published}
    methods = {each.run.facts.get("method") for each, _ in drawn}
    near = [each for each in published if each.facts["sigma"] in levels and "rerun" not in each.source]
    best = {max((p for p in near if p.facts["sigma"] == s), key=lambda p: p.acr).label for s in levels
            if any(p.facts["sigma"] == s for p in near)}  # fmt: skip
    chosen = [paper for paper in near if paper.facts["method"] in methods or paper.label in best]
    chosen.sort(key=lambda paper: paper.label not in best)
    shown, more = chosen[: len(MARKERS)], chosen[len(MARKERS) :]

    def draw(axes: Axes) -> None:
        grid = radius_grid([each for each, _ in drawn])
        for each, style in drawn:
            axes.plot(grid, curve(each, grid), label=shortened(each.run.label), **style)
        for paper, marker in zip(shown, MARKERS, strict=False):
            known = paper.accuracy > 0
            label = shortened(f"published: {paper.facts['method']} {paper.facts['sigma']:g}")
            axes.plot(
                paper.radii[known],
                100 * paper.accuracy[known],
                color="0.35",
                linestyle=":",
                linewidth=0.9,
                marker=marker,
                markersize=4,
                label=label,
            )
        percent_axes(axes, RADIUS, "Certified accuracy (% of all images)")

    sources = sorted({f"{paper.facts['method']}: {paper.source}" for paper in shown})
    note = f"Grey marks: published results ({'; '.join(sources)}). Networks, epochs, images and n differ."
    note += left_out([paper.label for paper in more])
    note += left_out([each.run.label for each in certifications if styles.of(each.run) is None])
    return Drawing("published", "Beside published results", note, draw)

"""Our certifications compared with published ones."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from scipy.special import ndtri

from robustsmooth.report.comparable import group_name, l2_certified, more_complete, repetitions
from robustsmooth.report.evaluations import Certification
from robustsmooth.report.published import Published
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.common import (
    P_A,
    certified_cells,
    known_facts,
    over_seeds,
    radius_columns,
    radius_key,
    with_spread,
    without_acr,
)
from robustsmooth.statistics import SURE

SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)
"""The radii that fit a page; the files for programs have all."""


def of_data(certifications: Iterable[Certification], data: str) -> list[Certification]:
    """Certified l2 radii on the test images of a data set."""
    certified = l2_certified(certifications)
    return [
        item for item in certified if item.run.facts.get("data") == data and "split" not in item.run.facts
    ]


def published_table(certifications: Sequence[Certification], published: Sequence[Published]) -> Table:
    """Certified accuracy and ACR of our runs and of published ones, at the radii that are published.

    Published results are those at our noise levels, or all if there are none. Within a level ours are first.
    The name of a row says whether it is published or incomplete, since other columns may be elsewhere.

    Args:
        certifications: Of the data set of the published ones.
        published: At least one.
    """
    radii = published[0].radii
    rows: list[dict[str, Any]] = []
    fuller = more_complete(certifications)
    for group in repetitions(certifications):
        if not (cells := over_seeds([certified_cells(item, radii.tolist()) for item in group])):
            continue
        facts, images = known_facts(group[0].run), group[0].images
        rows.append({**facts, "run": group_name(group), "source": "here", "images": images, **cells})
        expected = max(fuller.get(item, item).images for item in group)
        rows[-1] |= {"complete": _of(images, expected), "seeds": len(group)}
        unfinished = not all(item.finished for item in group)
        rows[-1]["run"] += ", unfinished" if unfinished else ", incomplete" if images < expected else ""
    levels = {certification.run.facts.get("sigma") for certification in certifications}
    for paper in [paper for paper in published if paper.facts["sigma"] in levels] or published:
        name = paper.name if paper.complete else f"{paper.name}, incomplete"
        rows.append({**paper.facts, "run": name, "source": paper.source, "images": paper.images})
        low, high = paper.sure
        rows[-1] |= {"acr": paper.acr, "sure_low": low, "sure_high": high, "log": paper.log}
        rows[-1] |= dict(zip(map(radius_key, radii), paper.accuracy.tolist(), strict=True))
        rows[-1] |= {"complete": _of(paper.images, paper.expected)}
    rows.sort(key=_order)
    known = [float(r) for r in radii if max(row.get(radius_key(r), 0) for row in rows) > 0]
    columns = [
        Column("run", "Run"),
        Column("model", "Network"),
        Column("n", "n", style="d"),
        Column("complete", "Images"),
        *([Column("seeds", "Seeds", style="d")] if any(row.get("seeds", 1) > 1 for row in rows) else []),
        *with_spread(
            [Column("acr", "ACR", "certificate", ".3f"), replace(P_A, low="sure_low", high="sure_high")]
        ),
        *with_spread(
            replace(column, best=None, only_files=radius not in SHOWN)
            for radius, column in zip(known, radius_columns(known, "certificate"), strict=True)
        ),
        Column("source", "Published by"),
        Column("log", "Log", only_files=True),
    ]
    return Table(
        "published", "Beside published results", columns, rows,
        "Published: recomputed from the logs that the authors made public (n = 100 000, α = 0.001), on "
        "the rows that they have; an incomplete log is not comparable to a complete one. The share with "
        f"p_A ≥ {SURE:g} is between the accuracies at the known radii around {ndtri(SURE):.2f} σ. Networks, "
        "epochs, images and n differ: read the columns. The CSV file has every radius and names each log."
        + without_acr(certifications),
    )  # fmt: skip


def _of(images: int, expected: int) -> str:
    return f"{images} of {expected}" if images < expected else str(images)


def _order(row: dict[str, Any]) -> tuple[float, bool, float]:
    """By noise level, ours first, then the largest ACR; those without one last."""
    sigma = row.get("sigma")
    return (float(sigma) if isinstance(sigma, int | float) else 0.0, "log" in row, -row.get("acr", 0.0))

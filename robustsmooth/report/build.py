"""Building a report from runs: tables, figures, page, terminal."""

import datetime
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import robustsmooth
from robustsmooth.report import tables
from robustsmooth.report.comparable import (
    by_guarantee,
    doubled_seeds,
    fair_groups,
    incomplete,
    l2_certified,
    names_of,
    repetitions,
    unlike_seeds,
)
from robustsmooth.report.evaluations import Attack, Certification, Evaluations, Measurement, read_evaluations
from robustsmooth.report.figures import draw_figures, write_figures
from robustsmooth.report.labels import label_runs
from robustsmooth.report.levels import OVER_LEVELS, levels_of_some, unfinished
from robustsmooth.report.page import write_page
from robustsmooth.report.pairing import EVERY, MOST
from robustsmooth.report.published import published_results
from robustsmooth.report.runs import find_runs
from robustsmooth.report.table import Table
from robustsmooth.report.terminal import show as show_tables
from robustsmooth.report.writing import SUFFIXES, replace_files, write_tables
from robustsmooth.statistics import Method

FORMATS = ("terminal", "html", "tables", "png", "pdf")
TABLES = (
    "overview", "certified_accuracy", "radii", "published", "best", "envelope", "attacks", "distances",
    "attack_seeds", "contradictions", "comparison", "seeds", "seed_comparison", "restated",
    "restated_comparison", "linf", "predictions", "agreement", "timing", "smoothed_inference", "training",
)  # fmt: skip
"""Names of the tables; those of unusual guarantees end in it, as ``radii_l2_at_radius_certificate``."""


def build_tables(
    evaluations: Evaluations,
    radii: Sequence[float] | None = None,
    level: float = 0.95,
    method: Method = "clopper_pearson",
    restate: int | None = None,
    published: str | None = None,
    baseline: str | None = None,
) -> list[Table]:
    """All tables that have rows, the most important ones first.

    Args:
        evaluations: The evaluations.
        radii: Radii of the certified accuracies; chosen from the data if None.
        level: Confidence level of the intervals over images.
        method: Method of the intervals.
        restate: Restate certifications at this many votes; if None, see `restated_tables`.
        published: A data set whose published results are compared with ours, such as ``cifar10``.
        baseline: Label, label without the seed, row or method of the classifier that the others are compared
            with, such as ``gaussian``; of several, the one at the same noise level. If None or not among the
            runs, the best one is compared with the others; with ``all`` every pair is compared.
    """
    certified = evaluations.certifications
    if baseline == EVERY:
        most = max((len(repetitions(members)) for members in fair_groups(certified).values()), default=0)
        if most > MOST:
            evaluations.problems.append(
                f"all pairs of {most} classifiers would be too many rows, the best one is compared with the "
                f"others instead: report on at most {MOST}"
            )
            baseline = None
    if certified and baseline not in (None, EVERY, *(known := _names(certified))):
        evaluations.problems.append(
            f"no certified run is called {baseline!r}, the best one is compared instead; known are "
            + ", ".join(known)
        )
        baseline = None
    evaluations.problems += tables.without_baseline(certified, baseline)
    chosen = list(tables.default_radii(l2_certified(certified) or certified) if radii is None else radii)
    restated = tables.restated_tables(certified, chosen, restate, baseline, level)
    if restate is not None and not restated[0].rows:
        evaluations.problems.append(
            f"nothing is restated at {restate} votes: no run is known to have that many votes per image, "
            "their counts, sigma and alpha"
        )
    built = [tables.overview_table(evaluations, tables.few(chosen))]
    for members in by_guarantee(certified).values():
        own = radii is None or members[0].guarantee.at_some_radii
        at = tables.default_radii(members) if own else chosen
        built.append(tables.certified_accuracy_table(members, at, level, method))
        built.append(tables.radius_table(members))
    built += [
        _beside(certified, published),
        tables.best_table(certified, chosen),
        tables.envelope_table(certified, chosen),
        tables.attack_table(evaluations.attacks, level, method),
        tables.distance_table(evaluations),
        tables.attack_seed_table(evaluations.attacks),
        tables.contradiction_table(evaluations),
        tables.comparison_table(certified, chosen, baseline, level),
        tables.seed_table(certified, chosen),
        tables.seed_comparison_table(certified, chosen, baseline, level),
        *restated,
        tables.linf_table(certified),
        tables.prediction_table(evaluations.measurements, level, method),
        tables.agreement_table(evaluations.measurements, level, method),
        tables.timing_table(evaluations.measurements),
        tables.inference_table(evaluations.measurements),
        tables.training_table(evaluations),
    ]
    return [table for table in built if table is not None and table.rows]


def _names(certified: Sequence[Certification]) -> list[str]:
    return sorted({name for group in repetitions(certified) for name in names_of(group)})


def _beside(certified: Sequence[Certification], data: str | None) -> Table | None:
    """The published results on a data set, with ours."""
    if data is None:
        return None
    return tables.published_table(tables.of_data(certified, data), published_results(data))


def write_report(
    runs: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    folder: Path | str,
    *,
    title: str = "Robustness report",
    formats: Sequence[str] = FORMATS,
    show: Sequence[str] | None = None,
    radii: Sequence[float] | None = None,
    level: float = 0.95,
    interval: Method = "clopper_pearson",
    restate: int | None = None,
    published: str | None = None,
    baseline: str | None = None,
    wandb: Mapping[str, Any] | None = None,
) -> list[Table]:
    """Read runs and write their report.

    Args:
        runs: Folders, globs, log files, or mappings with a ``path`` and facts; see `find_runs`.
        folder: The folder of ``report.html``, ``tables/`` and ``figures/``.
        title: Heading of the page.
        formats: Any of ``terminal``, ``html``, ``tables`` (Markdown, LaTeX, CSV, JSON), ``png``, ``pdf``.
        show: Names of the tables for the terminal; all if None.
        radii: At which certified accuracy is tabled; chosen from the data if None.
        level: Confidence level of the intervals over images, in (0, 1).
        interval: ``clopper_pearson`` or ``wilson``.
        restate: See `build_tables`.
        published: See `build_tables`.
        baseline: See `build_tables`.
        wandb: Options of `robustsmooth.report.publish.publish`, to publish the runs on Weights & Biases too.

    Returns:
        The tables.

    Raises:
        ValueError: If a format, table, level or radius is not allowed, or the runs contain no evaluation.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise ValueError(f"`formats` may hold {', '.join(FORMATS)}, got {', '.join(unknown)}")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be in (0, 1), got {level}")
    if restate is not None and restate < 1:
        raise ValueError(f"`restate` must be at least 1 vote, got {restate}")
    if radii is not None and not all(0 <= a < b for a, b in pairwise([*radii, math.inf])):
        raise ValueError(f"`radii` must ascend from at least 0, got {list(radii)}")
    _check_names(show or ())
    folder = Path(folder)
    evaluations = read_evaluations(label_runs(find_runs(runs)))
    evaluations.problems += incomplete(evaluations.certifications)
    evaluations.problems += tables.unknown_methods([*evaluations.certifications, *evaluations.attacks])
    evaluations.problems += tables.unknown_radii(evaluations.certifications)
    evaluations.problems += tables.unpaired(evaluations.certifications)
    evaluations.problems += tables.unknown_votes(evaluations.certifications)
    evaluations.problems += _not_averaged(evaluations) + unfinished(evaluations.measurements)
    evaluations.problems += tables.without_bounds(evaluations.certifications)
    if restate is None:
        evaluations.problems += tables.too_few_votes(evaluations.certifications)
    built = build_tables(evaluations, radii, level, interval, restate, published, baseline)
    if not built:
        problems = "; ".join(evaluations.problems) or "no certify.tsv, attack.tsv or metrics.csv in them"
        raise ValueError(f"`runs`: nothing to report: {problems}")
    drawings = draw_figures(evaluations, level, interval, published, baseline)
    if "tables" in formats:
        names = [f"{table.name}.{suffix}" for table in built for suffix in SUFFIXES]
        replace_files(folder / "tables", names)
        write_tables(built, folder / "tables")
    images = [suffix for suffix in ("png", "pdf") if suffix in formats]
    if images:
        names = [f"{drawing.name}.{suffix}" for drawing in drawings for suffix in images]
        replace_files(folder / "figures", names)
        write_figures(drawings, folder / "figures", images)
    if "html" in formats:
        footer = f"Made by robustsmooth {robustsmooth.__version__}."
        write_page(
            folder / "report.html",
            title,
            _counted(evaluations),
            evaluations.runs,
            built,
            drawings,
            evaluations.problems,
            footer,
        )
    if wandb is not None:
        from robustsmooth.report.publish import publish

        publish(evaluations, folder, **wandb)
    shown = [table for table in built if show is None or table.name in show] if "terminal" in formats else []
    show_tables(shown, evaluations.problems, str(folder / ("report.html" if "html" in formats else "tables")))
    return built


def _not_averaged(evaluations: Evaluations) -> list[str]:
    """Messages about seeds that are missing in a mean, each with the kind of evaluations that it is of."""
    measured = {kind: [one for one in evaluations.measurements if one.kind == kind] for kind in OVER_LEVELS}
    averaged: dict[str, Sequence[Certification | Attack | Measurement]] = {
        "certifications": l2_certified(evaluations.certifications),
        "attacks": evaluations.attacks,
        **measured,
    }
    return [
        f"{kind.replace('_', ' ')}: {message}"
        for kind, members in averaged.items()
        for message in (
            *doubled_seeds(members),
            *unlike_seeds(members),
            *levels_of_some(measured.get(kind, ())),
        )
    ]


def _check_names(names: Sequence[str]) -> None:
    """Refuse unknown tables; a table without rows in this report is just left out."""
    several = ("certified_accuracy_", "radii_")
    unknown = [name for name in names if name not in TABLES and not str(name).startswith(several)]
    if unknown:
        raise ValueError(
            f"`show` may name the tables {', '.join(TABLES)}, got {', '.join(map(str, unknown))}"
        )


def _counted(evaluations: Evaluations) -> str:
    """The contents and the date of the report."""
    counts = {
        "classifier": len({run.facts["classifier"] for run in evaluations.runs}),
        "certification": len(evaluations.certifications),
        "attack": len({attack.path for attack in evaluations.attacks}),
        "other measurement": len(evaluations.measurements),
    }
    words = [f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count]
    return ", ".join([*words, datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")])

"""The figures of a report."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from robustsmooth.report.comparable import (
    by_data,
    by_guarantee,
    fair_groups,
    line_name,
    on_the_same_images,
    repetitions,
    usual,
)
from robustsmooth.report.evaluations import Evaluations, Withstood, withstood
from robustsmooth.report.figures.attacked import attack_curves, empirical_and_certified
from robustsmooth.report.figures.beside import beside_published
from robustsmooth.report.figures.certified import certified_accuracy, lower_bounds, sigma_of
from robustsmooth.report.figures.drawing import (
    MOST_LINES,
    PALETTE,
    Drawing,
    Styles,
    named_apart,
    write_figures,
)
from robustsmooth.report.figures.envelopes import envelope, envelope_per_sigma
from robustsmooth.report.figures.measured import (
    agreement,
    inference_over_samples,
    inference_over_votings,
    training_curves,
)
from robustsmooth.report.pairing import named, ranked
from robustsmooth.report.published import published_results
from robustsmooth.report.runs import Run
from robustsmooth.report.tables import agreement_rows
from robustsmooth.report.tables.beside import of_data
from robustsmooth.statistics import Method

__all__ = ["PALETTE", "Drawing", "draw_figures", "write_figures"]


def draw_figures(
    evaluations: Evaluations,
    level: float = 0.95,
    method: Method = "clopper_pearson",
    published: str | None = None,
    baseline: str | None = None,
) -> list[Drawing]:
    """All figures for which there is something to show.

    Args:
        evaluations: What was read.
        level: Confidence level of the bands over images.
        method: Kind of the intervals.
        published: A data set whose published results stand beside ours.
        baseline: The classifier that the others are compared with; it has a colour wherever it is drawn.
    """
    styles = _styles(evaluations, baseline)
    drawings: list[Drawing | None] = []
    for guarantee, members in by_guarantee(evaluations.certifications).items():
        groups = by_data(members)
        for data, group in groups.items() if guarantee.statement != "at-radius" else ():
            name = data if len(groups) > 1 else ""
            drawings.append(certified_accuracy(group, styles, level, method, name))
            if guarantee.usual and any(member.p_a_lower is not None for member in group):
                drawings.append(lower_bounds(group, styles, name))
    if published is not None:
        ours = of_data(evaluations.certifications, published)
        drawings.append(beside_published(ours, published_results(published), styles))
    budgets = [attack for attack in withstood(evaluations) if attack.norm == "l2"]
    drawings += _envelopes(evaluations, budgets, styles)
    drawings.append(empirical_and_certified(budgets, usual(evaluations.certifications), styles))
    drawings.append(attack_curves(evaluations.attacks, styles))
    drawings.append(training_curves(evaluations.trainings, styles))
    rows = list(agreement_rows(evaluations.measurements, level, method))
    passes = [measurement for measurement in evaluations.measurements if measurement.kind == "agreement"]
    drawings += [agreement(rows, passes, styles, own) for own in (True, False)]
    sweeps = [
        measurement for measurement in evaluations.measurements if measurement.kind == "smoothed_inference"
    ]
    drawings.append(inference_over_votings(sweeps, styles))
    for sweep in sweeps[:MOST_LINES]:
        votings = list(sweep.rows["voting"].unique())
        drawings.append(inference_over_samples(sweep, "hard" if "hard" in votings else votings[0]))
    return named_apart(drawing for drawing in drawings if drawing is not None)


def _styles(evaluations: Evaluations, baseline: str | None) -> Styles:
    """Repetitions of an evaluation share a line, their classifiers a colour."""
    kinds: list[Sequence[Any]] = [evaluations.trainings, evaluations.certifications]
    kinds += [evaluations.attacks, evaluations.measurements]
    groups = [group for items in kinds for group in repetitions(items)]
    methods: dict[str, str] = {}
    lines: dict[Run, str] = {}
    for position, group in enumerate(groups):
        lines |= dict.fromkeys((item.run for item in group), line_name(group))
        if len(group) > 1:
            classifiers = [str(item.run.facts["classifier"]) for item in group]
            known = (methods[classifier] for classifier in classifiers if classifier in methods)
            family = group[0].run.facts["family"]
            methods |= dict.fromkeys(classifiers, next(known, f"{family} ({position})"))
    return Styles(_ranked(evaluations, baseline), methods, lines)


def _ranked(evaluations: Evaluations, baseline: str | None = None) -> list[Run]:
    """All runs: the baseline, the `ranked` certificates, those that withstood most, then the others.

    Runs under several seeds count as one, with their mean. Of one network, certifications come first (those
    of all radii before others): many attacks leave no line to the later ones.
    """
    place: dict[str, int] = {}
    for at, group in enumerate(ranked(repetitions(usual(evaluations.certifications)))):
        for item in group:
            place.setdefault(str(item.run.facts["classifier"]), at)
    held = {str(item.run.facts["classifier"]): 0.0 for item in evaluations.certifications}
    for attacks in repetitions(evaluations.attacks):
        share = float(np.mean([(~attack.won).mean() for attack in attacks]))
        for attack in attacks:
            name = str(attack.run.facts["classifier"])
            held[name] = max(held.get(name, 0.0), share)
    for group in named(repetitions(evaluations.certifications), baseline):
        place |= dict.fromkeys((str(item.run.facts["classifier"]) for item in group), -1)
    kinds = by_guarantee(evaluations.certifications).values()
    certified = [certification.run for members in kinds for certification in members]

    def order(run: Run) -> tuple[float, float]:
        name = str(run.facts["classifier"])
        return place.get(name, math.inf), -held.get(name, -1.0)

    return sorted([*certified, *evaluations.runs], key=order)


def _envelopes(evaluations: Evaluations, budgets: Sequence[Withstood], styles: Styles) -> Iterator[Drawing]:
    """The envelopes of each data set that has runs of several noise levels, of equal n and alpha.

    They show the runs on the images that most runs have.
    Where PREDICT was run on images that others attacked, they stand beside its points at one level too.
    """
    groups = fair_groups(usual(evaluations.certifications))
    several = len({fair.procedure for fair in groups}) > 1
    predicted = any(measurement.attacked_with is not None for measurement in evaluations.measurements)
    for fair, every in groups.items():
        members, *others = on_the_same_images(every)
        aside = [member.run.label for other in others for member in other]
        if predicted or len({sigma_of(member) for member in members}) > 1:
            name = ", ".join(
                [fair.data, f"n={fair.n}", f"α={fair.alpha}", *([fair.procedure] if several else [])]
            )
            name = name if len(groups) > 1 else ""
            tried = [one for one in budgets if one.image_set.data == members[0].image_set.data]
            yield envelope(members, styles, tried, name, aside)
            yield envelope_per_sigma(members, styles, name, aside)
    if predicted and not groups:
        yield envelope([], styles, budgets)

"""The figures of a report."""

from robustsmooth.report.evaluations import FIELD_GUARANTEE, Evaluations
from robustsmooth.report.figures.attacked import attack_curves, empirical_and_certified
from robustsmooth.report.figures.certified import (
    certified_accuracy,
    lower_bounds,
    sigma_of,
)
from robustsmooth.report.figures.drawing import MOST_LINES, PALETTE, Drawing, write_figures
from robustsmooth.report.figures.envelopes import envelope, envelope_per_sigma
from robustsmooth.report.figures.measured import (
    PROGRESS,
    agreement,
    inference_over_samples,
    inference_over_votings,
    training_curves,
)
from robustsmooth.report.tables import agreement_rows, by_guarantee
from robustsmooth.statistics import Method

__all__ = ["PALETTE", "Drawing", "draw_figures", "write_figures"]


def draw_figures(
    evaluations: Evaluations, level: float = 0.95, method: Method = "clopper_pearson"
) -> list[Drawing]:
    """All figures for which there is something to show."""
    drawings = [
        certified_accuracy(members, level, method)
        for members in by_guarantee(evaluations.certifications).values()
    ]
    certified = [each for each in evaluations.certifications if each.guarantee == FIELD_GUARANTEE]
    budgets = [each for each in evaluations.attacks if each.norm == "l2" and each.epsilon is not None]
    if len({sigma_of(each) for each in certified}) > 1:
        drawings += [envelope(certified, budgets), envelope_per_sigma(certified)]
    if any(each.p_a_lower is not None for each in certified):
        drawings.append(lower_bounds(certified))
    if budgets and certified:
        drawings.append(empirical_and_certified(budgets, certified))
    if evaluations.attacks:
        drawings.append(attack_curves(evaluations.attacks))
    trainings = [each for each in evaluations.trainings if PROGRESS in each.metrics]
    if trainings:
        drawings.append(training_curves(trainings))
    rows = list(agreement_rows(evaluations.measurements, level, method))
    if any(row["own"] for row in rows):
        drawings.append(agreement(rows, own=True))
    if any(not row["own"] for row in rows):
        drawings.append(agreement(rows, own=False))
    sweeps = [each for each in evaluations.measurements if each.kind == "smoothed_inference"]
    if sweeps:
        drawings.append(inference_over_votings(sweeps))
    for each in sweeps[:MOST_LINES]:
        votings = list(each.rows["voting"].unique())
        drawings.append(inference_over_samples(each, "hard" if "hard" in votings else votings[0]))
    return drawings

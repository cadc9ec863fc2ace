"""Tables of attacks."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from robustsmooth import statistics
from robustsmooth.report.comparable import group_name, is_certified, l2_certified, line_name, repetitions
from robustsmooth.report.evaluations import Attack, Certification, Evaluations, attack_name
from robustsmooth.report.facts import mapping
from robustsmooth.report.runs import Run
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.common import (
    RUN,
    known_facts,
    over_seeds,
    was_tested,
    with_spread,
)
from robustsmooth.report.titles import distinct_titles
from robustsmooth.statistics import ABSTAIN, Method

Evaluated = TypeVar("Evaluated", Attack, Certification)


def attack_rows(
    attacks: Iterable[Attack], level: float = 0.95, method: Method = "clopper_pearson"
) -> list[dict[str, Any]]:
    """The numbers of each attack: accuracy before and under it, successes, distances, abstentions."""
    rows = []
    for attack in attacks:
        table, held = attack.rows, ~attack.won
        low, high = statistics.interval(int(held.sum()), len(table), level, method)
        median, mean, won = statistics.distance_statistics(attack.distance, attack.won)
        rows.append(
            {
                "run": attack.run.label,
                **known_facts(attack.run),
                **attack.settings,
                "folder": str(attack.run.trained or ""),
                "images": len(table),
                "distance_norm": attack.norm,
                "clean_accuracy": float(attack.clean.mean()),
                "accuracy": float(held.mean()),
                "accuracy_low": float(low),
                "accuracy_high": float(high),
                "success": won,
                "median_distance": median,
                "mean_distance": mean,
                "abstained": float((table["adversarial"] == ABSTAIN).mean()),
                "seconds": float(table["time"].mean()) if "time" in table else math.nan,
            }
        )
    return rows


def attack_table(attacks: Sequence[Attack], level: float = 0.95, method: Method = "clopper_pearson") -> Table:
    """Accuracy under attack and the distances that attacks needed (HeatSmoothing Tables 3 and 5)."""
    columns = [
        RUN,
        Column("attack", "Attack"),
        Column("source", "Attack seen on"),
        Column("target", "Attacked"),
        Column("epsilon", "ε (pixel units)", style="g"),
        Column("num_noise", "Noises", style="g"),
        Column("images", "Images", style="d"),
        Column("clean_accuracy", "Accuracy (%)", "empirical", "percent"),
        Column(
            "accuracy", "Accuracy under attack (%)", "empirical", "percent", "accuracy_low", "accuracy_high"
        ),
        Column("abstained", "Abstained (%)", "measurement", "percent"),
        Column("success", "Attacked or wrong (%)", "empirical", "percent"),
        Column("distance_norm", "Distance"),
        Column("median_distance", "Median distance", "empirical", ".4f"),
        Column("mean_distance", "Mean distance of successes", "empirical", ".4f"),
        Column("seconds", "Seconds per image", "measurement", ".3g"),
    ]
    return Table(
        "attacks", "Under attack", columns, attack_rows(attacks, level, method),
        "Results of attacks are upper bounds on robustness. Distances in pixel units; an image that is "
        "wrong without an attack has distance 0, a failed attack is beyond every success (∞ in the median), "
        "the mean is over successes.",
    )  # fmt: skip


def titled(items: Sequence[Evaluated], home: Callable[[Evaluated], Hashable]) -> list[tuple[Evaluated, str]]:
    """Each attack or bound with its title; of two with one home, a row of a table, only seeds share it."""
    groups = repetitions(items)
    homes = [{home(item) for item in group} for group in groups]
    titles = distinct_titles([_title(group[0]) for group in groups], groups, homes)
    return [(item, title) for group, title in zip(groups, titles, strict=True) for item in group]


def _title(item: Attack | Certification) -> str:
    if isinstance(item, Certification):
        return str(item.guarantee)
    return attack_name(item.run, item.settings, item.epsilon)


def distance_table(evaluations: Evaluations) -> Table | None:
    """One row per classifier: L-bounds and the distances that attacks needed (HeatSmoothing Tables 3 and 5).

    Only for attacks that look for the smallest perturbation.
    """
    rows: dict[str, dict[str, Any]] = {}
    columns: dict[str, Column] = {}
    bounds = [item for item in evaluations.certifications if item.guarantee.statement == "lbound"]
    for bound, title in titled(bounds, _classifier):
        median, mean, _ = statistics.radius_statistics(np.ones_like(bound.correct), bound.radius)
        row = rows.setdefault(_classifier(bound), {})
        for key, value in ((f"{title} median", median), (f"{title} mean", mean)):
            row[key] = value
            columns[key] = Column(key, key, bound.guarantee.kind, ".3f")
    smallest = [attack for attack in evaluations.attacks if attack.run.facts.get("mode") == "minimum"]
    said = {id(attack): row for attack, row in zip(smallest, attack_rows(smallest), strict=True)}
    for attack, name in titled(smallest, _classifier):
        row = rows.setdefault(_classifier(attack), {})
        for key in ("median", "mean", "success"):
            value = said[id(attack)][key if key == "success" else f"{key}_distance"]
            style, title = ("percent", "success (%)") if key == "success" else (".4f", f"{key} {attack.norm}")
            row[f"{name} {key}"] = value
            columns[f"{name} {key}"] = Column(f"{name} {key}", f"{name} {title}", "empirical", style)
    if not smallest:
        return None
    return Table(
        "distances",
        "Adversarial distances",
        [Column("classifier", "Classifier"), *columns.values()],
        [{"classifier": classifier, **row} for classifier, row in rows.items()],
        "Pixel units. L-bounds are lower bounds, over all images; attacks give upper bounds: the median "
        "counts a failure as beyond every success and a clean mistake as 0, the mean is over successes.",
    )


def _classifier(item: Attack | Certification) -> str:
    return str(item.run.facts["classifier"])


def attack_seed_table(attacks: Sequence[Attack]) -> Table:
    """Accuracy without and under attack, mean and standard deviation over seeds (CPNI Tables 1, 2 and 4)."""
    said = {id(attack): row for attack, row in zip(attacks, attack_rows(attacks), strict=True)}
    accuracies = (
        Column("clean_accuracy", "Accuracy (%)", "empirical", "percent"),
        Column("accuracy", "Accuracy under attack (%)", "empirical", "percent"),
    )
    rows = []
    for group in (group for group in repetitions(attacks) if len(group) > 1):
        members = [said[id(item)] for item in group]
        means = over_seeds([{column.key: row[column.key] for column in accuracies} for row in members])
        sources = dict.fromkeys(str(row["source"]) for row in members if "source" in row)
        facts = {"run": group_name(group), "seeds": len(members), "source": ", ".join(sources) or None}
        rows.append({**members[0], **facts, **means})
    columns = [
        Column("run", "Runs"),
        Column("model", "Network"),
        Column("sigma", "σ (pixel units)", style="g"),
        Column("attack", "Attack"),
        Column("source", "Attack seen on"),
        Column("target", "Attacked"),
        Column("epsilon", "ε (pixel units)", style="g"),
        Column("num_noise", "Noises", style="g"),
        Column("seeds", "Seeds", style="d"),
        Column("images", "Images", style="d"),
        *with_spread(accuracies),
    ]
    return Table("attack_seeds", "Under attack, mean ± standard deviation over seeds", columns, rows)


def contradiction_table(evaluations: Evaluations) -> Table:
    """Accuracy under l2 attack beside certified accuracy at the same radius, and certificates broken."""
    rows = []
    for attack in evaluations.attacks:
        if attack.epsilon is None or attack.norm != "l2":
            continue
        for certification in l2_certified(evaluations.certifications):
            if is_certified(attack, certification):
                row = _contradiction_row(attack, certification, attack.epsilon)
                rows += [row] if row else []
    columns = [
        Column("certified_by", "Certified"),
        Column("run", "Attacked"),
        Column("epsilon", "r = ε (pixel units)", style="g"),
        Column("num_noise", "Noises", style="g"),
        Column("images", "Common images", style="d"),
        Column("certified_accuracy", "Accuracy (%)", "certificate", "percent"),
        Column("accuracy", "Accuracy (%)", "empirical", "percent"),
        Column("broken", "Certificates broken", "empirical", "d"),
        Column("probability", "p-value if all certificates hold", "measurement", ".2g"),
    ]
    return Table(
        "contradictions", "Certified and empirical accuracy at the same radius", columns, rows,
        "An attack on the smoothed classifier can break a certificate only if that certificate or the "
        "prediction is wrong, each with its probability α; a tiny p-value indicates a bug. A plurality vote "
        "(without α) has no such probability, so it cannot indicate one.",
    )  # fmt: skip


def _prediction_alpha(run: Run) -> float:
    """Probability that an attacked image's answer is not that of the exact classifier; 1 for a plurality."""
    asked = mapping(run.config.get("prediction"))
    return 1.0 if asked.get("alpha", "") is None else float(run.facts.get("alpha", 0.001))


def _contradiction_row(attack: Attack, certification: Certification, epsilon: float) -> dict[str, Any] | None:
    images = attack.rows["idx"].to_numpy()
    _, at_attack, at = np.intersect1d(images, certification.indices, return_indices=True)
    if not len(at):
        return None
    table = attack.rows.iloc[at_attack]
    label, adversarial = table["label"].to_numpy(), table["adversarial"].to_numpy()
    certified = certification.correct[at] & (
        certification.radius[at] >= np.maximum(table["l2"].to_numpy(float), 0)
    )
    broken = (adversarial != label) & (adversarial != ABSTAIN)
    alpha = float(certification.run.facts.get("alpha", 0.001)) + _prediction_alpha(attack.run)
    found = statistics.contradiction(certified, broken, alpha)
    held = float((~attack.won)[at_attack].mean())
    at_radius = float((certification.correct[at] & (certification.radius[at] >= epsilon)).mean())
    return {
        "certified_by": line_name([certification]), "run": attack.run.label, "epsilon": epsilon,
        "num_noise": attack.settings.get("num_noise"), "images": len(at),
        "certified_accuracy": at_radius if was_tested(certification, epsilon) else None, "accuracy": held,
        "broken": found.broken, "probability": found.probability if found.broken else 1.0,
    }  # fmt: skip

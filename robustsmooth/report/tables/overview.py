"""Tables of classifiers: everything about one in a row, and its training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from robustsmooth import statistics
from robustsmooth.report.evaluations import FIELD_GUARANTEE, Evaluations
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.attacked import attack_rows
from robustsmooth.report.tables.common import RUN, known_facts, radius_key

__all__ = ["overview_table", "training_table"]


def overview_table(evaluations: Evaluations, radii: Sequence[float]) -> Table | None:
    """One row per trained classifier: what was proved, what attacks achieved, what its training took.

    Only where evaluations name their training run; several certificates or attacks get columns of their own.
    """
    rows: dict[str, dict[str, Any]] = {}
    columns: dict[str, Column] = {}
    for each in (each for each in evaluations.certifications if each.run.trained is not None):
        row = _classifier_row(rows, str(each.run.trained), each.run.facts)
        row["top1"] = each.run.summary.get("metrics", {}).get("test/top1")
        name = "" if each.guarantee == FIELD_GUARANTEE else f" {each.guarantee}"
        shares = statistics.certified_accuracy(each.correct, each.radius, radii)
        cells = {f"acr{name}": (statistics.acr(each.correct, each.radius), f"ACR{name}", ".3f")}
        cells |= {
            f"{radius_key(radius)}{name}": (float(share), f"r={radius:g}{name} (%)", "percent")
            for radius, share in zip(radii, shares, strict=True)
        }
        for key, (value, title, style) in cells.items():
            row[key] = value
            columns.setdefault(key, Column(key, title, each.kind, style, best="max"))
    for attack in attack_rows(each for each in evaluations.attacks if each.run.trained is not None):
        row = _classifier_row(rows, attack["folder"], attack)
        title = _attack_title(attack)
        row[title] = attack["accuracy"]
        columns.setdefault(title, Column(title, f"{title} (%)", "empirical", "percent", best="max"))
    if not rows:
        return None
    for training in evaluations.trainings:
        if str(training.run.path) in rows:
            rows[str(training.run.path)]["seconds"] = training.seconds
    ordered = [
        Column("classifier", "Classifier"),
        Column("top1", "Clean, one pass (%)", "measurement", "percent", best="max"),
        *sorted(columns.values(), key=lambda column: column.kind == "empirical"),
        Column("seconds", "Training (s)", "measurement", ".0f"),
    ]
    return Table(
        "overview", "The classifiers compared", ordered, list(rows.values()),
        "Each row is one trained classifier. Certified columns hold for the smoothed classifier with "
        "probability 1 - α per image; empirical columns say what the named attack left standing; clean "
        "accuracy is the network's own, without noise.",
    )  # fmt: skip


def _classifier_row(rows: dict[str, dict[str, Any]], folder: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return rows.setdefault(folder, {"classifier": facts.get("classifier", folder), "folder": folder})


def _attack_title(attack: Mapping[str, Any]) -> str:
    words = [str(attack.get("attack", "attack"))]
    if "target" in attack:
        words.append(f"on {attack['target']}")
    if attack.get("epsilon") is not None:
        words.append(f"ε={attack['epsilon']:g}")
    if attack.get("num_noise", 1) > 1:
        words.append(f"m={attack['num_noise']:g}")
    return " ".join(words)


def training_table(evaluations: Evaluations) -> Table:
    """Training time per epoch and in total (SODM Tables 4 and 5), with the last validation metrics."""
    rows = []
    for each in evaluations.trainings:
        last = each.metrics.ffill().iloc[-1] if len(each.metrics) else {}
        row: dict[str, Any] = {
            "run": each.run.label,
            **known_facts(each.run),
            "epochs": each.epochs,
            "seconds": each.seconds,
        }
        row["epoch_seconds"] = each.seconds / each.epochs if each.epochs else math.nan
        row |= {key: float(last[key]) for key in ("val/top1", "val/noisy_top1", "val/acr") if key in last}
        rows.append(row)
    columns = [
        RUN,
        Column("epochs", "Epochs", style="d"),
        Column("epoch_seconds", "Seconds per epoch", "measurement", ".3g"),
        Column("seconds", "Seconds in total", "measurement", ".4g"),
        Column("val/top1", "Validation accuracy (%)", "measurement", "percent", best="max"),
        Column("val/noisy_top1", "Validation accuracy under noise (%)", "measurement", "percent", best="max"),
        Column("val/acr", "Validation ACR", "measurement", ".3f", best="max"),
    ]
    return Table("training", "Training", columns, rows, "Seconds of training alone, without validation.")

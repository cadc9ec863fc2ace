"""The tables of a report. A column holds numbers with one kind of guarantee, never a mixture."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from robustsmooth.report import statistics
from robustsmooth.report.evaluations import Attack, Certification, Evaluations
from robustsmooth.report.logs import ABSTAIN
from robustsmooth.report.runs import Run
from robustsmooth.report.statistics import Method
from robustsmooth.report.table import Column, ColumnKind, Table

__all__ = [
    "attack_rows",
    "attack_table",
    "certified_accuracy_table",
    "comparison_table",
    "contradiction_table",
    "linf_table",
    "overview_table",
    "radius_table",
    "seed_table",
    "training_table",
]

DIMENSIONS = {
    "digits": 64, "mnist": 784, "fashion_mnist": 784, "cifar10": 3072, "cifar100": 3072,
    "imagenet": 150528, "mini_imagenet50": 150528,
}  # fmt: skip
"""Number of pixel values of an image (ImageNet's at 224 x 224), for l_inf by conversion."""

RUN = Column("run", "Run")


def default_radii(certifications: Sequence[Certification]) -> list[float]:
    """Up to ten round radii that cover what was certified."""
    largest = max((float(each.counted.max()) for each in certifications if each.images), default=0.0)
    step = next((step for step in (0.05, 0.1, 0.25, 0.5, 1.0) if largest / step <= 9.5), 1.0)
    return [round(step * count, 10) for count in range(int(largest / step) + 1)]


def _radius_key(radius: float) -> str:
    return f"certified_acc@{radius:g}"


def certified_accuracy_table(
    certifications: Sequence[Certification],
    radii: Sequence[float],
    guarantee: ColumnKind = "certificate",
    level: float = 0.95,
    method: Method = "clopper_pearson",
) -> Table:
    """Certified accuracy at radii, with a band over images (SmoothAdv Tables 1 and 2, SODM Tables 1-3)."""
    rows = []
    chosen = [each for each in certifications if each.guarantee == guarantee]
    for each in chosen:
        row: dict[str, Any] = {"run": each.run.label, **_facts(each.run), "images": each.images}
        counts = statistics.certified_counts(each.correct, each.radius, radii)
        lows, highs = statistics.interval(counts, each.images, level, method)
        for radius, count, low, high in zip(radii, counts, lows, highs, strict=True):
            key = _radius_key(radius)
            row |= {key: count / each.images, f"{key}_low": float(low), f"{key}_high": float(high)}
        row["acr"] = statistics.acr(each.correct, each.radius)
        rows.append(row)
    columns = [
        RUN,
        Column("images", "Images", style="d"),
        Column("acr", "ACR (pixel units)", guarantee, ".3f", best="max"),
        *(
            Column(_radius_key(radius), f"r={radius:g} (%)", guarantee, "percent", f"{_radius_key(radius)}_low",
                   f"{_radius_key(radius)}_high", "max")
            for radius in radii
        ),
    ]  # fmt: skip
    certified = guarantee == "certificate"
    return Table(
        "certified_accuracy" if certified else "bounds",
        "Certified accuracy at l2 radius r" if certified else "Accuracy with a bound of at least r under its assumption",
        columns,
        rows,
        f"Share of all images that are correct with a radius of at least r, in pixel units of images in [0, 1]; "
        f"{_level(level)} {method.replace('_', '-').title()} interval over images. Abstentions are wrong.",
    )


def radius_table(certifications: Sequence[Certification], guarantee: ColumnKind = "certificate") -> Table:
    """ACR beside what it depends on, and median, mean and maximum radius (HeatSmoothing Table 4)."""
    rows = []
    for each in (each for each in certifications if each.guarantee == guarantee):
        median, mean, largest = statistics.radius_statistics(each.correct, each.radius)
        facts = _facts(each.run)
        reachable = math.nan
        if all(isinstance(facts.get(name), int | float) for name in ("sigma", "n", "alpha")):
            reachable = statistics.largest_radius(facts["sigma"], int(facts["n"]), facts["alpha"])
        rows.append(
            {
                "run": each.run.label, **facts, "images": each.images, "clean": float(each.correct.mean()),
                "abstained": each.abstained / each.images, "acr": mean, "median_radius": median,
                "max_radius": largest, "reachable_radius": reachable, "votes": each.votes, "seconds": each.seconds,
            }  # fmt: skip
        )
    columns = [
        RUN,
        Column("certificate", "Certificate"),
        Column("sigma", "σ (pixel units)", style="g"),
        Column("n", "n", style="d"),
        Column("alpha", "α", style="g"),
        Column("images", "Images", style="d"),
        Column("clean", "Accuracy at r=0 (%)", guarantee, "percent", best="max"),
        Column("abstained", "Abstained (%)", "measurement", "percent"),
        Column("acr", "ACR = mean radius", guarantee, ".3f", best="max"),
        Column("median_radius", "Median radius", guarantee, ".3f", best="max"),
        Column("max_radius", "Largest radius", guarantee, ".3f"),
        Column("reachable_radius", "Reachable with n", "fact", ".3f"),
        Column("votes", "Votes per image", "measurement", ".0f"),
        Column("seconds", "Seconds per image", "measurement", ".3g"),
    ]
    certified = guarantee == "certificate"
    return Table(
        "radii" if certified else "bound_radii",
        "Certified l2 radii" if certified else "l2 bounds under their assumption",
        columns,
        rows,
        "Radii in pixel units of images in [0, 1], over all images, 0 where the answer is wrong or abstains. ACR alone "
        "rewards certainty on a few easy images: read it with the curve and the distribution of the lower bounds.",
    )


def linf_table(certifications: Sequence[Certification], budgets: Sequence[int] = (1, 2)) -> Table:
    """Certified l_inf accuracy by conversion from l2 (SmoothAdv Table 3), where the images' size is known."""
    rows = []
    for each in (each for each in certifications if each.guarantee == "certificate"):
        dimension = each.run.facts.get("dimension", DIMENSIONS.get(str(each.run.facts.get("data"))))
        if dimension is None:
            continue
        radii = [statistics.l2_radius_of_linf(budget / 255, int(dimension)) for budget in budgets]
        shares = statistics.certified_accuracy(each.correct, each.radius, radii)
        row: dict[str, Any] = {"run": each.run.label, **_facts(each.run), "dimension": int(dimension)}
        row |= {f"linf@{budget}/255": float(share) for budget, share in zip(budgets, shares, strict=True)}
        rows.append(row | {"clean": float(each.correct.mean())})
    columns = [
        RUN,
        Column("dimension", "Values per image", style="d"),
        *(Column(f"linf@{b}/255", f"l∞ {b}/255 (%)", "certificate", "percent", best="max") for b in budgets),
        Column("clean", "Accuracy at r=0 (%)", "certificate", "percent", best="max"),
    ]
    return Table(
        "linf", "Certified l∞ accuracy by conversion", columns, rows,
        "An l2 radius r implies an l∞ radius r/√d, with d values per image.",
    )  # fmt: skip


def attack_rows(attacks: Iterable[Attack], level: float = 0.95, method: Method = "clopper_pearson") -> list[dict[str, Any]]:
    """The numbers of each attack: accuracy before and under it, successes, distances, abstentions."""
    rows = []
    for each in attacks:
        table = each.rows
        label, adversarial = table["label"].to_numpy(), table["adversarial"].to_numpy()
        clean = table["clean"].to_numpy() == label
        held = adversarial == label
        low, high = statistics.interval(int(held.sum()), len(table), level, method)
        # An image that is wrong without an attack is one at distance 0.
        success = (table["success"].to_numpy() == 1) | ~clean
        norm = "linf" if str(each.run.facts.get("norm")) in ("linf", "inf") else "l2"
        distance = np.where(clean, table[norm].to_numpy(float), 0.0)
        median, mean, won = statistics.distance_statistics(distance, success)
        rows.append(
            {
                "run": each.run.label, **_facts(each.run), **each.settings, "folder": str(each.run.trained or ""),
                "images": len(table),
                "distance_norm": norm, "clean_accuracy": float(clean.mean()), "accuracy": float(held.mean()),
                "accuracy_low": float(low), "accuracy_high": float(high), "success": won,
                "median_distance": median, "mean_distance": mean,
                "abstained": float((adversarial == ABSTAIN).mean()),
                "seconds": float(table["time"].mean()) if "time" in table else math.nan,
            }  # fmt: skip
        )
    return rows


def attack_table(attacks: Sequence[Attack], level: float = 0.95, method: Method = "clopper_pearson") -> Table:
    """Accuracy under attack and the distances that attacks needed (HeatSmoothing Tables 3 and 5)."""
    columns = [
        RUN,
        Column("attack", "Attack"),
        Column("target", "Attacked"),
        Column("epsilon", "ε (pixel units)", style="g"),
        Column("num_noise", "Noises", style="g"),
        Column("images", "Images", style="d"),
        Column("clean_accuracy", "Accuracy (%)", "empirical", "percent", best="max"),
        Column("accuracy", "Accuracy under attack (%)", "empirical", "percent", "accuracy_low", "accuracy_high", "max"),
        Column("abstained", "Abstained (%)", "measurement", "percent"),
        Column("success", "Attacked or wrong (%)", "empirical", "percent"),
        Column("distance_norm", "Distance"),
        Column("median_distance", "Median distance", "empirical", ".4f", best="max"),
        Column("mean_distance", "Mean distance of successes", "empirical", ".4f"),
        Column("seconds", "Seconds per image", "measurement", ".3g"),
    ]
    return Table(
        "attacks", "Under attack", columns, attack_rows(attacks, level, method),
        "What attacks achieved bounds robustness from above. Distances in pixel units; an image that is wrong without an "
        "attack has distance 0, a failed attack is beyond every success (∞ in the median), the mean is over successes.",
    )  # fmt: skip


def _facts(run: Run) -> dict[str, Any]:
    return {name: fact for name, fact in run.facts.items() if isinstance(fact, str | int | float | bool)}


def _level(level: float) -> str:
    return f"{100 * level:g} %"


def overview_table(evaluations: Evaluations, radii: Sequence[float]) -> Table | None:
    """One row per trained classifier: what was proved about it beside what attacks achieved.

    Only where evaluations name their training run; several certificates or attacks get columns of their own.
    """
    rows: dict[str, dict[str, Any]] = {}
    columns: dict[str, Column] = {}
    for each in (each for each in evaluations.certifications if each.run.trained is not None):
        row = _classifier_row(rows, str(each.run.trained), each.run.facts)
        kind: ColumnKind = "certificate" if each.guarantee == "certificate" else "assumption"
        name = "" if kind == "certificate" else " bound"
        shares = statistics.certified_accuracy(each.correct, each.radius, radii)
        cells = {f"acr{name}": (statistics.acr(each.correct, each.radius), f"ACR{name}", ".3f")}
        cells |= {
            f"{_radius_key(radius)}{name}": (float(share), f"r={radius:g}{name} (%)", "percent")
            for radius, share in zip(radii, shares, strict=True)
        }
        for key, (value, title, style) in cells.items():
            row[key] = value
            columns.setdefault(key, Column(key, title, kind, style, best="max"))
    for attack in attack_rows(each for each in evaluations.attacks if each.run.trained is not None):
        row = _classifier_row(rows, attack["folder"], attack)
        title = _attack_title(attack)
        row[title] = attack["accuracy"]
        columns.setdefault(title, Column(title, f"{title} (%)", "empirical", "percent", best="max"))
    if not rows:
        return None
    ordered = sorted(columns.values(), key=lambda column: column.kind == "empirical")
    facts = [Column("classifier", "Classifier")]
    return Table(
        "overview", "The classifiers compared", [*facts, *ordered], list(rows.values()),
        "Each row is one trained classifier. Certified columns hold for the smoothed classifier with probability 1 - α per "
        "image; empirical columns say what the named attack left standing.",
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
        row: dict[str, Any] = {"run": each.run.label, **_facts(each.run), "epochs": each.epochs, "seconds": each.seconds}
        row["epoch_seconds"] = each.seconds / each.epochs if each.epochs else math.nan
        row |= {key: float(last[key]) for key in ("val/top1", "val/noisy_top1") if key in last}
        rows.append(row)
    columns = [
        RUN,
        Column("epochs", "Epochs", style="d"),
        Column("epoch_seconds", "Seconds per epoch", "measurement", ".3g"),
        Column("seconds", "Seconds in total", "measurement", ".4g"),
        Column("val/top1", "Validation accuracy (%)", "measurement", "percent", best="max"),
        Column("val/noisy_top1", "Validation accuracy under noise (%)", "measurement", "percent", best="max"),
    ]
    return Table("training", "Training", columns, rows, "Seconds of training alone, without validation.")


def seed_table(certifications: Sequence[Certification], radii: Sequence[float]) -> Table:
    """Mean and standard deviation over seeds of runs that differ in nothing else."""
    groups: dict[tuple[tuple[str, str], ...], list[Certification]] = {}
    for each in (each for each in certifications if each.guarantee == "certificate"):
        groups.setdefault(_apart_from_seed(each.run.facts), []).append(each)
    rows = []
    for facts, members in groups.items():
        if len(members) < 2:
            continue
        values = {"acr": [statistics.acr(each.correct, each.radius) for each in members]}
        for radius in radii:
            shares = [float(statistics.certified_accuracy(each.correct, each.radius, [radius])[0]) for each in members]
            values[_radius_key(radius)] = shares
        row: dict[str, Any] = {"group": " ".join(text for _, text in facts) or "all", "seeds": len(members)}
        for key, numbers in values.items():
            mean, std = statistics.mean_and_std(numbers)
            scale, digits = (1, 3) if key == "acr" else (100, 1)
            row |= {f"{key}_mean": mean, f"{key}_std": std}
            row[f"{key} mean±std"] = f"{scale * mean:.{digits}f} ± {scale * std:.{digits}f}"
        rows.append(row)
    columns = [Column("group", "Runs"), Column("seeds", "Seeds", style="d"), Column("acr mean±std", "ACR", "certificate")]
    columns += [Column(f"{_radius_key(r)} mean±std", f"r={r:g} (%)", "certificate") for r in radii]
    return Table("seeds", "Mean ± standard deviation over seeds", columns, rows)


def _apart_from_seed(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    left_out = ("seed", "train_seed", "name", "classifier")
    return tuple(sorted((key, f"{key}={value}") for key, value in facts.items() if key not in left_out))


def comparison_table(certifications: Sequence[Certification], radii: Sequence[float]) -> Table:
    """The classifier with the largest ACR against each other one, on the images that both were certified on.

    Args:
        certifications: What to compare.
        radii: Those of the certified accuracy table; McNemar's test is made at the middle one.
    """
    radius = radii[len(radii) // 2] if radii else 0.0
    chosen = [each for each in certifications if each.guarantee == "certificate"]
    chosen = sorted(chosen, key=lambda each: -statistics.acr(each.correct, each.radius))
    rows = []
    for first, second in zip(chosen[:1] * len(chosen), chosen[1:], strict=False):
        _, at_first, at_second = np.intersect1d(first.indices, second.indices, return_indices=True)
        if first.run.facts.get("data") != second.run.facts.get("data") or len(at_first) < 2:
            continue
        outcomes = [
            (each.correct & (each.radius >= radius))[at]
            for each, at in ((first, at_first), (second, at_second))
        ]
        test = statistics.mcnemar(*outcomes)
        mean, low, high = statistics.paired_acr(first.counted[at_first], second.counted[at_second])
        rows.append(
            {
                "first": first.run.label, "second": second.run.label, "images": test.images,
                "only_first": test.only_first, "only_second": test.only_second, "p_value": test.p_value,
                "acr_difference": mean, "acr_low": low, "acr_high": high,
            }  # fmt: skip
        )
    columns = [
        Column("first", "First"),
        Column("second", "Second"),
        Column("images", "Common images", style="d"),
        Column("only_first", f"Only first at r={radius:g}", "certificate", "d"),
        Column("only_second", f"Only second at r={radius:g}", "certificate", "d"),
        Column("p_value", "McNemar p", "measurement", ".2g"),
        Column("acr_difference", "ACR difference", "certificate", "+.3f", "acr_low", "acr_high"),
    ]
    return Table(
        "comparison", "Paired comparison on the same images", columns, rows,
        "Exact two-sided McNemar test on the images that are certified at the radius by one classifier only; 95 % t "
        "interval of the mean difference of the radii. The first was chosen for its ACR and p is not corrected for the "
        "number of pairs.",
    )  # fmt: skip


def contradiction_table(evaluations: Evaluations) -> Table:
    """Accuracy under l2 attack beside certified accuracy at the same radius, and certificates that attacks broke."""
    rows = []
    for attack in evaluations.attacks:
        epsilon = attack.settings.get("epsilon", attack.run.facts.get("epsilon"))
        if epsilon is None or str(attack.run.facts.get("norm", "l2")) not in ("l2", "2"):
            continue
        for each in evaluations.certifications:
            if _same_classifier(attack.run, each.run) and each.guarantee == "certificate":
                rows.append(_contradiction_row(attack, each, float(epsilon)))
    columns = [
        Column("certified_by", "Certified"),
        Column("run", "Attacked"),
        Column("epsilon", "r = ε (pixel units)", style="g"),
        Column("images", "Common images", style="d"),
        Column("certified_accuracy", "Accuracy (%)", "certificate", "percent"),
        Column("accuracy", "Accuracy (%)", "empirical", "percent"),
        Column("broken", "Certificates broken", "empirical", "d"),
        Column("probability", "Probability by bad luck", "measurement", ".2g"),
    ]
    return Table(
        "contradictions", "Certified and empirical accuracy at the same radius", columns, rows,
        "An attack on the smoothed classifier can break a certificate only where that certificate or the prediction erred, "
        "each with probability α; a tiny probability of so many means a bug.",
    )  # fmt: skip


def _same_classifier(attacked: Run, certified: Run) -> bool:
    """Whether an attack was decided by the smoothed classifier that the certificate is about."""
    return (
        attacked.trained is not None
        and attacked.trained == certified.trained
        and attacked.facts.get("target") == "smoothed"
        and attacked.facts.get("sigma") == certified.facts.get("sigma")
    )


def _contradiction_row(attack: Attack, each: Certification, epsilon: float) -> dict[str, Any]:
    images = attack.rows["idx"].to_numpy()
    _, at_attack, at = np.intersect1d(images, each.indices, return_indices=True)
    table = attack.rows.iloc[at_attack]
    label, adversarial = table["label"].to_numpy(), table["adversarial"].to_numpy()
    certified = each.correct[at] & (each.radius[at] >= np.maximum(table["l2"].to_numpy(float), 0))
    broken = (adversarial != label) & (adversarial != ABSTAIN)
    alpha = 2 * float(each.run.facts.get("alpha", 0.001))
    found = statistics.contradiction(certified, broken, alpha)
    held = float((adversarial == label).mean()) if len(table) else math.nan
    at_radius = each.correct[at] & (each.radius[at] >= epsilon)
    return {
        "certified_by": each.run.label, "run": attack.run.label, "epsilon": epsilon, "images": len(at),
        "certified_accuracy": float(at_radius.mean()) if len(at) else math.nan, "accuracy": held,
        "broken": found.broken, "probability": found.probability if found.broken else 1.0,
    }  # fmt: skip

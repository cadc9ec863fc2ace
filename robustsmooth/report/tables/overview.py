"""Tables of classifiers: one row with everything about a classifier, and its training."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from robustsmooth.report.comparable import (
    among,
    by_guarantee,
    fair,
    group_name,
    repetitions,
    smoothed_classifier,
)
from robustsmooth.report.evaluations import Attack, Certification, Evaluations, Training
from robustsmooth.report.facts import USUAL_NOISE, mapping
from robustsmooth.report.table import Column, Table
from robustsmooth.report.tables.attacked import titled
from robustsmooth.report.tables.common import (
    P_A,
    RUN,
    asked_radii,
    known_facts,
    over_seeds,
    radius_columns,
    radius_key,
    sure_share,
    was_tested,
    with_spread,
)


@dataclass
class _Row:
    """One classifier and its numbers.

    Attributes:
        first: What the row was made for: a certification, or an attack if there is none.
        measured: Numbers by the keys of their columns, with the evaluation or training that each is of.
    """

    first: Certification | Attack
    measured: dict[str, tuple[float, Certification | Attack | Training]] = field(default_factory=dict)

    def add(self, numbers: Mapping[str, Any], source: Certification | Attack | Training) -> None:
        """Add the numbers that are known."""
        for key, number in numbers.items():
            if isinstance(number, int | float) and not math.isnan(number):
                self.measured[key] = float(number), source


def overview_table(evaluations: Evaluations, radii: Sequence[float]) -> Table | None:
    """Certificates, attacks and training: one row per network and certification.

    Only for evaluations with a checkpoint. Certifications of one network with several noise levels, numbers
    of votes or images are separate rows; other guarantees and attacks get separate columns. Bounds without
    votes and attacks are in all rows of what they are about. Runs that differ only in their seed become one
    row of means and standard deviations.
    """
    columns: dict[str, Column] = {}
    rows: dict[tuple[Any, ...], list[_Row]] = {}
    known = [item for item in evaluations.certifications if item.run.network is not None]
    asked = {
        guarantee: asked_radii(members) if guarantee.at_some_radii else radii
        for guarantee, members in by_guarantee(known).items()
    }
    for item in sorted(known, key=lambda item: (not item.guarantee.usual, _votes(item) is None)):
        at = [radius for radius in asked[item.guarantee] if was_tested(item, radius)]
        cells = _certified_cells(item, at, columns)
        home = rows.setdefault(smoothed_classifier(item.run), [])
        free = [row for row in home if not row.measured.keys() & cells.keys() and _fits(item, row.first)]
        if not free:
            home.append(row := _Row(item))
            row.add({"top1": mapping(item.run.summary.get("metrics")).get("test/top1")}, item)
            free = [row]
        for row in free if _votes(item) is None else free[:1]:
            row.add(cells, item)
    attacks = [attack for attack in evaluations.attacks if attack.run.network is not None]
    _add_attacks(attacks, rows, columns)
    if not rows:
        return None
    trainings = {training.run.facts["classifier"]: training for training in evaluations.trainings}
    every = [row for home in rows.values() for row in home]
    for row in every:
        if training := trainings.get(row.first.run.facts["classifier"]):
            row.add({"seconds": training.seconds}, training)
    by_first = {id(row.first): row for row in every}
    groups = [[by_first[id(item)] for item in group] for group in repetitions(row.first for row in every)]
    repeated = any(len(group) > 1 for group in groups)
    ordered = [
        Column("classifier", "Classifier"),
        *([Column("seeds", "Seeds", style="d")] if repeated else []),
        Column("n", "n", style="d", if_several=True),
        Column("alpha", "α", style="g", if_several=True),
        Column("images", "Images", style="d"),
        Column(
            "top1",
            "Clean accuracy of the base network (%)",
            "measurement",
            "percent",
            best="max",
            spread="top1_std",
        ),
        *sorted(columns.values(), key=lambda column: column.kind == "empirical"),
        Column("seconds", "Training (s)", "measurement", ".0f"),
    ]
    evaluations.problems += [text for group in groups if (text := _lacking(group, ordered))]
    evaluations.problems += _in_several_rows(groups, list(columns.values()))
    return Table(
        "overview", "The classifiers compared", ordered, list(map(_means, groups)),
        "Each row is one trained network, certified with one noise level and number of votes. Certified "
        "columns hold for the smoothed classifier with probability 1 - α per image; empirical columns are "
        "accuracies under the named attack; clean accuracy is the network's own, without noise. ACR: average "
        "certified radius; p_A: lower bound of the top class's probability."
        + (" ±: standard deviation over seeds." if repeated else ""),
    )  # fmt: skip


def _votes(certification: Certification) -> tuple[Any, Any] | None:
    """The number of votes and alpha; None for a bound without votes."""
    facts = certification.run.facts
    return None if facts.get("n") is None else (facts["n"], facts.get("alpha"))


def _fits(certification: Certification, first: Certification | Attack) -> bool:
    """Whether a certification has the images, n and alpha of a row's first one."""
    return (
        isinstance(first, Certification)
        and certification.image_set == first.image_set
        and _votes(certification) in (None, _votes(first))
    )


def _certified_cells(
    certification: Certification, radii: Sequence[float], columns: dict[str, Column]
) -> dict[str, Any]:
    """The numbers of a certification by the keys of their columns, which are added if they are new."""
    guarantee = certification.guarantee
    name = "" if guarantee.usual else f" {guarantee}"
    made = radius_columns(radii, guarantee.kind)
    shares = zip(radii, certification.accuracy(radii), strict=True)
    cells: dict[str, Any] = {f"{radius_key(r)}{name}": float(share) for r, share in shares}
    if not guarantee.at_some_radii:
        made = [Column("acr", "ACR", guarantee.kind, ".3f", best="max"), P_A, *made]
        cells = {f"acr{name}": certification.acr, f"sure{name}": sure_share(certification), **cells}
    for column in made:
        key, title, head = f"{column.key}{name}", column.title, column.head
        if name:
            unit = " (%)" if column.style == "percent" else ""
            title, head = f"{title.removesuffix(unit)}{name}{unit}", ""
        beside = f"{column.beside}{name}" if column.beside else ""
        new = replace(column, key=key, title=title, kind=guarantee.kind, head=head, spread=f"{key}_std",
                      beside=beside)  # fmt: skip
        columns.setdefault(key, new)
    return cells


def _add_attacks(
    attacks: Sequence[Attack], rows: dict[tuple[Any, ...], list[_Row]], columns: dict[str, Column]
) -> None:
    """Add a column per attack, in the rows of the attacked classifier or of its network.

    A row without a certification is made for the attack under the most seeds, that its mean has all of them.
    """
    seeds = {id(item): len(group) for group in repetitions(attacks) for item in group}
    columned = titled(attacks, _attacked)
    for _, title in columned:
        head = " ".join(word for word in title.split() if not word.startswith("ε="))
        column = Column(title, f"{title} (%)", "empirical", "percent", head=head)
        columns.setdefault(title, replace(column, spread=f"{title}_std"))
    columned.sort(key=lambda each: (-len(_attacked(each[0])), -seeds[id(each[0])]))  # networks last
    for item, title in columned:
        attacked = _attacked(item)
        homes = [row for known, home in rows.items() if known[: len(attacked)] == attacked for row in home]
        for row in homes or rows.setdefault(attacked, [_Row(item)]):
            row.add({title: float((~item.won).mean())}, item)


def _attacked(attack: Attack) -> tuple[Any, ...]:
    """The attacked smoothed classifier, or the attacked network alone, which has no noise."""
    classifier = smoothed_classifier(attack.run)
    return classifier[:1] if attack.run.facts.get("target") == "network" else classifier


def _means(rows: Sequence[_Row]) -> dict[str, Any]:
    """One row of means over seeds, with the standard deviations under the keys of `Column.spread`."""
    first = rows[0].first
    known = [key for key in rows[0].measured if _alike(rows, key) == len(rows)]
    facts: dict[str, Any] = {"classifier": _name(rows), "seeds": len(rows)}
    if isinstance(first, Certification):
        facts |= {name: first.run.facts.get(name) for name in ("n", "alpha")} | {"images": first.images}
    facts["among"] = {key: _among(rows[0].measured[key][1]) for key in known}
    return facts | over_seeds([{key: row.measured[key][0] for key in known} for row in rows])


def _among(source: Certification | Attack | Training) -> str:
    """The same for numbers of which the best may be marked, which are those of certifications."""
    return (
        among(source, fair(source, source.image_set.data.name)) if isinstance(source, Certification) else ""
    )


def _alike(rows: Sequence[_Row], key: str) -> int:
    """How many of the rows under several seeds have the same measurement, whose mean may be taken."""
    sources = [row.measured[key][1] for row in rows if key in row.measured]
    return max(map(len, repetitions(sources)), default=0) if len(sources) > 1 else len(sources)


def _name(rows: Sequence[_Row]) -> str:
    """The name of the first certification; or the network, with the noise if that is not of its training."""
    first = rows[0].first
    if isinstance(first, Certification):
        return group_name([row.first for row in rows])
    facts = first.run.facts
    words = [str(facts["family" if len(rows) > 1 else "classifier"])]
    if _attacked(first) != (facts["classifier"],):
        _, level, noise = smoothed_classifier(first.run)
        words += [] if level in (None, facts.get("train_sigma")) else [f"σ={level:g}"]
        words += [] if noise == USUAL_NOISE else [f"{noise} noise"]
    return " ".join(words)


def _lacking(rows: Sequence[_Row], columns: Sequence[Column]) -> str:
    """A message about the columns without a mean over several seeds; empty if there are none."""
    counts = [(column, _alike(rows, column.key), len(rows)) for column in columns]
    some = [_counted(*each) for each in counts if 0 < each[1] < each[2]]
    said = (
        f"no mean over the seeds of {_name(rows)} in the overview, since some lack it or have other settings"
    )
    return f"{said}: {_listed(some)}" if some else ""


def _in_several_rows(groups: Sequence[Sequence[_Row]], columns: Sequence[Column]) -> list[str]:
    """Messages about methods whose seeds are in several rows although a column could have their mean."""
    found: dict[str, list[str]] = {}
    for column in columns:
        held: dict[int, tuple[Any, set[int]]] = {}
        for at, group in enumerate(groups):
            for row in (row for row in group if column.key in row.measured):
                source = row.measured[column.key][1]
                held.setdefault(id(source), (source, set()))[1].add(at)
        for alike in repetitions(source for source, _ in held.values()):
            counts = Counter(at for one in alike for at in held[id(one)][1])
            if (most := max(counts.values())) < len(alike):
                family = str(alike[0].run.facts["family"])
                found.setdefault(family, []).append(_counted(column, most, len(alike)))
    return [
        f"no mean over all seeds of {family} in the overview, where they are several rows: {_listed(texts)}"
        for family, texts in found.items()
    ]


def _counted(column: Column, count: int, seeds: int) -> str:
    """A column, and how many of the seeds have it."""
    return f"{column.title.removesuffix(' (%)')} ({count} of {seeds} seeds)"


def _listed(texts: Sequence[str], most: int = 6) -> str:
    """The first texts, and how many there are more."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return f"{', '.join(texts[:most])}{more}"


def training_table(evaluations: Evaluations) -> Table:
    """Training time per epoch and in total (SODM Tables 4 and 5), with the last validation metrics.

    Trainings that differ only in their seed become one row of means and standard deviations.
    """
    rows = []
    keys = ("val/top1", "val/noisy_top1", "val/acr", "val/p_a@0.90")
    for training in evaluations.trainings:
        last = training.metrics.ffill().iloc[-1] if len(training.metrics) else {}
        row: dict[str, Any] = {
            "run": training.run.label,
            **known_facts(training.run),
            "epochs": training.epochs,
            "seconds": training.seconds,
        }
        row["epoch_seconds"] = training.seconds / training.epochs if training.epochs else math.nan
        row |= {key: float(last[key]) for key in keys if key in last}
        if not training.run.facts.get("train_sigma"):
            row.pop("val/noisy_top1", None)  # logged without noise, since best.ckpt is chosen by it
        rows.append(row)
    said = dict(zip(map(id, evaluations.trainings), rows, strict=True))
    merged = []
    for group in repetitions(evaluations.trainings):
        epochs = sum(training.epochs for training in group) / len(group)
        means = over_seeds([said[id(training)] for training in group])
        merged.append({**means, "run": group_name(group), "seeds": len(group), "epochs": epochs})
    columns = [
        RUN,
        *([Column("seeds", "Seeds", style="d")] if len(merged) < len(rows) else []),
        Column("epochs", "Epochs", style="g"),
        Column("epoch_seconds", "Seconds per epoch", "measurement", ".3g"),
        Column("seconds", "Seconds in total", "measurement", ".4g"),
        Column("val/top1", "Validation accuracy (%)", "measurement", "percent", best="max"),
        Column("val/noisy_top1", "Validation accuracy under noise (%)", "measurement", "percent"),
        Column("val/acr", "Validation ACR", "measurement", ".3f", best="max"),
        replace(P_A, key=keys[-1], title=f"Validation {P_A.title}", kind="measurement", beside="val/acr",
                unknown="p_A is not known, since the training did not log it"),
    ]  # fmt: skip
    note = "Seconds of training alone, without validation."
    note += " ±: standard deviation over seeds." if len(merged) < len(rows) else ""
    return Table("training", "Training", with_spread(columns), merged, note)

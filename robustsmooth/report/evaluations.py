"""The data of runs that a report needs, read one log at a time, so that many logs fit into memory."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from robustsmooth import statistics
from robustsmooth.report.images import Data, ImageSet, KnownImages
from robustsmooth.report.logs import Log, once_each, read_log
from robustsmooth.report.runs import Run
from robustsmooth.statistics import ABSTAIN, Guarantee


@dataclass(frozen=True, eq=False)
class Certification:
    """A certification log in compact form.

    Attributes:
        run: The run that it comes from.
        path: The log.
        guarantee: The guarantee of its radii. Radii of two guarantees never share a column.
        image_set: Equal for certifications of the same images.
        indices: The numbers of the images, ``(N,)``.
        correct: Whether each is classified correctly.
        radius: Certified radii, ``(N,)`` float64.
        abstained: Number of abstentions.
        p_a_lower: Lower bounds of the top class's probability, from the log or its radii; None if unknown. A
            test of a few radii bounds it by the probabilities of these radii only: unknown too.
        exact_bounds: Whether these are in the log, in full precision.
        votes: Mean votes per image, NaN if unknown.
        seconds: Mean seconds per image, NaN if unknown.
    """

    run: Run
    path: Path
    guarantee: Guarantee
    image_set: ImageSet
    indices: NDArray[np.int64]
    correct: NDArray[np.bool_]
    radius: NDArray[np.float64]
    abstained: int
    p_a_lower: NDArray[np.float64] | None
    exact_bounds: bool
    votes: float
    seconds: float

    @property
    def images(self) -> int:
        """How many images were certified."""
        return len(self.indices)

    @property
    def finished(self) -> bool:
        """Whether all images are there: no rank's part of the log is left, and no row was lost."""
        counted = self.run.summary.get("images")
        complete = not isinstance(counted, int) or counted <= self.images
        return complete and not any(".rank" in path.name for path in self.run.logs.get("certify", ()))

    @cached_property
    def acr(self) -> float:
        """The average certified radius; NaN if only some radii were tested."""
        return math.nan if self.guarantee.at_some_radii else statistics.acr(self.correct, self.radius)

    @cached_property
    def p_a_counted(self) -> NDArray[np.float64] | None:
        """The bounds of the correct images, NaN elsewhere; None if no bounds are known."""
        return None if self.p_a_lower is None else np.where(self.correct, self.p_a_lower, np.nan)

    @cached_property
    def counted(self) -> NDArray[np.float64]:
        """``radius * correct``."""
        return self.radius * self.correct

    def accuracy(self, radii: ArrayLike) -> NDArray[np.float64]:
        """Certified accuracy at each of the radii."""
        return statistics.certified_accuracy(self.correct, self.radius, radii)


@dataclass(frozen=True)
class Attack:
    """One attack at one budget and number of noise samples: all rows of it.

    Attributes:
        run: The run that it comes from.
        path: The log.
        settings: Its epsilon and num_noise, if the log has them.
        rows: One row per image.
        image_set: Equal for attacks on the same images.
    """

    run: Run
    path: Path
    settings: dict[str, Any]
    rows: pd.DataFrame
    image_set: ImageSet

    @property
    def images(self) -> int:
        """How many images were attacked."""
        return len(self.rows)

    @property
    def of_smoothed(self) -> bool:
        """Whether the smoothed classifier was attacked; False if the log does not say so."""
        return self.run.facts.get("target") == "smoothed"

    @property
    def clean(self) -> NDArray[np.bool_]:
        """Whether each image is correct without the attack (among the best k for a top-k attack)."""
        if "clean_correct" in self.rows:
            return self.rows["clean_correct"].to_numpy() == 1
        return self.rows["clean"].to_numpy() == self.rows["label"].to_numpy()

    @property
    def won(self) -> NDArray[np.bool_]:
        """Whether the attacked image is wrong, including those that were wrong before."""
        return (self.rows["success"].to_numpy() == 1) | ~self.clean

    @property
    def norm(self) -> Literal["l2", "linf"]:
        """The norm of the attack's budget and distances."""
        return _norm(self.run)

    @property
    def distance(self) -> NDArray[np.float64]:
        """Distance of each attacked image; 0 where the image was wrong before."""
        return np.where(self.clean, self.rows[self.norm].to_numpy(float), 0.0)

    @property
    def epsilon(self) -> float | None:
        """The budget, if there is one."""
        value = self.settings.get("epsilon", self.run.facts.get("epsilon"))
        return float(value) if isinstance(value, Real) and not math.isnan(value) else None


@dataclass(frozen=True)
class Withstood:
    """Accuracy under one attack at one budget: a point above every certified curve.

    Attributes:
        run: The run that it comes from.
        attack: The attack's name, with its target and its number of noises.
        norm: The norm of the budget.
        epsilon: The budget.
        accuracy: Share of all images that are correct with and without the attack.
        images: How many these are.
        image_set: Equal for attacks on the same images.
        of_smoothed: Whether it is that of the smoothed classifier.
        settings: As of `Attack`.
    """

    run: Run
    attack: str
    norm: str
    epsilon: float
    accuracy: float
    images: int
    image_set: ImageSet
    of_smoothed: bool
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """A training run's metrics per epoch, and the seconds that it took (NaN if unknown)."""

    run: Run
    metrics: pd.DataFrame
    seconds: float
    epochs: int

    @property
    def complete(self) -> bool:
        """Whether it has ended, as its summary says, and not by a time limit."""
        return bool(self.run.summary) and "stopped" not in self.run.summary


@dataclass(frozen=True)
class Measurement:
    """The rows of one of the smaller logs; `image_set` is equal for measurements on the same images."""

    run: Run
    kind: str
    rows: pd.DataFrame
    image_set: ImageSet

    @property
    def images(self) -> int:
        """How many images were measured."""
        return int(self.rows["idx"].nunique())

    @property
    def attacked_with(self) -> float | None:
        """The budget of the attack on the images of a PREDICT log; None if they were not attacked."""
        epsilon = self.run.facts.get("epsilon")
        return epsilon if self.kind == "predict" and isinstance(epsilon, int | float) else None


@dataclass
class Evaluations:
    """Everything in a report.

    Attributes:
        runs: The runs, labelled.
        certifications: One for each certification log.
        attacks: One for each attack, budget and number of noise samples.
        trainings: One for each training run.
        measurements: One for each of the smaller logs: agreement, timing, smoothed inference, predictions.
        problems: What was wrong with any file, one sentence each.
    """

    runs: list[Run]
    certifications: list[Certification] = field(default_factory=list)
    attacks: list[Attack] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_evaluations(runs: Iterable[Run]) -> Evaluations:
    """Read the logs of the runs, one after another; keeps compact arrays of the certifications.

    If a log or a run cannot be used, a problem with its name is recorded, and the others are read.
    """
    result, images = Evaluations(list(runs)), KnownImages()
    for run in result.runs:
        result.problems += [problem for problem in run.problems if problem not in result.problems]
        for log in _logs(run, result.problems):
            try:
                _add(result, run, log, images)
            except Exception as error:
                result.problems.append(f"{log.path} was left out: {error}")
        training = _training(run, result.problems)
        if training is not None:
            result.trainings.append(training)
    _join_images(result, images)
    return result


def _join_images(result: Evaluations, images: KnownImages) -> None:
    """Give evaluations of the same images the same `image_set`, and it a number: all logs are known now."""
    found, undecided = images.joined()
    doubtful: dict[str, list[Path]] = {}
    places: dict[tuple[Data, str], int] = {}

    def joined(member: Certification | Attack | Measurement) -> Any:
        data, numbers, _ = member.image_set
        if data in undecided:
            doubtful.setdefault(data.name, []).append(member.run.path)
        known = found[data], numbers
        return replace(member, image_set=ImageSet(*known, places.setdefault(known, len(places) + 1)))

    result.certifications = list(map(joined, result.certifications))
    result.attacks = list(map(joined, result.attacks))
    result.measurements = list(map(joined, result.measurements))
    for name, paths in doubtful.items():
        others = len(set(paths)) - 1
        more = f" and {others} other log{'s' if others > 1 else ''}" if others else ""
        result.problems.append(
            f"{paths[0]}{more}: without hashes of the pixels the images could be those of several data sets "
            f"called {name}; logs of this kind are compared with each other only"
        )


def _add(result: Evaluations, run: Run, log: Log, images: KnownImages) -> None:
    if log.rows.empty:
        return
    if log.kind == "certify":
        certification = _certification(run, log, images)
        result.problems += _doubtful_facts(certification) + _lost_rows(certification)
        result.certifications.append(certification)
    elif log.kind == "attack":
        result.attacks += _attacks(run, log, images)
    else:
        image_set = images.note(run.facts, log.rows)
        result.measurements.append(Measurement(run, log.kind, log.rows, image_set))


def withstood(evaluations: Evaluations) -> list[Withstood]:
    """Accuracies under attacks with a finite budget, including logs of PREDICT on attacked images.

    A log of PREDICT counts as attacked if its facts name a budget ``epsilon``.
    """
    points = []
    for attack in evaluations.attacks:
        if attack.epsilon is not None:
            name = attack_name(attack.run, attack.settings)
            points.append(
                Withstood(
                    attack.run,
                    name,
                    attack.norm,
                    attack.epsilon,
                    float((~attack.won).mean()),
                    len(attack.rows),
                    attack.image_set,
                    attack.of_smoothed,
                    attack.settings,
                )
            )
    for log in (log for log in evaluations.measurements if log.attacked_with is not None):
        share, budget = float((log.rows["correct"] == 1).mean()), float(log.attacked_with or 0.0)
        name, norm, images = attack_name(log.run), _norm(log.run), len(log.rows)
        points.append(Withstood(log.run, name, norm, budget, share, images, log.image_set, of_smoothed=True))
    return [point for point in points if math.isfinite(point.epsilon)]


def _norm(run: Run) -> Literal["l2", "linf"]:
    return "linf" if str(run.facts.get("norm", "l2")) in ("linf", "inf") else "l2"


def attack_name(run: Run, settings: Mapping[str, Any] | None = None, epsilon: float | None = None) -> str:
    """An attack in a title: its name, its target, the budget if it is given, the number of noises."""
    words = [str(run.facts.get("attack", "attack"))]
    words += [f"on {run.facts['target']}"] if "target" in run.facts else []
    words += [f"ε={epsilon:.3g}"] if epsilon is not None and math.isfinite(epsilon) else []
    noises = {**run.facts, **(settings or {})}.get("num_noise", 1)
    return " ".join(words + ([f"m={noises:g}"] if isinstance(noises, int | float) and noises > 1 else []))


def tidy_rows(runs: Iterable[Run], kind: str) -> pd.DataFrame:
    """All rows of one kind of log, with each run's label and facts as columns: a tidy table to plot from."""
    tables = []
    for run in runs:
        for log in _logs(run, []):
            if log.kind == kind:
                known = {name: fact for name, fact in run.facts.items() if name not in log.rows}
                tables.append(log.rows.assign(run=run.label, **known))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["run", "idx"])


def _logs(run: Run, problems: list[str]) -> Iterator[Log]:
    for name, paths in run.logs.items():
        parts = []
        for path in paths:
            try:
                parts.append(read_log(path, None if name == "log" else name))
            except Exception as error:  # a log may contain anything; the others are read
                reason = (isinstance(error, OSError) and error.strerror) or str(error)
                problems.append(reason if str(path) in reason else f"{path} is not readable: {reason}")
                continue
            problems += parts[-1].problems
        filled = [part for part in parts if not part.rows.empty]
        if len(filled) == 1:
            yield filled[0]
        elif filled:  # the ranks of an evaluation that is not finished, or extended
            every = pd.concat([part.rows for part in filled], ignore_index=True)
            rows = once_each(every, filled[0].path, []).sort_values("idx", kind="stable")
            yield Log(filled[0].kind, filled[0].path, rows.reset_index(drop=True))


def _mean(rows: pd.DataFrame, column: str) -> float:
    return float(rows[column].mean()) if column in rows else float("nan")


def _certification(run: Run, log: Log, images: KnownImages) -> Certification:
    rows = log.rows
    predict = rows["predict"].to_numpy()
    guarantee = _guarantee(run, rows)
    radius = rows["radius"].to_numpy(float)
    bounds = _lower_bounds(run, rows, guarantee, radius)
    return Certification(
        run=run,
        path=log.path,
        guarantee=guarantee,
        image_set=images.note(run.facts, rows),
        indices=rows["idx"].to_numpy(),
        correct=(rows["correct"].to_numpy() == 1) & (predict != ABSTAIN),
        radius=radius,
        abstained=int((predict == ABSTAIN).sum()),
        p_a_lower=bounds,
        exact_bounds=bounds is not None and "p_a_lower" in rows,
        votes=_mean(rows, "votes"),
        seconds=_mean(rows, "time"),
    )


def _lower_bounds(
    run: Run, rows: pd.DataFrame, guarantee: Guarantee, radius: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """The bounds in a log, or computed from its l2 radii: ``Phi(radius / sigma)``, 0 on abstention."""
    if guarantee.at_some_radii:
        return None
    if "p_a_lower" in rows and rows["p_a_lower"].dtype.kind in "if" and rows["p_a_lower"].notna().any():
        return rows["p_a_lower"].to_numpy(float)
    sigma = run.facts.get("sigma")
    if not guarantee.usual or not isinstance(sigma, int | float) or not sigma > 0 or "p_a_lower" in rows:
        return None
    return np.where(rows["predict"] != ABSTAIN, ndtr(radius / sigma), 0.0)


def _doubtful_facts(certification: Certification) -> list[str]:
    """A foreign log whose radii exceed what the n and alpha given for it can certify."""
    facts = certification.run.facts
    known = all(isinstance(facts.get(name), int | float) for name in ("sigma", "n", "alpha"))
    if certification.run.config or not known or not 0 < facts["alpha"] < 1 or facts["n"] < 1:
        return []
    reachable = statistics.reachable_radius(int(facts["n"]), facts["alpha"], facts["sigma"])
    largest = float(certification.counted.max())
    if largest <= 1.005 * reachable:  # logs are rounded to three digits
        return []
    return [
        f"{certification.path}: radii up to {largest:g} exceed the {reachable:.3f} that "
        f"sigma={facts['sigma']:g}, n={facts['n']} and alpha={facts['alpha']:g} can "
        "certify; one of these facts is not the log's"
    ]


def _lost_rows(certification: Certification) -> list[str]:
    """A log of ours with fewer images than were certified."""
    counted = certification.run.summary.get("images")
    if not isinstance(counted, int) or certification.images >= counted:
        return []
    return [f"{certification.path} has {certification.images} of {counted} images; certify the others again"]


def _guarantee(run: Run, rows: pd.DataFrame) -> Guarantee:
    """The guarantee of a log's radii, from its rows or settings; by default l2 certificates."""
    if "guarantee" not in rows:
        return Guarantee.parse(str(run.facts.get("guarantee") or Guarantee()))
    names = sorted({str(name) for name in rows["guarantee"].unique()})
    if len(names) > 1:
        raise ValueError(f"its rows hold radii of several guarantees ({', '.join(names)}), which never mix")
    return Guarantee.parse(names[0])


def _attacks(run: Run, log: Log, images: KnownImages) -> list[Attack]:
    keys = [column for column in ("epsilon", "num_noise") if column in log.rows]
    groups = log.rows.groupby(keys, sort=True, dropna=False) if keys else [((), log.rows)]
    return [
        Attack(
            run,
            log.path,
            dict(zip(keys, values, strict=True)),
            rows.reset_index(drop=True),
            images.note(run.facts, rows),
        )
        for values, rows in groups
    ]


def _training(run: Run, problems: list[str]) -> Training | None:
    path = run.folder / "metrics.csv"
    if run.trained != run.folder:
        return None
    if not (run.folder / "summary.json").exists():
        problems.append(f"{run.path}: the training has not ended; start its command again to finish it")
    if not path.exists():
        return None
    try:
        metrics = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        problems.append(f"{path} is not readable: {error}")
        return None
    metrics = metrics.apply(pd.to_numeric, errors="coerce")
    if "epoch" in metrics:
        metrics = metrics.groupby("epoch", as_index=False).last()
    return Training(run, metrics, _training_seconds(run), len(metrics))


def _training_seconds(run: Run) -> float:
    seconds = run.summary.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else float("nan")

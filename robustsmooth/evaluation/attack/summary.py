"""Summary of an attack's rows: accuracy, distances, curves, and a comparison with certificates."""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from robustsmooth.data import Batch
from robustsmooth.evaluation.records import RecordLog, same_numbers
from robustsmooth.statistics import attack_curve, contradiction, distance_statistics, interval, short

Row = Mapping[str, str]


def summarize_variant(rows: Sequence[Row], norm: str, points: int = 41) -> dict[str, Any]:
    """Summarise the rows of one budget and one number of noises.

    An image that is wrong without an attack has distance 0, and is robust at no budget, whatever the
    classifier says about the attacked one.

    Args:
        rows: One per image.
        norm: ``l2`` or ``linf``, in which distances are measured.
        points: Number of points of the attack curve.

    Returns:
        Plain values.
    """
    success = np.array([row["success"] == "1" for row in rows])
    wrong = np.array([row["clean_correct"] == "0" for row in rows])
    distance = np.where(wrong, 0.0, [float(row[norm]) for row in rows])
    broken = success | wrong
    accuracy = 1.0 - float(broken.mean())
    low, high = interval(int((~broken).sum()), len(rows))
    said = distance_statistics(distance, broken)
    reach = float(distance[broken].max()) if broken.any() else 1.0
    grid = np.linspace(0.0, reach if reach > 0 else 1.0, points)
    return {
        "images": len(rows),
        "clean_accuracy": 1.0 - float(wrong.mean()),
        "accuracy": accuracy,
        "low": float(low),
        "high": float(high),
        "abstention": float(np.mean([row["abstain"] == "1" for row in rows])),
        "distance": {  # JSON has no infinity and no NaN
            "median": said.median if math.isfinite(said.median) else None,
            "mean_of_successes": said.mean if math.isfinite(said.mean) else None,
            "success": said.success,
        },
        "curve": {
            "distance": grid.tolist(),
            "attacked": attack_curve(distance, broken, grid).tolist(),
        },
        "seconds_per_image": float(np.mean([float(row["time"]) for row in rows])),
    }


@dataclass(frozen=True)
class CertifiedLog:
    """Certified images: their radii, 0 where the certified class is not the label.

    Attributes:
        path: The log.
        radius: By index.
        alpha: Failure probability of one certificate.
        settings: What the rows depend on; empty for a log that is not ours.
        images: By index: the label, and the image's name if the log has it.
    """

    path: Path
    radius: Mapping[int, float]
    alpha: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[int, tuple[str, str | None]] = field(default_factory=dict)

    def check(self, settings: Mapping[str, Any], images: Sequence[int]) -> None:
        """Refuse certificates of another classifier or of other images.

        Args:
            settings: What the rows of the attack depend on.
            images: The images to attack, empty if they are not known yet.

        Raises:
            ValueError: If network, noise or data differ.
        """
        if images and self.radius.keys().isdisjoint(images):
            raise ValueError(f"`{self.path}` certifies none of the images to attack")
        if not self.settings:
            return
        now = json.loads(json.dumps({**settings, "noise": settings["target"].get("noise")}))
        named = all(name for _, name in self.images.values())
        different = [
            name
            for name in ("network", "noise", "data")
            if _comparable(self.settings.get(name), named) != _comparable(now.get(name), named)
        ]
        answers = self.settings.get("answers", {}), now.get("answers", {})
        if not all(
            same_numbers(answers[0][name], answers[1][name]) for name in answers[0].keys() & answers[1]
        ):
            different.append("the network's code")
        if different:
            raise ValueError(
                f"`{self.path}` certifies another classifier or other images than those that are attacked "
                f"({', '.join(different)}); certify this one, or leave `certified` out"
            )

    def compare(self, batch: Batch, names: Mapping[int, str]) -> None:
        """Refuse a certificate whose image differs from the one that is attacked.

        Args:
            batch: Images that are about to be attacked.
            names: Their names by index; see `robustsmooth.smoothing.addressing.image_names`.

        Raises:
            ValueError: If an image differs.
        """
        for index, label in zip(batch.indices.tolist(), batch.labels.tolist(), strict=True):
            then = self.images.get(index, (str(label), None))
            if then[0] != str(label) or then[1] not in (None, names[index]):
                raise ValueError(
                    f"`{self.path}` certifies another image {index} than the one that is attacked: it is of "
                    "another data set or split; certify this one, or leave `certified` out"
                )


def _comparable(setting: Any, named: bool) -> Any:
    """Of a data set's settings only the split counts, and nothing where the images have names."""
    if not isinstance(setting, dict) or "_target_" not in setting:
        return setting
    split = (setting.get("subset") or {}).get("split", "test")
    return None if named else (setting["_target_"], split, setting.get("classes"))


def read_certified(place: Path | str) -> CertifiedLog:
    """Read a certification log.

    Args:
        place: ``certify.tsv``, or a folder that holds it or holds ``certify/certify.tsv``.

    Raises:
        ValueError: If there is none, or its radii are not l2 certificates.
    """
    path = Path(place)
    if path.is_dir():
        found = [item for item in (path / "certify.tsv", path / "certify" / "certify.tsv") if item.is_file()]
        path = found[0] if found else path / "certify.tsv"
    if not path.is_file():
        raise ValueError(f"there is no certification log at `{path}`; give a certify.tsv or its folder")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if not rows or not {"idx", "label", "radius", "correct"} <= rows[0].keys():
        raise ValueError(
            f"`{path}` is not a certification log: it has no columns idx, label, radius and correct"
        )
    kinds = {row.get("guarantee") or "l2-certificate" for row in rows}
    if kinds != {"l2-certificate"}:
        raise ValueError(f"`{path}` holds {', '.join(sorted(kinds))}; an l2-certificate is needed")
    settings = RecordLog.written_settings(path.parent, "certify")
    try:
        alpha = float(settings["procedure"]["alpha"]) if settings else 0.001
        radius = {int(row["idx"]): float(row["radius"]) * (row["correct"] == "1") for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"`{path}` or its settings are damaged ({error}); certify again") from error
    images = {
        int(row["idx"]): (row["label"], None if row.get("image") in (None, "-") else row["image"])
        for row in rows
    }
    return CertifiedLog(path, radius, alpha, settings, images)


@dataclass(frozen=True)
class BeneathCertified:
    """Empirical accuracy beside certified accuracy at the same radius, on the same images.

    Attributes:
        images: How many are in both logs.
        empirical: Share that is correct both without and under attack.
        certified: Share that is certified at the budget.
        answered: Certified images that are classified as another class under attack.
        abstained: Certified images on which the classifier abstains under attack.
        probability: Of at least `answered` such images if there is no bug: each certificate and each answer
            of PREDICT is wrong with probability at most alpha.
    """

    images: int
    empirical: float
    certified: float
    answered: int
    abstained: int
    probability: float

    def warning(self, epsilon: float) -> str | None:
        """A warning if the empirical accuracy is below the certified one, or certificates were broken."""
        if self.empirical >= self.certified and self.probability >= _SUSPICIOUS:
            return None
        if self.probability < _SUSPICIOUS:
            verdict = (
                f"{self.answered} certified images answer another class, which has probability "
                f"{self.probability:.2g} if all certificates hold: this is a bug, or the runs are not of the "
                "same classifier (network, sigma, precision)"
            )
        elif self.answered:
            verdict = (
                f"{self.answered} certified images answer another class, which happens with probability "
                f"{self.probability:.2g} if all certificates hold: this can be chance"
            )
        else:
            verdict = (
                f"no certified image answers another class, but {self.abstained} abstain: PREDICT needs more "
                "votes (raise prediction.n) than CERTIFY had reason to ask for"
            )
        return (
            f"at epsilon {epsilon:g} the empirical accuracy is {self.empirical:.1%}, the certified one "
            f"{self.certified:.1%} on the same {self.images} images; {verdict}"
        )


_SUSPICIOUS = 1e-3


def beneath_certified(
    rows: Sequence[Row], epsilon: float, log: CertifiedLog, alpha: float
) -> BeneathCertified:
    """Compare rows of one l2 budget with a certification of the same classifier.

    Args:
        rows: One per image.
        epsilon: The budget.
        log: The certification.
        alpha: Failure probability of PREDICT, which decided the rows; 0 for a single pass.
    """
    shared = [row for row in rows if int(row["idx"]) in log.radius]
    if not shared:
        raise ValueError(f"`{log.path}` certifies none of the attacked images")
    sure = np.array([log.radius[int(row["idx"])] >= epsilon for row in shared])
    fell = np.array([row["success"] == "1" for row in shared])
    wrong = np.array([row["clean_correct"] == "0" for row in shared])
    abstained = np.array([row["abstain"] == "1" for row in shared])
    answered = contradiction(sure, fell & ~abstained, log.alpha + alpha)
    return BeneathCertified(
        images=len(shared),
        empirical=1.0 - float((fell | wrong).mean()),
        certified=float(sure.mean()),
        answered=answered.broken,
        abstained=int((sure & abstained).sum()),
        probability=answered.probability,
    )


_GRADIENTS = {
    "Plain": "plain gradient",
    "PlugIn": "plug-in gradient",
    "Expectation": "expected gradient",
    "Stein": "Stein's gradient",
}


def table_of(summary: Mapping[str, Any]) -> Table:
    """The summary of an `AttackEvaluation` as a table."""
    variants, minimum = summary["variants"], summary["mode"] == "minimum"
    certified = any("certified" in said for said in variants)
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "epsilon": lambda said: "none" if said["epsilon"] is None else short(said["epsilon"])
    }
    if len({said["num_noise"] for said in variants}) > 1:
        columns["noises"] = lambda said: str(said["num_noise"])
    topk = summary["settings"]["attack"]["topk"]
    top = f" top-{topk}" if topk > 1 else ""
    columns[f"clean{top}"] = lambda said: f"{said['clean_accuracy']:.1%}"
    if minimum:
        columns["broken"] = lambda said: f"{said['distance']['success']:.1%}"
        columns[f"median {summary['norm']}"] = lambda said: _length(said["distance"]["median"])
        columns["mean"] = lambda said: _length(said["distance"]["mean_of_successes"])
    else:
        columns[f"robust{top}"] = lambda said: f"{said['accuracy']:.1%}"
        columns["95 %"] = lambda said: f"{100 * said['low']:.0f}-{said['high']:.0%}"
        if certified:
            columns["certified"] = lambda said: f"{said['certified']['certified']:.1%}"
    columns["abstain"] = lambda said: f"{said['abstention']:.1%}"
    columns["s/image"] = lambda said: f"{said['seconds_per_image']:.2g}"
    settings = summary["settings"]
    objective = settings["attack"]["objective"]["name"]
    gradient = _GRADIENTS.get(objective, objective)
    attack = f"{summary['attack']} ({summary['norm']}, {gradient})"
    judge = "the smoothed classifier" if settings["target"]["name"] == "smoothed" else "the base network"
    title = f"{summary['images']} images attacked by {attack}, judged by {judge}"
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for said in variants:
        table.add_row(*(cell(said) for cell in columns.values()))
    return table


def _length(value: float | None) -> str:
    return "beyond" if value is None else f"{value:.4g}"

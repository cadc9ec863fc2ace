"""Runs on Weights & Biases and TensorBoard: the curves, the images' radii, the pictures of each classifier.

Everything is read from the run folders, so that a sweep can be published when it is done, again or from
another machine, and offline. A training with ``logger=wandb`` or ``logger=tensorboard`` adds the same content
to its own run. wandb is imported when something is published.
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from robustsmooth import statistics
from robustsmooth.report.evaluations import Certification, Evaluations, read_evaluations
from robustsmooth.report.labels import label_runs
from robustsmooth.report.page import pictures_of
from robustsmooth.report.runs import Run, find_runs
from robustsmooth.report.tables import attack_rows
from robustsmooth.report.tables.common import sure_share

STEP = "trainer/global_step"
"""The x axis of training metrics, as Lightning's logger names it."""

MOST_ROWS = 10_000
CURVE_POINTS = 101


@dataclass(frozen=True)
class Curve:
    """A curve whose x axis is not the training step.

    Attributes:
        x_key: The name of the x axis; curves with the same one overlay.
        x: The x values.
        y: The y values.
    """

    x_key: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Content:
    """The results of evaluations of one classifier, by key.

    Attributes:
        numbers: For sorting the runs.
        curves: Such as certified accuracy over the radius.
        tables: One row per image.
        pictures: PNG files.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)


def run_id(folder: Path) -> str:
    """The W&B id of the run in a folder, which is the same when it is started or published again."""
    return hashlib.blake2b(str(folder.absolute()).encode(), digest_size=6).hexdigest()


def content_of(evaluations: Evaluations, trained: Path, names: Collection[str] | None = None) -> Content:
    """The results of all evaluations of a classifier.

    Args:
        evaluations: The evaluations.
        trained: The folder of its training run.
        names: Only evaluations in folders of these names.
    """

    def wanted(run: Run) -> bool:
        return run.trained == trained and (names is None or run.path.name in names)

    return _content(evaluations, _names(run for run in evaluations.runs if wanted(run)))


def folder_content(folder: Path, names: Collection[str]) -> Content:
    """`content_of` a run folder and the evaluations of these names in it."""
    return content_of(read_evaluations(label_runs(find_runs(str(folder)))), folder.absolute(), names)


def evaluation_content(folder: Path, name: str) -> Content:
    """The results of a separate evaluation, under the keys that it would have inside a training run.

    Args:
        folder: Its run folder.
        name: Its name, such as ``certify``.
    """
    evaluations = read_evaluations(label_runs(find_runs(str(folder))))
    return _content(evaluations, {folder.absolute(): name})


def _content(evaluations: Evaluations, names: Mapping[Path, str]) -> Content:
    """The results of the named runs."""
    content = Content()
    for item in evaluations.certifications:
        if item.run.path in names:
            _add_certification(content, item, names[item.run.path])
    for attacked in (run for run in evaluations.runs if "attack" in run.logs and run.path in names):
        _add_attacks(content, evaluations, attacked, names[attacked.path])
    return content


def _add_certification(content: Content, certification: Certification, name: str) -> None:
    kind = certification.guarantee.kind
    prefix = f"{kind}/{name}"  # guarantees of two kinds never share a key
    grid = np.linspace(0, float(certification.counted.max()) or 1.0, CURVE_POINTS)
    content.curves[f"{prefix}/accuracy"] = Curve(f"{kind}/radius", grid, certification.accuracy(grid))
    if not certification.guarantee.at_some_radii:
        content.numbers[f"{prefix}/acr"] = certification.acr
        if (sure := sure_share(certification)) is not None:
            content.numbers[f"{prefix}/p_a@{statistics.short(statistics.SURE)}"] = sure
    content.numbers[f"{prefix}/abstention"] = certification.abstained / certification.images
    radii = [point["radius"] for point in certification.run.summary.get("certified_accuracy", ())] or _RADII
    for radius, share in zip(radii, certification.accuracy(radii), strict=True):
        content.numbers[f"{prefix}/accuracy@{statistics.short(radius)}"] = float(share)
    clean = (certification.run.summary.get("metrics") or {}).get("test/top1")
    if clean is not None:
        content.numbers[f"{prefix}/clean_accuracy"] = clean
    content.tables[f"{prefix}/images"] = pd.DataFrame(
        {
            "idx": certification.indices,
            "correct": certification.correct,
            f"{certification.guarantee.norm} radius": certification.radius,
        }
    )


_RADII = [0.0, 0.25, 0.5, 0.75, 1.0]
"""Of a log that does not say which were asked for."""


def _add_attacks(content: Content, evaluations: Evaluations, attacked: Run, name: str) -> None:
    attacks = [attack for attack in evaluations.attacks if attack.run.path == attacked.path]
    for attack, row in zip(attacks, attack_rows(attacks), strict=True):
        place = f"empirical/{name}@{_setting(attack.settings)}"
        content.numbers[f"{place}/accuracy"] = row["accuracy"]
        content.tables[f"{place}/images"] = attack.rows[[key for key in _SHOWN if key in attack.rows]]
    for file in pictures_of(attacked):
        content.pictures[f"empirical/{name}/{file.stem}"] = file


_SHOWN = ("idx", "label", "clean", "adversarial", "success", "l2", "linf")


def _setting(settings: Mapping[str, Any]) -> str:
    return ",".join(f"{value:g}" for value in settings.values()) or "all"


def _names(runs: Iterable[Run]) -> dict[Path, str]:
    """The names of evaluations by their folders, which are added where two of one kind have one name."""
    alike: dict[Any, list[Path]] = {}
    for run in runs:
        alike.setdefault((*run.logs, _name(run)), []).append(run.path)
    names = {}
    for (*_, name), folders in alike.items():
        top = os.path.commonpath(folders)
        for folder in folders:
            more = f" ({folder.relative_to(top).as_posix()})" if len(folders) > 1 else ""
            names[folder] = name + more
    return names


def _name(run: Run) -> str:
    """The name of an evaluation: its folder inside the training run, otherwise its kind.

    With the name of the classifier if that is not the trained network, but an ensemble, say.
    """
    inside = run.trained is not None and run.trained in run.path.parents
    kind = run.facts.get("certificate") or run.facts.get("attack")
    name = run.path.name if inside or not kind else str(kind)
    return f"{name} of {run.facts['family']}" if run.network and run.network.changed else name


def log_to_wandb(run: Any, content: Content) -> None:
    """Log it to a W&B run: curves with their own x axes, numbers in the summary, tables, pictures."""
    import wandb

    for key, curve in content.curves.items():
        # W&B would put the last point of a curve into the summary: the accuracy at the largest radius.
        run.define_metric(curve.x_key, hidden=True, summary="none")
        run.define_metric(key, step_metric=curve.x_key, summary="none")
        for x, y in zip(curve.x, curve.y, strict=True):
            run.log({curve.x_key: float(x), key: float(y)})
    for key, table in content.tables.items():
        run.log({key: wandb.Table(dataframe=table.head(MOST_ROWS))})
    for key, file in content.pictures.items():
        run.log({key: wandb.Image(str(file))})
    for key, number in content.numbers.items():
        run.summary[key] = number


def log_to_tensorboard(writer: Any, content: Content) -> None:
    """Log it to a TensorBoard writer; a curve's steps are thousandths of its x axis."""
    from PIL import Image

    for key, curve in content.curves.items():
        for x, y in zip(curve.x, curve.y, strict=True):
            writer.add_scalar(key, float(y), round(1000 * float(x)))
    for key, number in content.numbers.items():
        writer.add_scalar(key, number, 0)
    for key, file in content.pictures.items():
        with Image.open(file) as image:
            writer.add_image(key, np.asarray(image.convert("RGB")), 0, dataformats="HWC")


def publish(
    evaluations: Evaluations,
    folder: Path,
    *,
    project: str = "robustsmooth",
    mode: Literal["online", "offline"] = "offline",
    group: str | None = None,
    tags: Sequence[str] = (),
    checkpoints: bool = False,
) -> list[str]:
    """Write one W&B run per trained classifier.

    A run has the resolved config; the training's metrics at their steps; for each certification the
    accuracies at radii (``certificate/<name>/accuracy`` over ``certificate/radius``, so that curves of
    several runs overlay), a table of the images with their radii, and its ACR in the summary; for each attack
    its accuracy in the summary, a table of the images, and the picture grid. Published again, a run keeps its
    id.

    Args:
        evaluations: The evaluations.
        folder: Where offline runs are written.
        project: W&B project.
        mode: ``online`` or ``offline`` (``wandb sync`` uploads later).
        group: Runs of one sweep share a group; the name of the folder that holds all runs if None.
        tags: Added to the method and the data set of each run.
        checkpoints: Upload ``checkpoints/last.ckpt`` as an artifact.

    Returns:
        The runs' ids, in the order of their folders.

    Raises:
        ValueError: If `mode` is neither, or no evaluation names a training run.
    """
    if mode not in ("online", "offline"):
        raise ValueError(f"`wandb.mode` must be online or offline, got {mode!r}")
    classifiers = sorted({run.trained for run in evaluations.runs if run.trained is not None})
    if not classifiers:
        raise ValueError("nothing to publish: W&B runs are made of training runs and what evaluates them")
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    ids = []
    for trained in classifiers:
        runs = [run for run in evaluations.runs if run.trained == trained]
        home = next((run for run in runs if run.path == trained), runs[0])
        ids.append(run_id(trained))
        known = [str(home.facts[name]) for name in ("method", "data") if home.facts.get(name)]
        if wandb.run is not None:  # several runs of one process must not merge
            wandb.finish()
        run = wandb.init(
            id=ids[-1],
            project=project,
            name=str(home.facts.get("classifier", trained.name)),
            group=group or trained.parent.name,
            tags=list(dict.fromkeys([*known, *tags])),
            mode=mode,
            dir=str(folder),
            config=dict(home.config),
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off"),
        )
        _publish_training(run, evaluations, trained)
        log_to_wandb(run, content_of(evaluations, trained))
        if checkpoints and (file := trained / "checkpoints" / "last.ckpt").exists():
            artifact = wandb.Artifact(f"checkpoint-{ids[-1]}", "model")
            artifact.add_file(str(file))
            run.log_artifact(artifact)
        run.finish()
    return ids


def _publish_training(run: Any, evaluations: Evaluations, trained: Path) -> None:
    for training in evaluations.trainings:
        if training.run.path != trained:
            continue
        run.define_metric(STEP, hidden=True)
        for name in training.metrics.columns:
            if "/" in name:
                run.define_metric(name, step_metric=STEP)
        for row in training.metrics.rename(columns={"step": STEP}).to_dict(orient="records"):
            run.log({key: value for key, value in row.items() if not pd.isna(value)})
        run.summary["train/seconds"] = training.seconds

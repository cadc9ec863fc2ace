"""Runs on Weights & Biases: one run per classifier, with its curves, its images' radii, its pictures.

Everything is read from the run folders, so that a sweep can be published when it is done, again or from
another machine, and offline. wandb is imported when something is published.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from robustsmooth.report import statistics
from robustsmooth.report.evaluations import Certification, Evaluations
from robustsmooth.report.page import pictures_of
from robustsmooth.report.runs import Run
from robustsmooth.report.tables import attack_rows

__all__ = ["publish"]

MOST_ROWS = 10_000
CURVE_POINTS = 101


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
    its accuracy in the summary, a table of the images, and the picture grid. Published again, a run goes on
    under its old id.

    Args:
        evaluations: What was read.
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
        ids.append(hashlib.blake2b(str(trained).encode(), digest_size=6).hexdigest())
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
        for each in (each for each in evaluations.certifications if each.run.trained == trained):
            _publish_certification(run, wandb, each)
        for attacked in (each for each in runs if "attack" in each.logs):
            _publish_attacks(run, wandb, evaluations, attacked)
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
        run.define_metric("step", hidden=True)
        for name in training.metrics.columns:
            if "/" in name:
                run.define_metric(name, step_metric="step")
        for row in training.metrics.to_dict(orient="records"):
            run.log({key: value for key, value in row.items() if not pd.isna(value)})
        run.summary["train/seconds"] = training.seconds


def _publish_certification(run: Any, wandb: Any, each: Certification) -> None:
    name = _place(each.run)
    prefix = f"{each.kind}/{name}"  # guarantees of two kinds never share a key
    run.define_metric(f"{each.kind}/radius", hidden=True)
    run.define_metric(f"{prefix}/accuracy", step_metric=f"{each.kind}/radius")
    grid = np.linspace(0, float(each.counted.max()) or 1.0, CURVE_POINTS)
    for radius, share in zip(
        grid, statistics.certified_accuracy(each.correct, each.radius, grid), strict=True
    ):
        run.log({f"{each.kind}/radius": float(radius), f"{prefix}/accuracy": float(share)})
    if not each.one_radius:
        run.summary[f"{prefix}/acr"] = statistics.acr(each.correct, each.radius)
    run.summary[f"{prefix}/abstention"] = each.abstained / each.images
    rows = [
        [int(index), bool(right), float(radius)]
        for index, right, radius in zip(each.indices, each.correct, each.radius, strict=True)
    ]
    columns = ["idx", "correct", f"{each.norm} radius"]
    run.log({f"{prefix}/images": wandb.Table(columns=columns, data=rows[:MOST_ROWS])})


def _publish_attacks(run: Any, wandb: Any, evaluations: Evaluations, attacked: Run) -> None:
    name = _place(attacked)
    attacks = [each for each in evaluations.attacks if each.run.path == attacked.path]
    for each, row in zip(attacks, attack_rows(attacks), strict=True):
        place = f"empirical/{name}@{_setting(each.settings)}"
        run.summary[f"{place}/accuracy"] = row["accuracy"]
        shown = each.rows[[column for column in _SHOWN if column in each.rows]]
        run.log({f"{place}/images": wandb.Table(dataframe=shown.head(MOST_ROWS))})
    for file in pictures_of(attacked):
        run.log({f"empirical/{name}/{file.stem}": wandb.Image(str(file), caption=attacked.label)})


_SHOWN = ("idx", "label", "clean", "adversarial", "success", "l2", "linf")


def _setting(settings: Mapping[str, Any]) -> str:
    return ",".join(f"{value:g}" for value in settings.values()) or "all"


def _place(run: Run) -> str:
    """What an evaluation is called: its folder's name inside the training run's, else what it is."""
    if run.trained is not None and run.trained in run.path.parents:
        return run.path.name
    return str(run.facts.get("certificate") or run.facts.get("attack") or run.path.name)

"""Loggers: the same keys (``stage/quantity``) go to CSV, Weights & Biases and TensorBoard."""

import csv
import io
import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from robustsmooth.files import write_whole


class CsvLogger(Logger):
    """One row per step in ``metrics.csv``, one column per key; a resumed run continues the file.

    Rows after the step that is being logged come from a run that was killed after its last
    checkpoint; they are dropped, so that a killed and resumed run leaves the file that the
    uninterrupted run leaves. (Lightning's own CSV logger deletes the file on resume.)

    Args:
        save_dir: The run folder.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.file = Path(save_dir) / "metrics.csv"
        self._rows: list[dict[str, str]] | None = None

    @property
    def name(self) -> str:
        """Part of Lightning's paths; none."""
        return ""

    @property
    def version(self) -> str:
        """Part of Lightning's paths; none."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.file.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved config is saved beside the metrics."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the metrics to the row of `step` and write the file."""
        rows = self._load()
        step = int(step or 0)
        while rows and int(rows[-1]["step"]) > step:
            rows.pop()
        if not rows or int(rows[-1]["step"]) != step:
            rows.append({"step": str(step)})
        for key, value in metrics.items():
            rows[-1][key] = as_text(key, value)
        self._write(rows)

    def rows(self) -> list[dict[str, str]]:
        """The rows so far, as text by column."""
        return [dict(row) for row in self._load()]

    def restore(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Replace the file by these rows."""
        self._rows = [dict(row) for row in rows]
        self._write(self._rows)

    def _load(self) -> list[dict[str, str]]:
        if self._rows is None:
            self._rows = read_metrics(self.file) if self.file.exists() else []
        return self._rows

    def _write(self, rows: Sequence[Mapping[str, str]]) -> None:
        columns = list(dict.fromkeys(["step", "epoch", *(key for row in rows for key in row)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.file, text.getvalue())


def as_text(key: str, value: float) -> str:
    """A value as text for ``metrics.csv``."""
    return str(int(value)) if key == "epoch" else f"{float(value):.8g}"


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv``.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8").splitlines(), strict=True)
        rows = [{key: value for key, value in row.items() if value} for row in reader]
        for row in rows:
            int(row["step"])
            {key: float(value) for key, value in row.items()}
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"`{path}` is damaged; delete it, or put a copy of it back") from error
    return rows


def wandb_logger(
    save_dir: str,
    project: str = "robustsmooth",
    mode: Literal["online", "offline", "disabled"] = "online",
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    log_model: bool = False,
) -> Logger:
    """A Weights & Biases logger that never waits for an answer of the user.

    Without an API key or a network the run is recorded offline, with a message;
    ``wandb sync`` uploads it later. wandb is imported only here.

    Args:
        save_dir: The run folder; the run's files go to its ``wandb`` folder.
        project: W&B project.
        mode: ``online``, ``offline`` or ``disabled``.
        name: The run's name; its folder's if None.
        group: Runs of one sweep share a group; the name of the sweep's folder if None.
        tags: Additional tags, beside the method and the data set.
        log_model: Upload checkpoints as artifacts (online only).

    Returns:
        Lightning's ``WandbLogger`` with its own run, also if there were others in this process. The id is
        made from the folder, so a continued run has the same id. The job type is the command.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # in ranks too, where Lightning sets another value
    import wandb

    from robustsmooth.report.publish import run_id

    if wandb.run is not None:  # several jobs in one process must not merge
        wandb.finish()
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    if mode == "online" and (reason := _why_offline(wandb)):
        print(
            f"Weights & Biases: {reason}; recording offline, `wandb sync` uploads it later.", file=sys.stderr
        )
        mode = "offline"
    command, sweep, choices = _job()
    logger = WandbLogger(
        save_dir=save_dir,
        project=project,
        name=name or Path(save_dir).name,
        id=run_id(Path(save_dir)),
        resume="allow" if mode == "online" else None,
        group=group or sweep,
        tags=list(dict.fromkeys([*choices, *tags])),
        mode=mode,
        log_model=log_model and mode == "online",
        job_type=command,
        settings=wandb.Settings(silent=True, console="off"),
    )
    logger._wandb_init.pop("anonymous", None)  # of no effect; wandb warns of it
    return logger


def _job() -> tuple[str | None, str | None, list[str]]:
    """Of a Hydra job: its command, the name of its sweep's folder if it has one, its method and data set."""
    if not HydraConfig.initialized():
        return None, None, []
    hydra = HydraConfig.get()
    sweep = Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else None
    choices = hydra.runtime.choices
    return hydra.job.name, sweep, [choices[group] for group in ("method", "data") if choices.get(group)]


_PENDING = ".not_logged"
"""An empty file in the folder of an evaluation whose results are not yet in the training's runs."""


def not_logged(folder: Path, names: Iterable[str]) -> list[str]:
    """The evaluations in a run folder that are not finished, or not yet added to the training's runs."""
    places = {name: folder / name for name in names}
    return [
        name
        for name, place in places.items()
        if (place / _PENDING).exists() or not (place / "summary.json").exists()
    ]


@rank_zero_only
def will_log_inside(loggers: Sequence[Logger], folder: Path, name: str) -> None:
    """Note that the results of an evaluation are to be added, should the command be interrupted before."""
    if _showing(loggers):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / _PENDING).touch()


@rank_zero_only
def log_inside(loggers: Sequence[Logger], folder: Path, name: str) -> None:
    """Add the results of an evaluation of a trained network to its W&B and TensorBoard runs.

    Args:
        loggers: The training's loggers; the CSV logger is skipped.
        folder: The run folder of the training.
        name: The evaluation's folder in it.
    """
    if _showing(loggers):
        from robustsmooth.report.publish import folder_content

        _log(loggers, folder_content(folder, [name]))
        (folder / name / _PENDING).unlink(missing_ok=True)


@rank_zero_only
def log_evaluation(loggers: Sequence[Logger], folder: Path, name: str, training: Path | None) -> None:
    """Add the results of an evaluation to its own W&B and TensorBoard runs.

    Args:
        loggers: Its loggers.
        folder: Its run folder.
        name: The kind of its log, such as ``certify``.
        training: The run folder of the training, if known; the W&B run is linked with the training's.
    """
    if not _showing(loggers):
        return
    from robustsmooth.report.publish import evaluation_content, run_id

    _log(loggers, evaluation_content(folder, name))
    for logger in _showing(loggers):
        if isinstance(logger, WandbLogger) and training is not None:
            run = logger.experiment
            link = {"run_id": run_id(training), "folder": str(training)}
            if run.url:
                link["url"] = run.url.replace(run.id, link["run_id"])
            run.config.update({"training": link}, allow_val_change=True)


def _showing(loggers: Sequence[Logger]) -> list[TensorBoardLogger | WandbLogger]:
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger | WandbLogger)]


def _log(loggers: Sequence[Logger], content: Any) -> None:
    from robustsmooth.report.publish import log_to_tensorboard, log_to_wandb

    for logger in _showing(loggers):
        log = log_to_wandb if isinstance(logger, WandbLogger) else log_to_tensorboard
        log(logger.experiment, content)


def _why_offline(wandb: Any) -> str | None:
    """Why the online mode would hang or raise; None if it would not."""
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        return "there is no API key (`wandb login` stores one)"
    address = re.sub(r"^\w+://", "", host).split("/")[0]
    name, _, port = address.partition(":")
    import socket

    try:
        socket.create_connection(
            (name, int(port or (80 if host.startswith("http://") else 443))), timeout=5
        ).close()
    except OSError:
        return f"{name} cannot be reached"
    return None

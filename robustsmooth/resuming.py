"""How a training continues in its run folder: from which checkpoint, with which records, or not at all."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, Timer
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from yaml import YAMLError

from robustsmooth.evaluation import fingerprint
from robustsmooth.files import write_whole
from robustsmooth.loggers import CsvLogger, as_text, read_metrics
from robustsmooth.methods.callbacks import EpochTimer
from robustsmooth.models import load_file
from robustsmooth.places import PLACES, places_now

# What must not change when a training continues; the rest may (more epochs, another device).
# `method.network` is `model`, by interpolation.
_FIXED = (
    "method.", "model.", "data.", "seed.", "trainer.accumulate_grad_batches.",
    "trainer.gradient_clip_algorithm.", "trainer.gradient_clip_val.", "trainer.limit_train_batches.",
    "trainer.precision.",
)  # fmt: skip
_END = ("trainer.max_epochs", "trainer.max_time", "trainer.max_steps", "callbacks")  # what ends a training
_FREE = ("data.root", "data.num_workers", "data.subset", "data.download", "method.network")


def resume_from(folder: Path, cfg: DictConfig) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to continue training from, if the run folder holds one.

    It is ``last.ckpt``; if that is damaged or missing, ``previous.ckpt``, the one before it, or
    ``best.ckpt``. A message reports it, and the later epochs are trained again.

    Returns:
        The file, and the content that `TrainingRecord` added; None and an empty mapping if there is none.

    Raises:
        ValueError: If the folder holds a run with other settings or more epochs, or if all of its
            checkpoints are damaged.
    """
    files = [folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous", "best")]
    present = [path for path in files if path.exists()]
    for path in present:
        try:
            content = load_file(path)
            ours, begun = content["robustsmooth"], content["epoch"] + 1
            config = dict(ours["config"])
        except (ValueError, KeyError, TypeError, IsADirectoryError):
            continue
        _check_same_run(folder, config, cfg)
        if (most := cfg.trainer.max_epochs) is not None and 0 <= most < begun:  # -1: any number
            raise ValueError(
                f"`{folder}` holds a training that reached epoch {begun}, beyond trainer.max_epochs={most}; "
                "choose another folder with hydra.run.dir=..., or at least as many epochs"
            )
        if path != files[0]:
            state = "damaged" if files[0] in present else "gone"
            _say(f"`{files[0]}` is {state}; continuing from `{path.name}`, an older checkpoint")
        return path, dict(ours)
    if present:
        names = " and ".join(f"`{path}`" for path in present)
        raise ValueError(
            f"{names} cannot be read (truncated or damaged, or not a checkpoint of robustsmooth); delete "
            f"`{folder / 'checkpoints'}` to train again, or choose another folder with hydra.run.dir=..."
        )
    return None, {}


@rank_zero_only
def _say(sentence: str) -> None:
    """Print to standard error, in one of several processes."""
    print(sentence, file=sys.stderr, flush=True)


def _check_same_run(folder: Path, then: Mapping[str, Any], cfg: DictConfig) -> None:
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    old, new = _fixed(then), _fixed(now)
    different = [
        f"{key}={old.get(key)} then, {new.get(key)} now"
        for key in sorted(old.keys() | new.keys())
        if not _equal(key, old.get(key), new.get(key))
        and not _same_place(key, old.get(key), new.get(key), folder, then)
    ]
    if different:
        raise ValueError(
            f"`{folder}` holds a run with other settings ({'; '.join(different)}); "
            "choose another folder with hydra.run.dir=..., or continue with the old settings"
        )


def _equal(key: str, old: Any, new: Any) -> bool:
    """Equal numbers are equal settings, but 1 is one batch and 1.0 are all of them."""
    return old == new and (not key.endswith("limit_train_batches") or type(old) is type(new))


def _same_place(key: str, old: Any, new: Any, folder: Path, then: Mapping[str, Any]) -> bool:
    """Whether both values name the same place of another run, which may have been moved with this one."""
    if key.rpartition(".")[2] not in PLACES or not isinstance(old, str) or not isinstance(new, str):
        return False
    try:
        hydra = OmegaConf.load(folder / ".hydra" / "hydra.yaml")
        started_in = OmegaConf.select(hydra, "hydra.runtime.cwd", default=".")
    except (OSError, ValueError, YAMLError):
        started_in = "."
    places = places_now(old, started_in, then.get("run_dir", folder), folder.absolute())
    return Path(new).expanduser().resolve() in [place.resolve() for place in places]


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in _flat(config).items()
        if f"{key}.".startswith(_FIXED) and not key.startswith(_FREE)
    }


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        key: value
        for name, branch in tree.items()
        for key, value in _flat(branch, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def is_finished(folder: Path, cfg: DictConfig, checkpoint: Path | None, kept: Mapping[str, Any]) -> bool:
    """Whether the folder holds this run, trained to the end, with readable records.

    Args:
        folder: The run folder.
        cfg: The training's config.
        checkpoint: The checkpoint that `resume_from` found.
        kept: What it found in the checkpoint.
    """
    if checkpoint is None or checkpoint.name != "last.ckpt":
        return False
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        OmegaConf.load(folder / ".hydra" / "config.yaml")
        if kept.get("rows") and read_metrics(folder / "metrics.csv") != kept["rows"]:
            return False
        ended = int(summary["epochs"]) >= cfg.trainer.max_epochs or _end(kept["config"]) == _end(cfg)
        return ended and isinstance(summary["metrics"], dict)
    except (OSError, ValueError, KeyError, TypeError, YAMLError):
        return False  # the checkpoint contains their content


def _end(config: Any) -> dict[str, Any]:
    """The settings that end a training; neither its place nor how it is shown does."""
    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    return {
        key: value
        for key, value in _flat(plain).items()
        if key.startswith(_END) and not key.startswith("callbacks.progress") and not key.endswith(".dirpath")
    }


def check_evaluations(folder: Path, checkpoint: Path | None, cfg: DictConfig) -> None:
    """Refuse to train a network further that was evaluated: it would be overwritten.

    Args:
        folder: The run folder.
        checkpoint: The checkpoint that the training continues from.
        cfg: The training's config.

    Raises:
        ValueError: If evaluations in the run folder have rows of the network of ``last.ckpt`` or
            ``best.ckpt``, and there are epochs left to train.
    """
    written = list(folder.glob("*/*.settings.json"))
    if not written or checkpoint is None or checkpoint.name != "last.ckpt":  # an older one repairs the last
        return
    epochs = load_file(checkpoint)["epoch"] + 1
    best = checkpoint.with_name("best.ckpt")
    networks = {_fingerprint(path) for path in (checkpoint, best) if path.exists()} - {None}
    evaluated = {path.parent.name for path in written if _evaluated(path) in networks}
    if evaluated and epochs < cfg.trainer.max_epochs:
        names = ", ".join(f"`{name}`" for name in sorted(evaluated))
        raise ValueError(
            f"the evaluations in {names} of `{folder}` are of the network after {epochs} epochs, which more "
            "training would overwrite; choose another folder with hydra.run.dir=..., or remove them"
        )


def _fingerprint(checkpoint: Path) -> str | None:
    try:
        weights = load_file(checkpoint)["state_dict"]
    except (ValueError, KeyError):
        return None
    prefix = "network."
    return fingerprint({key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)})


def _evaluated(settings: Path) -> Any:
    try:
        return json.loads(settings.read_bytes())["network"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class TrainingRecord(Callback):
    """Keep ``metrics.csv`` and ``summary.json`` of a training consistent with its checkpoints.

    The checkpoint of an epoch is written before the epoch's metrics are logged. It contains the rows of
    ``metrics.csv``, including those that are about to be logged. A training that continues from it writes the
    whole file again, so rows that were lost or damaged are repaired.

    Args:
        folder: The run folder.
        timer: Has the seconds of the epochs.
    """

    def __init__(self, folder: Path, timer: EpochTimer) -> None:
        self.folder, self.timer = folder, timer
        self._kept: dict[str, Any] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the metrics and the rows."""
        metrics = self._metrics(trainer)  # of all ranks together
        rows = [_with_epoch(trainer, item.rows(), metrics) for item in _csv(trainer)]
        checkpoint.setdefault("robustsmooth", {}).update(metrics=metrics, rows=rows[0] if rows else [])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read the metrics and the rows; adapt the paths of checkpoints in a folder that was moved."""
        self._kept = checkpoint.get("robustsmooth", {})
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and "best_model_path" in state:
                state.update(_moved(state, (self.folder / "checkpoints").resolve()))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the rows of a training that continues.

        Remove drafts that a kill may have left, and the summary of fewer epochs: a run folder with a summary
        holds a training that has ended.
        """
        if trainer.is_global_zero:
            for draft in [*self.folder.glob("*.tmp"), *self.folder.glob("checkpoints/*.tmp")]:
                draft.unlink()
            (self.folder / "summary.json").unlink(missing_ok=True)
        for logger in _csv(trainer):
            if self._kept.get("rows"):
                logger.restore(self._kept["rows"])

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """``summary.json``: the last metrics, the epochs and the seconds that they took.

        Also that a time limit has ended the training, which is not complete then.
        """
        summary = {
            **({"stopped": stopped} if (stopped := _out_of_time(trainer)) else {}),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seconds": sum(self.timer.seconds),
            "seconds_per_epoch": self.timer.seconds,
            "metrics": dict(sorted(self._metrics(trainer).items())),
        }
        if stopped:
            _say(stopped)
        if trainer.is_global_zero:
            write_whole(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")

    def _metrics(self, trainer: pl.Trainer) -> dict[str, float]:
        now = {key: float(value) for key, value in trainer.callback_metrics.items()}
        return {**self._kept.get("metrics", {}), **now}


def _out_of_time(trainer: pl.Trainer) -> str | None:
    """A sentence, if the time limit has ended a training before the end of its last epoch."""
    limits = [item.time_remaining() for item in trainer.callbacks if isinstance(item, Timer)]  # type: ignore[attr-defined]
    complete = trainer.current_epoch == trainer.max_epochs and trainer.is_last_batch
    if complete or all(left is None or left > 0 for left in limits):
        return None
    return f"stopped by trainer.max_time in epoch {trainer.current_epoch} of {trainer.max_epochs}"


def _moved(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The state of a ``ModelCheckpoint`` whose files are in this folder now."""

    def here(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    paths = {key: here(state[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
    best = {here(path): score for path, score in state["best_k_models"].items()}
    return {**paths, "best_k_models": best, "dirpath": str(folder)}


def _csv(trainer: pl.Trainer) -> list[CsvLogger]:
    """The loggers that write ``metrics.csv``, on the rank that writes it."""
    return [logger for logger in trainer.loggers if isinstance(logger, CsvLogger) and trainer.is_global_zero]


def _with_epoch(
    trainer: pl.Trainer, rows: list[dict[str, str]], metrics: Mapping[str, float]
) -> list[dict[str, str]]:
    """The rows, including those that Lightning will log for an epoch that has just ended."""
    if not (trainer.is_last_batch or trainer.should_stop):  # by a time limit, within an epoch
        return rows
    epoch = str(trainer.current_epoch)
    if not rows or rows[-1].get("epoch") != epoch:  # without validation in this epoch
        rows.append({"step": str(trainer.global_step - 1), "epoch": epoch})
    training = {key: as_text(key, value) for key, value in metrics.items() if key.startswith("train/")}
    return [*rows[:-1], {**rows[-1], **training}]


def trained_epochs(folder: Path) -> int:
    """The number of epochs of a finished training, from ``summary.json``."""
    return int(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["epochs"])


def summary_metric(folder: Path, name: str) -> float | None:
    """The last value of a metric, from ``summary.json``; None if the run has no such metric."""
    path = folder / "summary.json"
    if not path.is_file():  # on another rank, before the first one has written it
        return None
    value = json.loads(path.read_text(encoding="utf-8"))["metrics"].get(name)
    return None if value is None else float(value)

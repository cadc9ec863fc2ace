"""How a training continues in its run folder: from which checkpoint, or not at all."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from yaml import YAMLError

from robustsmooth.evaluation import fingerprint_in
from robustsmooth.loggers import read_metrics
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
        The file, and what `training_records.TrainingRecord` added to it; None and an empty mapping if there
        is none.

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
    written = list(folder.rglob("*.settings.json"))
    if not written or checkpoint is None:
        return
    networks = {fingerprint_in(path) for path in (checkpoint, checkpoint.with_name("best.ckpt"))}
    if checkpoint.name == "last.ckpt":
        content = load_file(checkpoint)
        complete = content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    else:  # it repairs the last one, which has as many epochs as the summary says
        summary = folder / "summary.json"
        networks.add(_value(summary, "network"))
        complete = _value(summary, "epochs") or cfg.trainer.max_epochs
    evaluated = {path.parent for path in written if _value(path, "network") in networks - {None}}
    if evaluated and complete < cfg.trainer.max_epochs:
        names = ", ".join(f"`{place.relative_to(folder)}`" for place in sorted(evaluated))
        raise ValueError(
            f"the evaluations in {names} of `{folder}` are of the network that it holds now, which more "
            "training would overwrite; choose another folder with hydra.run.dir=..., or remove them"
        )


def _value(file: Path, key: str) -> Any:
    """A value of a file in JSON, or None."""
    try:
        return json.loads(file.read_bytes())[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None

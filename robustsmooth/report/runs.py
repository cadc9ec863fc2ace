"""Finding runs on disk and the facts that tell them apart.

A run is a folder that one of the commands wrote: its resolved config in ``.hydra/``, its logs, its
``summary.json``. An evaluation names the training run that it evaluated by its ``checkpoint``; what is
known about that run (method, network, data) is known about the evaluation too. A foreign log brings no
config: its facts are given beside its path.
"""

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Run", "find_runs", "label_runs"]

LOG_NAMES = ("certify", "predict", "attack", "agreement", "timing", "smoothed_inference")
"""Logs of ours, by the name of their file without ``.tsv``."""

LABEL_FACTS = (
    "name", "method", "checkpoint", "model", "data", "train_sigma", "sigma", "certificate", "attack",
    "source", "target", "norm", "epsilon", "n", "alpha", "num_noise", "train_seed", "seed",
)  # fmt: skip
"""What a label may be made of, in this order; only what differs between the runs is used."""

TRAINING_FACTS = {
    "attack": "train_attack",
    "epsilon": "train_epsilon",
    "steps": "train_steps",
    "copies": "copies",
}
"""Settings of a training's attack, by their names in its config, as facts of what evaluates it."""

SIGNS = {
    "sigma": "σ",
    "train_sigma": "training σ",
    "train_seed": "training seed",
    "epsilon": "ε",
    "alpha": "α",
    "num_noise": "m",
}

_GROUPS = ("method", "model", "data", "certificate", "attack", "smoothing", "loss", "experiment")


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder, or one foreign log.

    Attributes:
        path: The folder, or the foreign log's file.
        facts: What is known: method, model, data, sigma, train_sigma, seed, certificate, n0, n, alpha...
        logs: The logs there, by name. While an evaluation is unfinished, a name has one file per rank.
        config: The resolved config; empty for a foreign log.
        summary: What ``summary.json`` holds; empty if there is none.
        trained: The folder of the training run that was evaluated; of a training run, its own.
        label: How tables and figures call it, unique within a report.
        problems: What was wrong with the folder's files, one sentence each.
    """

    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    logs: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    trained: Path | None = None
    label: str = ""
    problems: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the run's files lie."""
        return self.path if self.path.is_dir() else self.path.parent


def find_runs(entries: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]) -> list[Run]:
    """Find the runs that `entries` name.

    Args:
        entries: One or several of: a folder (searched to the bottom), a glob, a log file; or a mapping with
            such a ``path`` and the facts that are true of what is found there, such as ``{path: logs/**,
            method: cohen, n: 100000, alpha: 0.001}``. A key ``pattern`` is a regular expression whose named
            groups read further facts from the path, such as ``noise_(?P<sigma>[0-9.]+)``.

    Returns:
        The runs in the order of their paths, each once, without labels.

    Raises:
        ValueError: If an entry names nothing, a mapping lacks its path, or a pattern is not valid.
    """
    if isinstance(entries, str | Mapping):
        entries = [entries]
    found: dict[Path, Run] = {}
    for entry in entries:
        given = dict(entry) if isinstance(entry, Mapping) else {"path": entry}
        if not given.get("path"):
            raise ValueError(f"`runs`: each mapping needs a path, got {given}")
        path, pattern = str(given.pop("path")), given.pop("pattern", None)
        try:
            expression = re.compile(pattern) if pattern else None
        except re.error as error:
            raise ValueError(
                f"`runs`: the pattern {pattern!r} is not a regular expression: {error}"
            ) from None
        runs = list(_runs_below(path))
        if not runs:
            raise ValueError(
                f"`runs`: {path} holds no run and no log; give run folders, quoted globs, or log files"
            )
        for run in runs:
            match = expression.search(run.path.as_posix()) if expression else None
            read = {key: _plain(text) for key, text in (match.groupdict() if match else {}).items() if text}
            found.setdefault(run.path, _with(run, facts={**run.facts, **read, **given}))
    return [found[path] for path in sorted(found)]


def label_runs(runs: Sequence[Run]) -> list[Run]:
    """Give each run a short label, made of the facts in which runs with the same logs differ.

    Labels are unique among those: a classifier, its certification and its attack may share one. A run that
    evaluates a classifier gets that one's label as the fact ``classifier``.
    """
    kinds: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        kinds.setdefault(tuple(run.logs), []).append(run)
    labels = {run: label for members in kinds.values() for run, label in _labels_of(members).items()}
    trained: dict[Path | None, str] = {run.path: labels[run] for run in runs if run.trained == run.path}
    return [
        _with(
            run, label=labels[run], facts={**run.facts, "classifier": _classifier(run, trained, labels[run])}
        )
        for run in runs
    ]


def _classifier(run: Run, trained: Mapping[Path | None, str], label: str) -> str:
    """The label of the training run, with the checkpoint if it is not the last epoch's."""
    if run.trained not in trained:
        return label
    return " ".join([trained[run.trained], *filter(None, [run.facts.get("checkpoint")])])


def _labels_of(runs: Sequence[Run]) -> dict[Run, str]:
    """Labels of runs that hold the same logs."""
    differing = [fact for fact in LABEL_FACTS if len({_value(run.facts, fact) for run in runs} - {None}) > 1]
    if not {"method", "name"} & set(differing):
        differing = ["method", *differing]
    differing = [fact for fact in differing if fact != "train_sigma"]
    if any(_noise(run.facts) != run.facts.get("train_sigma", _noise(run.facts)) for run in runs):
        differing = [fact for fact in LABEL_FACTS if fact in {*differing, "train_sigma", "sigma"}]
    labels = [_label(run.facts, differing) or run.path.stem for run in runs]
    alike: dict[str, list[Run]] = {}
    for run, label in zip(runs, labels, strict=True):
        alike.setdefault(label, []).append(run)
    return {
        run: f"{label} ({words})" if words else label
        for label, members in alike.items()
        for run, words in zip(members, _told_apart(members), strict=True)
    }


def _told_apart(runs: Sequence[Run]) -> list[str]:
    """What tells runs of the same facts apart: the words of their command lines, or else their folders."""
    if len(runs) == 1:
        return [""]
    lines = [_overrides(run) for run in runs]
    words = [" ".join(word for word in line if not all(word in each for each in lines)) for line in lines]
    if len({*words} - {""}) == len(runs):
        return words
    common = os.path.commonpath([run.path for run in runs])
    return [os.path.relpath(run.path, common) for run in runs]


def _overrides(run: Run) -> list[str]:
    """The words of the command line that trained the run's network; none if it is not known."""
    hydra = _read((run.trained or run.path) / ".hydra" / "hydra.yaml", []).get("hydra") or {}
    return [str(word) for word in (hydra.get("overrides") or {}).get("task") or []]


def _value(facts: Mapping[str, Any], fact: str) -> Any:
    """A fact that can be compared; the noise level of a training run is its own."""
    value = _noise(facts) if fact == "sigma" else facts.get(fact)
    return value if isinstance(value, str | int | float | None) else json.dumps(value, default=str)


def _noise(facts: Mapping[str, Any]) -> Any:
    """The noise level of a run: of its smoothing where it has one, else of its training."""
    return facts.get("sigma", facts.get("train_sigma"))


def _label(facts: Mapping[str, Any], shown: Iterable[str]) -> str:
    words = []
    for fact in shown:
        value = _value(facts, fact)
        if value is None or (fact == "train_sigma" and "sigma" not in facts):  # then the level is its own
            continue
        text = f"{value:g}" if isinstance(value, float) else str(value)
        words.append(text if isinstance(value, str) else f"{SIGNS.get(fact, fact)}={text}")
    return " ".join(words)


def _with(run: Run, **changes: Any) -> Run:
    return Run(**{**{name: getattr(run, name) for name in run.__dataclass_fields__}, **changes})


def _plain(text: str) -> Any:
    """A piece of a path as the number it spells, or as text."""
    for cast in (int, float):
        try:
            return cast(text)
        except ValueError:
            continue
    return text


def _runs_below(path: str) -> Iterator[Run]:
    matches = (
        [Path(path)] if Path(path).exists() else [Path(match) for match in glob.glob(path, recursive=True)]  # noqa: PTH207 absolute patterns too
    )
    for match in sorted(matches):
        if match.is_dir():
            for folder in _run_folders(match):
                yield _read_folder(folder)
        elif match.suffix == ".tsv" and (match.parent / ".hydra").is_dir():
            yield _read_folder(match.parent)
        else:
            yield Run(match.absolute(), logs={"log": (match.absolute(),)})


def _run_folders(top: Path) -> Iterator[Path]:
    """Folders at or below `top` that a command wrote; hidden folders are left out."""
    for name, folders, files in os.walk(top):
        folders[:] = sorted(
            folder for folder in folders if not folder.startswith(".") and folder != "checkpoints"
        )
        folder = Path(name)
        if _logs_of(folder, files) or (
            (folder / ".hydra" / "config.yaml").exists() and "report.html" not in files
        ):
            yield folder.absolute()


def _logs_of(folder: Path, files: Iterable[str]) -> dict[str, tuple[Path, ...]]:
    """The logs among a folder's files: the merged one, else the parts of an unfinished evaluation."""
    logs: dict[str, tuple[Path, ...]] = {}
    names = sorted(files)
    for name in LOG_NAMES:
        parts = tuple(folder / file for file in names if re.fullmatch(rf"{name}\.rank\d+\.tsv", file))
        if f"{name}.tsv" in names:
            parts = (folder / f"{name}.tsv",)
        if parts:
            logs[name] = tuple(part.absolute() for part in parts)
    return logs


def _read_folder(folder: Path) -> Run:
    problems: list[str] = []
    config = _read(folder / ".hydra" / "config.yaml", problems)
    logs = _logs_of(folder, [file.name for file in folder.iterdir()])
    facts, trained = _facts_of(folder)
    for name, paths in logs.items():
        facts |= _settings_facts(_read(folder / f"{name}.settings.json", problems))
        if ".rank" in paths[0].name:
            problems.append(f"{folder}: {name} is not finished; start its command again to finish it")
    summary = _read(folder / "summary.json", problems)
    return Run(folder, facts, logs, config, summary, trained, problems=tuple(problems))


def _read(path: Path, problems: list[str]) -> dict[str, Any]:
    """A YAML or JSON file as a mapping; empty if it is not there, or not readable (then a problem)."""
    if not path.exists():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, _YamlLoader)
    except (ValueError, yaml.YAMLError) as error:
        problems.append(f"{path} is not readable: {str(error).splitlines()[0]}")
        return {}
    return content if isinstance(content, dict) else {}


class _YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads ``1e-3`` as a number, as Hydra writes it."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)?(\.\d*)?([eE][-+]?\d+)$|^[-+]?\d[\d_]*\.\d*$|^[-+]?\.(inf|nan)$"),
    list("-+0123456789."),
)


@lru_cache(maxsize=4096)
def _facts_of_cached(folder: str) -> tuple[dict[str, Any], Path | None]:
    path = Path(folder)
    unread: list[str] = []
    config = _read(path / ".hydra" / "config.yaml", unread)
    hydra = _read(path / ".hydra" / "hydra.yaml", unread).get("hydra", {})
    choices = hydra.get("runtime", {}).get("choices", {})
    facts: dict[str, Any] = {}
    trained: Path | None = None
    checkpoint = config.get("checkpoint")
    if isinstance(checkpoint, str):
        trained = _training_folder(checkpoint, hydra.get("runtime", {}).get("cwd", "."))
        if trained is not None and trained != path:
            facts, _ = _facts_of(trained)
            facts["train_seed"] = facts.pop("seed", None)
            for name in ("attack", "epsilon", "norm", "steps", "num_noise", "loss"):  # of the training
                facts.pop(name, None)
            if Path(checkpoint).suffix in (".ckpt", ".safetensors") and Path(checkpoint).stem != "last":
                facts["checkpoint"] = Path(checkpoint).stem
    elif "method" in config:
        trained = path
    facts |= {
        group: choices[group] for group in _GROUPS if choices.get(group) not in (None, "none", "as_trained")
    }
    subset = (config.get("data") or {}).get("subset") or {}
    if subset.get("split") == "val" and trained != path and "data" in facts:
        facts["data"] += " (validation)"
    attacked = config.get("attack") or (config.get("measure") or {}).get("attack")
    if attacked and trained != path:
        facts["attack"] = choices.get("attack") or choices.get("attack@measure.attack") or path.name
        source = (config.get("source") or {}).get("checkpoint")
        if source:
            facts["source"] = (_training_folder(source, ".") or Path(source)).name
    elif config.get("measure"):
        facts["attack"] = "none"
    facts |= {"seed": config["seed"]} if "seed" in config else {}
    if trained == path and config.get("row"):  # a row of an experiment's table is a variant of a method
        facts["method"] = config["row"]
    method, smoothing = config.get("method") or {}, config.get("smoothing") or {}
    if isinstance(method, dict) and method.get("sigma") is not None:
        facts["train_sigma"] = method["sigma"]
    for group, names in (
        (smoothing, ("sigma",)),
        (config.get("certificate") or {}, ("n0", "n", "alpha")),
        (config.get("attack") or {}, ("norm", "steps", "epsilon", "num_noise")),
    ):
        facts |= {
            name: group[name] for name in names if isinstance(group, dict) and group.get(name) is not None
        }
    if trained == path:
        settings = {**(config.get("attack") or {}), "attack": facts.get("attack"), **method}
        facts |= {
            fact: settings[name] for name, fact in TRAINING_FACTS.items() if settings.get(name) is not None
        }
    return facts, trained


def _facts_of(folder: Path) -> tuple[dict[str, Any], Path | None]:
    facts, trained = _facts_of_cached(str(folder.absolute()))
    return dict(facts), trained


def _training_folder(checkpoint: str, cwd: str) -> Path | None:
    """The run folder that a checkpoint (a run folder, or a file in it) belongs to, if it is still there."""
    path = Path(cwd, checkpoint)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / ".hydra" / "config.yaml").exists():
            return folder.absolute()
    return None


def _settings_facts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The facts among the settings that an evaluation's rows depend on."""
    flat = {key.rpartition(".")[2]: value for key, value in _flatten(settings).items()}
    names = ("sigma", "n0", "n", "alpha", "guarantee", "norm", "target", "device", "mode")
    facts = {name: flat[name] for name in names if isinstance(flat.get(name), str | int | float)}
    target, procedure = settings.get("target"), settings.get("procedure")
    if isinstance(target, Mapping) and "name" in target:
        facts["target"] = target["name"]
    if isinstance(procedure, Mapping) and "name" in procedure:
        facts["certificate"] = procedure["name"]
    return facts


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat

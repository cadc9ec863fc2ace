"""Finding runs on disk, with their facts.

A run is a folder that one of the commands wrote: its resolved config in ``.hydra/``, its logs, its
``summary.json``. The ``checkpoint`` of an evaluation is the training run that it evaluated; the facts of that
run (method, network, data) are facts of the evaluation too. A foreign log has no config: its facts are given
with its path.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from robustsmooth.kinds import KINDS
from robustsmooth.report.facts import (
    KNOWN,
    cached_config,
    checked_numbers,
    config_of,
    fact_of_split,
    facts_of,
    read_mapping,
    settings_facts,
    wrong_numbers,
)
from robustsmooth.report.logs import kind_of, read_header
from robustsmooth.report.networks import Network, facts_of_networks, forget, network_of

NO_LOGS = {
    ".json", ".yaml", ".yml", ".md", ".tex", ".csv", ".png", ".pdf", ".html", ".log", ".py", ".ckpt", ".pt",
    ".pth", ".tar", ".safetensors", ".onnx", ".npz", ".npy", ".gz", ".zip", ".tmp", ".wandb",
}  # fmt: skip
"""Files that are skipped when a folder is searched."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder, or one foreign log.

    Attributes:
        path: The folder, or the foreign log's file.
        facts: The facts: method, model, data, sigma, train_sigma, seed, certificate, n0, n, alpha...
        logs: The logs by name. An unfinished evaluation has one file per rank.
        config: The resolved config; empty for a foreign log.
        summary: The content of ``summary.json``; empty if there is none.
        trained: The folder of the training run that was evaluated; for a training run its own folder.
        network: What was trained or evaluated; None for a foreign log.
        label: Its name in tables and figures, unique within a report.
        problems: What was wrong with the folder's files, one sentence each.
    """

    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    logs: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    trained: Path | None = None
    network: Network | None = None
    label: str = ""
    problems: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of the run's files."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def training_seed(self) -> Any:
        """The seed of the training, None if unknown; of a foreign log, which has no network, its only one."""
        trained_here = self.network is None or self.trained == self.path
        return self.facts.get("seed" if trained_here else "train_seed")


def find_runs(entries: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]) -> list[Run]:
    """Find the runs that `entries` name.

    Args:
        entries: One or several of: a folder (searched with all subfolders), a glob, a log file; or a mapping
            with such a ``path`` and the facts of the runs that are found there, such as
            ``{path: logs/**, method: cohen, n: 100000, alpha: 0.001}``. A key ``pattern`` is a regular
            expression whose named groups read further facts from the path, such as
            ``noise_(?P<sigma>[0-9.]+)``.

    Returns:
        The runs in the order of their paths (2 before 10), each once, without labels.

    Raises:
        ValueError: If an entry names nothing, a mapping lacks its path, or a pattern or number is not valid.
    """
    if isinstance(entries, str | Mapping):
        entries = [entries]
    forget()
    found: dict[Path, Run] = {}  # by their paths without symbolic links
    for entry in entries:
        given = dict(entry) if isinstance(entry, Mapping) else {"path": entry}
        if not given.get("path"):
            raise ValueError(f"`runs`: each mapping needs a path, got {given}")
        path, pattern = str(given.pop("path")), given.pop("pattern", None)
        if wrong := wrong_numbers(given):
            raise ValueError(f"`runs`: {path}: {'; '.join(wrong.values())}")
        try:
            expression = re.compile(pattern) if pattern else None
        except re.error as error:
            raise ValueError(
                f"`runs`: the pattern {pattern!r} is not a regular expression: {error}"
            ) from None
        below = list(_runs_below(path))
        runs = [run for run in below if _is_text(run.path)]
        unreadable = [
            f"{os.fsencode(run.path)!r} is left out, because its name is not UTF-8; rename it"
            for run in below
            if not _is_text(run.path)
        ]
        if unreadable and not runs:
            raise ValueError(f"`runs`: {unreadable[0]}")
        if not runs:
            raise ValueError(
                f"`runs`: {path} holds no run and no log; give run folders, quoted globs, or log files"
            )
        unmatched = [run for run in runs if expression and not expression.search(run.path.as_posix())]
        if unmatched == runs:
            raise ValueError(f"`runs`: the pattern {pattern!r} matches no path, such as {runs[0].path}")
        for run in runs:
            found.setdefault(run.path.resolve(), _with_facts(run, expression, given))
        one = found[runs[0].path.resolve()]
        doubtful = _misspelt([*given, *(expression.groupindex if expression else ())])
        found[one.path.resolve()] = replace(one, problems=(*one.problems, *doubtful, *unreadable))
        if unmatched:
            one = found[unmatched[0].path.resolve()]
            more = f" nor {len(unmatched) - 1} others" if len(unmatched) > 1 else ""
            problem = f"the pattern {pattern!r} does not match {one.path}{more}, which lack its facts"
            found[one.path.resolve()] = replace(one, problems=(*one.problems, problem))
    return sorted((_linked(run, found) for run in found.values()), key=lambda run: natural(run.path))


def _linked(run: Run, found: Mapping[Path, Run]) -> Run:
    """The run, whose training has the path by which it was found, which may hold symbolic links."""
    training = found.get(run.trained.resolve()) if run.trained else None
    return replace(run, trained=training.path) if training else run


def _is_text(path: Path) -> bool:
    """Whether a path is UTF-8, and can be written into a report."""
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def _misspelt(names: Iterable[str]) -> list[str]:
    """Messages about facts that may be known ones misspelt; others are allowed and only tell runs apart."""
    close = {name: get_close_matches(name.lower(), KNOWN, 1, 0.8) for name in names if name not in KNOWN}
    return [
        f"the fact {name} of `runs` is used in labels only; did you mean {guess[0]}?"
        for name, guess in close.items()
        if guess
    ]


def _with_facts(run: Run, expression: re.Pattern[str] | None, given: Mapping[str, Any]) -> Run:
    """A run with the facts from its path and the command line."""
    match = expression.search(run.path.as_posix()) if expression else None
    read = {key: _plain(text) for key, text in (match.groupdict() if match else {}).items() if text}
    problems: list[str] = []
    facts = checked_numbers({**run.facts, **read, **given}, run.path, problems)
    facts |= fact_of_split(facts.pop("split", None))
    return replace(run, facts=facts, problems=(*run.problems, *problems))


def _plain(text: str) -> Any:
    """A part of a path as a number, or as text."""
    for cast in (int, float):
        try:
            return cast(text)
        except ValueError:
            continue
    return text


def natural(path: Path) -> list[Any]:
    """A sorting key in which numbers count as numbers: job 2 comes before job 10, 0.25 before 0.5."""
    pieces = re.split(r"(\d+(?:\.\d+)?)", path.as_posix())
    return [(0, float(piece), "") if piece[:1].isdecimal() else (1, 0.0, piece) for piece in pieces]


def _runs_below(path: str) -> Iterator[Run]:
    matches = (
        [Path(path)] if Path(path).exists() else [Path(match) for match in glob.glob(path, recursive=True)]  # noqa: PTH207 absolute patterns too
    )
    for match in sorted(matches):
        if match.is_dir():
            yield from _runs_in(match)
        elif _logs_of(match.parent, [match.name]) and (match.parent / ".hydra").is_dir():
            yield _guarded(match.parent)
        else:
            yield Run(match.absolute(), logs={"log": (match.absolute(),)})


def _runs_in(top: Path) -> Iterator[Run]:
    """Folders at or below `top` that a command wrote, and foreign logs; hidden folders are left out."""
    for folder, files in _folders_in(top):
        ours = _logs_of(folder, files) or facts_of(folder)[1] == folder
        if ours or _without_rows(files):
            yield _guarded(folder)
        if not ours:  # also beside a report, which has a config too
            logs = [folder / file for file in sorted(files) if _may_be_log(folder / file)]
            yield from (Run(log, logs={"log": (log,)}) for log in logs)


def _folders_in(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders at or below `top`, each once, with the names of their files; symbolic links come last.

    A link to a folder that contains `top` is not followed: it holds other runs too.
    """
    tops, seen = [top.absolute()], set()
    for start in tops:  # grows by the links that are found
        for name, folders, files in os.walk(start):
            folders[:] = sorted(
                folder for folder in folders if not folder.startswith(".") and folder != "checkpoints"
            )
            if (place := os.path.realpath(name)) in seen:
                folders.clear()
                continue
            seen.add(place)
            links = [path for folder in folders if (path := Path(name, folder)).is_symlink()]
            tops += [link for link in links if not top.resolve().is_relative_to(link.resolve())]
            yield Path(name), files


def _may_be_log(file: Path) -> bool:
    """Whether a file's first line is a log's; an empty ``.tsv`` counts too, so that it is reported."""
    if file.suffix.lower() in NO_LOGS or file.name.startswith("."):
        return False
    header = read_header(file)
    return kind_of(header) is not None if any(header) else file.suffix == ".tsv"


def _guarded(folder: Path) -> Run:
    """Read a run folder; errors become problems with its name, and the other runs are read."""
    try:
        return _read_folder(folder)
    except Exception as error:
        return Run(folder, problems=(f"{folder} could not be read: {type(error).__name__}: {error}",))


def _logs_of(folder: Path, files: Iterable[str]) -> dict[str, tuple[Path, ...]]:
    """The logs among a folder's files: the merged one, and parts of one that is unfinished or extended."""
    logs: dict[str, tuple[Path, ...]] = {}
    names = sorted(files)
    for name in KINDS:
        parts = tuple(folder / file for file in names if re.fullmatch(rf"{name}\.rank\d+\.tsv", file))
        if f"{name}.tsv" in names:
            parts = (folder / f"{name}.tsv", *parts)
        if parts:
            logs[name] = tuple(part.absolute() for part in parts)
    return logs


def _without_rows(files: Iterable[str]) -> list[str]:
    """The evaluations that have begun in a folder with these files, and have no rows yet."""
    logs = _logs_of(Path(), files)
    return [name for name in KINDS if f"{name}.settings.json" in files and name not in logs]


def _read_folder(folder: Path) -> Run:
    problems: list[str] = []
    config = config_of(folder, problems)
    files = [file.name for file in folder.iterdir()]
    logs = _logs_of(folder, files)
    problems += [
        f"{folder}: {name} has no rows yet; start its command again to finish it"
        for name in _without_rows(files)
    ]
    facts, trained = facts_of(folder)
    network = network_of(folder)
    facts = {key: fact for key, fact in {**facts, **facts_of_networks(folder)}.items() if fact is not None}
    for name, paths in logs.items():
        settings = read_mapping(folder / f"{name}.settings.json", problems)
        facts |= settings_facts(settings)
        if of_another_state(folder, name):
            problems.append(
                f"{folder}: {name} is not of the network at the end of the training in {trained}, but of an "
                "earlier or later one; evaluate it again in a new folder"
            )
        if ".rank" in paths[-1].name:
            problems.append(f"{folder}: {name} is not finished; start its command again to finish it")
    if facts.get("n") == 0:  # of a bound without votes
        del facts["n"]
    facts = checked_numbers(facts, folder, problems)
    summary = read_mapping(folder / "summary.json", problems)
    training = read_mapping(trained / "summary.json", []) if trained else {}
    if stopped := training.get("stopped"):
        problems.append(f"{trained}: the training was {stopped}")
    return Run(folder, facts, logs, config, summary, trained, network, problems=tuple(problems))


def of_another_state(folder: Path, log: str) -> bool:
    """Whether the rows of a log are of other weights than the training ended with.

    Not known, and False, for older trainings, other files than ``last.ckpt`` and a changed network.
    """
    trained, network, config = facts_of(folder)[1], network_of(folder), cached_config(folder)
    if trained is None or network is None or network.changed:
        return False
    now = read_mapping(folder / f"{log}.settings.json", []).get("network")
    then = read_mapping(trained / "summary.json", []).get("network")
    last = Path(str(config.get("checkpoint"))).name == "last.ckpt"
    return last and None not in (now, then) and now != then

"""Short names of runs: one name per classifier, and what distinguishes its evaluations.

"heat 0.25" is a method and its noise level. Other facts are named only where runs differ in them; a fact that
distinguishes only two of many runs is named for those two. A training run, its certification and its attack
share their name.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from robustsmooth.places import PLACES
from robustsmooth.report.comparable import has_method
from robustsmooth.report.facts import KNOWN, USUAL_NOISE, overrides_of
from robustsmooth.report.networks import NO_SETTINGS
from robustsmooth.report.runs import Run

SYMBOLS = {
    "sigma": "σ", "train_sigma": "training σ", "epsilon": "ε", "train_epsilon": "training ε", "alpha": "α",
    "num_noise": "m", "train_seed": "seed",
}  # fmt: skip
"""Names of facts in labels, if they differ from the fact's name."""

OF_CLASSIFIERS = ("data", "model")
"""Facts that are in every label if they differ anywhere; others only in labels that would be equal."""
REST_OF_CLASSIFIERS = ("loss", "train_attack", "train_epsilon", "train_steps", "copies")
OF_NAMED = ("name", "method", "train_sigma", *OF_CLASSIFIERS, "seed")
"""Facts that foreign logs of one classifier share."""
OF_EVALUATIONS = ("split", "n", "alpha", "certificate", "attack", "target")
REST_OF_EVALUATIONS = ("images", "mode", "norm", "epsilon", "steps", "num_noise", "seed")
MOST_WORDS = 60
"""Longer arguments of command lines are not used as labels; folders are used instead."""


def label_runs(runs: Sequence[Run]) -> list[Run]:
    """Give each run a label, unique among the runs with the same kind of logs.

    A run also gets its classifier's label as the fact ``classifier``, with the checkpoint if it is not the
    last, and as ``family`` that label without what distinguishes repetitions with other seeds.
    """
    classifiers: dict[Any, list[Run]] = {}
    for run in runs:
        classifiers.setdefault(_classifier_key(run), []).append(run)
    first = {key: _representative(members) for key, members in classifiers.items()}
    families, labels = _classifier_labels(list(first.values()))
    names = {
        key: {"family": family, "classifier": label}
        for key, family, label in zip(first, families, labels, strict=True)
    }
    named = []
    kinds: dict[Any, list[int]] = {}
    noises = {run.facts.get("smoothing", USUAL_NOISE) for run in runs if run.logs}
    for at, run in enumerate(runs):
        own = names[_classifier_key(run)]
        named.append(replace(run, facts={**run.facts, **own}, label=own["classifier"]))
        if run.logs:  # not a training, which has its classifier's label
            kinds.setdefault((tuple(run.logs), run.facts.get("guarantee")), []).append(at)
    for members in kinds.values():
        told = _evaluation_labels([named[at] for at in members], name_noise=len(noises) > 1)
        for at, label in zip(members, told, strict=True):
            named[at] = replace(named[at], label=label)
    return named


def _classifier_key(run: Run) -> Any:
    """The identity of a classifier: a network, or one foreign log.

    Foreign logs with one name are of one classifier if their other facts do not tell their networks apart.
    """
    if run.network is not None:
        return run.network.identity
    if run.facts.get("name") is None:
        return run.path, None
    return tuple(run.facts.get(name) for name in OF_NAMED)


def _representative(runs: Sequence[Run]) -> Run:
    """The training run among the runs about one classifier, or the first of them."""
    return next((run for run in runs if run.trained == run.path), runs[0])


def _classifier_labels(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """The labels without and with what distinguishes repetitions with other seeds."""
    facts = [_network_facts(run) for run in runs]
    heads = [str(fact["head"]) for fact in facts]
    differing = _differing(facts, ("level", *OF_CLASSIFIERS))
    order = [name for name in (*OF_CLASSIFIERS, "level") if name in differing] + ["checkpoint"]
    labels = [" ".join([head, *_words(fact, order)]) for head, fact in zip(heads, facts, strict=True)]
    families = _families(labels, runs, facts)
    more = (*REST_OF_CLASSIFIERS, "train_seed")
    return families, _tell_apart(families, runs, facts, more, _command_line)


def _families(labels: Sequence[str], runs: Sequence[Run], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels that repetitions of a training with other seeds share, and no other network.

    Of foreign logs without a name and a method nothing says that they are repetitions.
    """
    own = sorted({name for run in runs for name in run.facts} - {*KNOWN, *REST_OF_CLASSIFIERS})
    kinds = []
    for label, run in zip(labels, runs, strict=True):
        trained = str(run.network.settings) if run.network else run.facts.get("loss")
        unknown = None if run.config or has_method(run) else run.path
        kinds.append((label, trained, unknown, *(run.facts.get(name) for name in own)))
    first = {kind: at for at, kind in reversed([*enumerate(kinds)])}
    told = _tell_apart(
        [labels[at] for at in first.values()],
        [runs[at] for at in first.values()],
        [facts[at] for at in first.values()],
        (*REST_OF_CLASSIFIERS, *own),
        lambda run: [word for word in _command_line(run) if _key(word) not in _OF_ONE_SEED],
    )
    names = dict(zip(first, told, strict=True))
    return [names[kind] for kind in kinds]


def _command_line(run: Run) -> list[str]:
    """The arguments of the command of a training, and of an evaluation's if they change the model."""
    words = overrides_of(run.trained or run.path)
    if run.trained and run.network and run.network.changed:
        words += [word for word in overrides_of(run.path) if "model" in word.partition("=")[0]]
    return words


_OF_ONE_SEED = {*NO_SETTINGS, *PLACES, "members"}


def _key(word: str) -> str:
    """The last part of the name of a setting on a command line."""
    return word.lstrip("+~").partition("=")[0].rpartition(".")[2]


def _network_facts(run: Run) -> dict[str, Any]:
    """What is known about the network itself.

    ``level`` is the noise that it was trained with, and ``head`` the first words of its label.
    """
    facts = dict(run.facts)
    facts["head"] = facts.get("name") or facts.get("method")
    if facts["head"] is None:
        facts["head"] = run.network.name if run.network else run.path.name.removesuffix(".tsv")
        facts.pop("checkpoint", None)  # the name of that file
    several = run.network is not None and len(run.network.parts) > 1
    facts["level"] = facts.get("train_sigma", None if several else facts.get("sigma")) or None
    facts["train_seed"] = run.training_seed
    return facts


def _evaluation_labels(runs: Sequence[Run], name_noise: bool) -> list[str]:
    """The classifiers' labels, and the facts that differ among evaluations of one kind.

    A noise that is not Gaussian is named if evaluations of any kind differ in it.
    """
    facts = [dict(run.facts) for run in runs]
    per_classifier: dict[str, set[Any]] = {}
    for fact in facts:
        per_classifier.setdefault(fact["classifier"], set()).add(fact.get("sigma"))
    for fact in facts:  # the noise level is named if it is not the one in the label
        if (
            fact.get("train_sigma", fact.get("sigma")) == fact.get("sigma")
            and len(per_classifier[fact["classifier"]]) == 1
        ):
            fact["sigma"] = None
        noise = fact.pop("smoothing", USUAL_NOISE)
        if name_noise and noise != USUAL_NOISE:
            fact["smoothing"] = f"{noise} noise"
    order = ["sigma", "smoothing", *_differing(facts, OF_EVALUATIONS)]
    labels = [" ".join([str(fact["classifier"]), *_words(fact, order)]) for fact in facts]
    return _tell_apart(labels, runs, facts, REST_OF_EVALUATIONS, lambda run: overrides_of(run.path))


def _differing(facts: Sequence[Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """The facts that have several known values."""
    return [name for name in names if len({fact.get(name) for fact in facts} - {None}) > 1]


def _words(facts: Mapping[str, Any], shown: Iterable[str]) -> list[str]:
    """Texts unchanged, numbers with their names; the level of a network without its name."""
    words = []
    for name in shown:
        value = facts.get(name)
        if value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            plain = (isinstance(value, str) and name != "train_seed") or name == "level"
            words.append(text if plain else f"{SYMBOLS.get(name, name)}={text}")
    return words


def _tell_apart(
    labels: Sequence[str],
    runs: Sequence[Run],
    facts: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    command_line: Callable[[Run], Sequence[str]],
) -> list[str]:
    """Add to equal labels what differs: facts, arguments of command lines, or folders."""
    alike: dict[str, list[int]] = {}
    for at, label in enumerate(labels):
        alike.setdefault(label, []).append(at)
    told = list(labels)
    for members in (members for members in alike.values() if len(members) > 1):
        shown = _differing([facts[at] for at in members], names)
        more = [" ".join(_words(facts[at], shown)) for at in members]
        if len({*more}) < len(members):
            more = _different_words([list(command_line(runs[at])) for at in members])
        if len({*more}) < len(members) or max(map(len, more)) > MOST_WORDS:
            more = _different_places([runs[at].path for at in members])
        for at, words in zip(members, more, strict=True):
            told[at] = f"{labels[at]} {words}".strip()
    return told


def _different_words(lines: Sequence[Sequence[str]]) -> list[str]:
    """The arguments of each command line that not all of them have."""
    common = set.intersection(*(set(line) for line in lines))
    words = [" ".join(word for word in line if word not in common) for line in lines]
    return [f"({text})" if text else "" for text in words]


def _different_places(paths: Sequence[Path]) -> list[str]:
    """The fewest folders of each path that distinguish all of them: one, or two, or all that differ."""
    common = os.path.commonpath(paths)
    parts = [Path(os.path.relpath(path, common)).parts for path in paths]
    columns = list(zip(*_padded(parts), strict=True))
    differing = [column for column in columns if len({*column}) > 1]
    pairs = combinations(differing[:8], 2)
    for chosen in (*([column] for column in differing), *map(list, pairs), differing):
        words = ["/".join(filter(None, item)) for item in zip(*chosen, strict=True)]
        if len({*words}) == len(paths):
            return [f"({word})" if word else "" for word in words]
    return [f"({path})" for path in paths]


def _padded(parts: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    deepest = max(map(len, parts))
    return [(*part, *[""] * (deepest - len(part))) for part in parts]

"""Titles that tell evaluations apart, above all attacks: the same in tables and figures."""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import count
from typing import TypeAlias

from robustsmooth.report.comparable import differing, every_setting
from robustsmooth.report.evaluations import Attack, Certification, Measurement, Withstood
from robustsmooth.report.facts import OF_AN_ATTACK
from robustsmooth.report.images import ImageSet
from robustsmooth.report.labels import MOST_WORDS
from robustsmooth.report.networks import source_of

Evaluation: TypeAlias = Attack | Certification | Measurement | Withstood

STATED = ("epsilon", "num_noise", "attack.epsilon", "attack.num_noise")
"""Settings that are in each title of an attack, as its log states them."""
OF_ATTACKS = ("attack.", "measure.attack.")
"""How the names of an attack's settings begin."""
OF_RUNS = ("seed", "device")
"""Facts that may tell evaluations with equal settings apart."""


def distinct_titles(
    titles: Sequence[str],
    groups: Sequence[Sequence[Evaluation]],
    homes: Sequence[Collection[Hashable]],
    images: bool = True,
) -> list[str]:
    """Titles that say in what evaluations with one title differ; no two in one home share a title.

    All with one title get the source of a transfer, and the settings of their attack, in which any with one
    budget differ. If several still share one in a home, all with it get any settings in which these differ,
    then the facts `OF_RUNS`. Those with one title on several image sets name these. Numbers tell exact
    copies apart.

    Args:
        titles: One for each group.
        groups: The `repetitions`: seeds of one attack have one title.
        homes: Where each group is, each once, such as the rows of a table.
        images: Whether to name image sets; False where the homes do.
    """
    settings = [
        {name: "" if value is None else str(value) for name, value in every_setting(group[0].run).items()}
        for group in groups
    ]
    of_attacks = [
        {name: own[name] for name in own if _is_of_attack(name)} | {"source": source}
        for own, source in zip(settings, _sources(groups), strict=True)
    ]
    budgets = [[getattr(group[0], "epsilon", None)] for group in groups]
    told = _with_differences(titles, of_attacks, budgets)
    every = {name for own in settings for name in own}
    told = _with_differences(told, [{name: own.get(name, "") for name in every} for own in settings], homes)
    of_runs = [{name: _of_each(group, name) for name in OF_RUNS} for group in groups]
    told = _with_differences(told, of_runs, homes)
    if images:
        told = with_images(told, [group[0] for group in groups])
    return _numbered(told, homes)


def _is_of_attack(name: str) -> bool:
    """Whether a setting, or a fact, is one of an attack and may change its results."""
    return name in OF_AN_ATTACK or name.startswith(OF_ATTACKS)


def _sources(groups: Sequence[Sequence[Evaluation]]) -> list[str]:
    """The sources of transfers by their shortest names that tell them apart; empty without a source."""
    *shorter, values = zip(*map(_names_of_source, groups), strict=True) if groups else [()]
    for names in shorter:
        if len({*names}) == len({*values}) == len({*zip(names, values, strict=True)}):
            return [*names]
    return [*values]


def _names_of_source(group: Sequence[Evaluation]) -> tuple[str, str, str, str]:
    """The source's method, that with its noise, its folders for all seeds, its settings; or empty texts."""
    run, folders = group[0].run, _of_each(group, "source")
    source = source_of(run.path) if run.config else None
    if source is None:  # a foreign log, or no transfer
        return folders, folders, folders, folders
    method = str(source.facts.get("method", folders))
    with_level = f"{method} {source.facts.get('train_sigma', '')}".strip()
    return method, with_level, folders, str(source.settings)


def _of_each(group: Sequence[Evaluation], name: str) -> str:
    """A fact of the members of a group, such as the sources of transferred attacks; empty if unknown."""
    values = [one.run.facts.get(name) for one in group]
    return ", ".join(sorted({str(value) for value in values if value is not None}))


def _with_differences(
    titles: Sequence[str], known: Sequence[Mapping[str, str]], homes: Sequence[Collection[Hashable]]
) -> list[str]:
    """The titles; all with one get what is known under the names in which those in one home differ.

    What is not known is no difference; an empty text is one, and adds no word.
    """
    alike: dict[tuple[str, Hashable], list[Mapping[str, str]]] = {}
    for title, own, places in zip(titles, known, homes, strict=True):
        for home in places:
            alike.setdefault((title, home), []).append(own)
    names: dict[str, set[str]] = {title: set() for title in titles}
    for (title, _), several in alike.items():
        texts: dict[str, set[str]] = {}
        for name, text in (item for own in several for item in own.items()):
            texts.setdefault(name, set()).add(text)
        unlike = [{name: own[name] for name in own if len(texts[name]) > 1} for own in several]
        names[title].update(name for name in differing(unlike) if name not in STATED)
    return [
        " ".join([title, *(_word(name, own[name], known) for name in sorted(names[title]) if own.get(name))])
        for title, own in zip(titles, known, strict=True)
    ]


def _word(name: str, text: str, known: Sequence[Mapping[str, str]]) -> str:
    """A setting in a title; the number of its text among all that are too long for one."""
    if len(text) <= MOST_WORDS:
        return f"{name}={text}"
    long = sorted({own[name] for own in known if len(own.get(name, "")) > MOST_WORDS})
    return f"{name} #{long.index(text) + 1}"


def with_images(titles: Sequence[str], evaluations: Sequence[Evaluation]) -> list[str]:
    """The titles; those that evaluations on several image sets share name these."""
    sets: dict[str, set[ImageSet]] = {}
    for title, one in zip(titles, evaluations, strict=True):
        sets.setdefault(title, set()).add(one.image_set)
    return [
        title if len(sets[title]) == 1 else f"{title} on image set {one.image_set.at} ({one.images})"
        for title, one in zip(titles, evaluations, strict=True)
    ]


def _numbered(titles: Sequence[str], homes: Sequence[Collection[Hashable]]) -> list[str]:
    """The titles, with numbers where several groups have one in a home."""
    alike = Counter((home, title) for title, places in zip(titles, homes, strict=True) for home in places)
    taken, found = {*alike}, []
    for title, places in zip(titles, homes, strict=True):
        if any(alike[home, title] > 1 for home in places):
            ends = (f"{title} ({number})" for number in count(1))
            title = next(end for end in ends if not any((home, end) in taken for home in places))
            taken |= {(home, title) for home in places}
        found.append(title)
    return found

"""Which runs may be compared: those about the same images, and repetitions with other seeds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np

from robustsmooth.report.evaluations import Attack, Certification, Measurement, Training, Withstood
from robustsmooth.report.facts import USUAL_NOISE, mapping
from robustsmooth.report.images import Data, ImageSet
from robustsmooth.report.networks import settings_of, signature, source_of
from robustsmooth.report.runs import Run
from robustsmooth.statistics import Guarantee

Each = TypeVar("Each", Certification, Withstood)
Repeated = TypeVar("Repeated", bound=Certification | Attack | Withstood | Measurement | Training)


def smoothed_classifier(run: Run) -> tuple[str, Any, str]:
    """What is certified: a network, the level of its noise, and the noise; Gaussian if that is not known."""
    facts = run.facts
    return str(facts["classifier"]), facts.get("sigma"), str(facts.get("smoothing", USUAL_NOISE))


def is_certified(attack: Attack | Withstood, certification: Certification) -> bool:
    """Whether the attacked smoothed classifier is the certified one, on images of the same data."""
    return (
        attack.of_smoothed
        and smoothed_classifier(attack.run) == smoothed_classifier(certification.run)
        and attack.image_set.data == certification.image_set.data
    )


def by_data(certifications: Iterable[Certification]) -> dict[str, list[Certification]]:
    """Certifications of the same data set and split, whose images do not contradict each other.

    Data sets with the same name but other images (such as two folders) become separate, numbered groups.
    """
    groups: dict[Data, list[Certification]] = {}
    for certification in certifications:
        groups.setdefault(certification.image_set.data, []).append(certification)
    names = Counter(data.name for data in groups)
    return {
        data.name if names[data.name] == 1 else f"{data.name}, images {data.part + 1}": members
        for data, members in sorted(groups.items(), key=lambda item: [*names].index(item[0].name))
    }


def usual(certifications: Iterable[Certification]) -> list[Certification]:
    """Those with the usual guarantee, l2 certificates."""
    return [certification for certification in certifications if certification.guarantee.usual]


L2 = (Guarantee(), Guarantee(statement="at-radius"), Guarantee(statement="at-radii"))
"""Certificates of the prediction under l2 perturbations, for all radii and for given ones."""


def l2_certified(certifications: Iterable[Certification]) -> list[Certification]:
    """Those with l2 certificates, also at given radii: these have certified accuracies, but no ACR."""
    return [certification for certification in certifications if certification.guarantee in L2]


FIXED_VOTES = ("Cohen", "cohen", "given_class", None)
"""Certificates with a fixed number of votes for each image; None for a foreign log."""


class Fair(NamedTuple):
    """What certifications have in common that may be compared; None where it is not known."""

    data: str
    n: Any
    alpha: Any
    procedure: str

    @property
    def facts(self) -> dict[str, Any]:
        """For the rows of a table."""
        return {"data_set": self.data, "n": self.n, "alpha": self.alpha, "procedure": self.procedure}


def fair(certification: Certification, data: str) -> Fair:
    """The group of a certification: with another n, alpha or procedure one network has other radii.

    Certificates at given radii are comparable if these are the same.
    """
    facts = certification.run.facts
    name = str(facts.get("certificate"))
    if certification.guarantee.at_some_radii:
        asked = mapping(certification.run.config.get("certificate"))
        radii = asked.get("radii", asked.get("radius"))
        listed = "given radii" if radii is None else f"r={', '.join(f'{r:g}' for r in np.atleast_1d(radii))}"
        name = f"{facts.get('certificate', 'certified')} at {listed}"
    elif facts.get("certificate") in FIXED_VOTES:
        name = "Cohen, randomised" if facts.get("randomized") else "Cohen"
    return Fair(data, facts.get("n"), facts.get("alpha"), name)


def fair_groups(certifications: Iterable[Certification]) -> dict[Fair, list[Certification]]:
    """Groups of comparable l2 certificates: with the same images, number of votes n, alpha and procedure."""
    groups: dict[Fair, list[Certification]] = {}
    for data, members in by_data(l2_certified(certifications)).items():
        for member in members:
            groups.setdefault(fair(member, data), []).append(member)
    return groups


def on_the_same_images(members: Iterable[Certification]) -> list[list[Certification]]:
    """Groups of exactly the same images: the best of a few images is not the best of all.

    The first group has the most members; of equal ones, the most images.
    """
    groups: dict[ImageSet, list[Certification]] = {}
    for member in members:
        groups.setdefault(member.image_set, []).append(member)
    return sorted(groups.values(), key=lambda group: (-len(group), -group[0].images))


def more_complete(certifications: Iterable[Certification]) -> dict[Certification, Certification]:
    """Finished certifications that lack images, each with the largest comparable one that has all of theirs.

    A certification whose settings ask for some of the images lacks none of the others: it is compared with
    those that ask for the same ones.
    """
    found: dict[Certification, Certification] = {}
    for members in fair_groups(certifications).values():
        groups: dict[tuple[ImageSet, Any], list[Certification]] = {}
        for member in members:
            asked = member.run.facts.get("images")
            groups.setdefault((member.image_set, asked and str(asked)), []).append(member)
        largest = sorted(groups.items(), key=lambda item: -item[1][0].images)
        for (_, asked), fewer in largest:
            for (_, theirs), more in largest:
                if asked in (None, theirs) and _is_part(fewer[0], more[0]):
                    found |= {item: more[0] for item in fewer if item.finished}
                    break
    return found


def _is_part(first: Certification, second: Certification) -> bool:
    """Whether the images of the first one are some of those of the second one, but not all."""
    return first.images < second.images and bool(np.isin(first.indices, second.indices).all())


def incomplete(certifications: Iterable[Certification]) -> list[str]:
    """Messages about certifications that lack images of a comparable one."""
    groups: dict[tuple[ImageSet, Certification], list[Certification]] = {}
    for item, more in more_complete(certifications).items():
        groups.setdefault((item.image_set, more), []).append(item)
    return [
        f"{alike[0].run.label}{f' and {len(alike) - 1} others' if len(alike) > 1 else ''}: incomplete, with "
        f"{alike[0].images} of the {more.images} images of {more.run.label}; if fewer were asked for, say so "
        "beside the path, as in runs={path: ..., images: every 20}"
        for (_, more), alike in groups.items()
    ]


def among(certification: Certification, group: Fair) -> str:
    """A table marks the best of the rows with the same text: of one group, on the same images."""
    return f"{group} {certification.image_set}"


def by_guarantee(certifications: Iterable[Certification]) -> dict[Guarantee, list[Certification]]:
    """Groups of certifications with the same guarantee, l2 certificates first."""
    groups: dict[Guarantee, list[Certification]] = {}
    for certification in certifications:
        groups.setdefault(certification.guarantee, []).append(certification)
    return dict(sorted(groups.items(), key=lambda item: (not item[0].usual, item[0])))


def by_method(members: Iterable[Each]) -> dict[str, list[Each]]:
    """Groups by method, or by row of an experiment's table."""
    groups: dict[str, list[Each]] = {}
    for member in members:
        groups.setdefault(str(member.run.facts.get("method", "all")), []).append(member)
    return groups


def repetitions(members: Iterable[Repeated], votes: bool = True) -> list[list[Repeated]]:
    """Groups of runs that differ only in the seed, in the order of their first members.

    The members of a group are networks trained with different seeds and evaluated on the same images. Several
    evaluations of one network are no repetitions, since they say nothing about other trainings; neither is an
    evaluation that is not finished, whose mean is one over other images, or a log whose seed is not known.
    Our runs are compared by all their settings, foreign logs by their facts. Ensembles with a member in
    common are not independent, and no repetitions either.

    Args:
        members: Evaluations or trainings.
        votes: Whether members of a group have the same number of votes n. If not, for results restated at one
            n, groups are as with it wherever a seed is there more than once.
    """
    apart = []
    for group in _alike(members, votes):
        seeds = {one.run.training_seed for one in group} - {None}
        if len(seeds) == len(group) and not _shared(group):
            apart.append(group)
        else:
            apart += [[one] for one in group] if votes else repetitions(group)
    return apart


def doubled_seeds(members: Iterable[Repeated]) -> list[str]:
    """Messages about runs that are no repetitions, since a seed or a network is there more than once."""
    messages = []
    for group in _alike(members):
        counts = Counter(str(one.run.training_seed) for one in group)
        doubled = [seed for seed, count in counts.items() if count > 1]
        why = f"seed {', '.join(doubled)} is there more than once among" if doubled else ""
        if not doubled and _shared(group):
            why = "some networks are parts of several of"
        if why and len(counts) > 1:
            family, labels = group[0].run.facts["family"], ", ".join(one.run.label for one in group)
            messages.append(f"no mean over the seeds of {family}: {why} {labels}; leave the others out")
    return list(dict.fromkeys(messages))


def _shared(group: Sequence[Repeated]) -> bool:
    """Whether some of the runs share a network, such as a member of two ensembles.

    What all of them share is a setting of theirs, such as one denoiser before unlike classifiers.
    """
    networks = [one.run.network for one in group if one.run.network]
    kinds = [[one.parts for one in networks], [one.denoisers for one in networks]]
    unlike = [parts for parts in kinds if len({*parts}) > 1]
    overlap = any(sum(map(len, parts)) > len(frozenset().union(*parts)) for parts in unlike)
    return len(networks) > 1 and (overlap or not unlike)


def unlike_seeds(members: Iterable[Certification | Attack | Measurement]) -> list[str]:
    """Messages about seeds of a method that were evaluated with other settings, or on other images."""
    methods: dict[tuple[Any, ...], dict[Any, list[Run]]] = {}
    for item in members:
        method = (*smoothed_classifier(item.run)[1:], item.image_set.data, *_measured(item))
        groups = methods.setdefault((item.run.facts["family"], *method), {})
        groups.setdefault((item.image_set, _settings(item)), []).append(item.run)
    messages = []
    for (family, *_), groups in methods.items():
        (images, _), most = max(groups.items(), key=lambda group: len(group[1]))
        seeds = {str(run.training_seed) for run in most}
        for (other, _), runs in groups.items():
            names = differing([every_setting(most[0]), every_setting(runs[0])])
            names += ["images"] if other != images else []
            if names and seeds.isdisjoint(str(run.training_seed) for run in runs):
                messages.append(
                    f"no mean over all seeds of {family}: {', '.join(run.label for run in runs)} evaluated "
                    f"with other settings than {most[0].label} ({', '.join(names)})"
                )
    return list(dict.fromkeys(messages))


def _measured(item: Certification | Attack | Measurement) -> tuple[Any, ...]:
    """What of a network was measured: with a guarantee, under an attack, or a kind of log."""
    if isinstance(item, Certification):
        return (item.guarantee,)
    if isinstance(item, Measurement):
        return item.kind, item.run.facts.get("attack")
    return item.run.facts.get("attack"), item.run.facts.get("target"), str(item.settings)


def differing(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of settings in which runs differ; a fact from the config is named once."""
    every = {name for settings in told for name in settings}
    names = sorted(name for name in every if len({str(settings.get(name)) for settings in told}) > 1)
    return [name for name in names if "." not in name or name.rpartition(".")[2] not in names]


def every_setting(run: Run) -> dict[str, Any]:
    """The settings of a run by their names: its facts, and those of its config, except for seeds."""
    return {**_told(run), **(settings_of(run.path) if run.config else {})}


def _alike(members: Iterable[Repeated], votes: bool = True) -> list[list[Repeated]]:
    """Groups with equal settings, except for seeds, and the same images; see `_settings`."""
    groups: dict[tuple[Any, ...], list[Repeated]] = {}
    for member in members:
        groups.setdefault((_settings(member, votes), _images(member)), []).append(member)
    return list(groups.values())


def _images(member: Certification | Attack | Withstood | Measurement | Training) -> ImageSet | None:
    """The same for the same images; None for a training."""
    return None if isinstance(member, Training) else member.image_set


def names_of(group: Sequence[Certification]) -> list[str]:
    """What a method may be called: its label, that without the seed, its row, its method, in this order.

    At last those of its seeds, with their numbers of votes n, if it has several.
    """
    facts, label = group[0].run.facts, group_name(group)
    names = [label, *(str(facts.get(kind) or label) for kind in ("family", "name", "method"))]
    return names + [_without_seed(one.run) for one in group if len(group) > 1]


def of_one_method(
    first: Sequence[Certification], second: Sequence[Certification], votes: bool = True
) -> bool:
    """Whether two groups differ in nothing but images and known seeds.

    Logs whose seeds are not known must be of one classifier. With other settings, such as those of an
    ensemble or a denoiser, one network gives another method.

    Args:
        first: A group of `repetitions`.
        second: Another one.
        votes: Whether another number of votes n makes another method.
    """
    if _settings(first[0], votes) != _settings(second[0], votes):
        return False
    known = first[0].run.training_seed is not None
    return known or smoothed_classifier(first[0].run) == smoothed_classifier(second[0].run)


def group_name(group: Sequence[Certification | Attack | Withstood | Measurement | Training]) -> str:
    """The label of runs that differ only in the seed: the first one's without the seed.

    Also without the number of votes n, if they differ in it.
    """
    if len(group) == 1:
        return group[0].run.label
    name = _without_seed(group[0].run)
    if len({one.run.facts.get("n") for one in group}) == 1:
        return name
    return " ".join(word for word in name.split(" ") if not word.startswith("n="))


def line_name(group: Sequence[Certification | Attack | Withstood | Measurement | Training]) -> str:
    """The label of runs that differ only in the seed, and whether given radii alone were certified."""
    guarantee = getattr(group[0], "guarantee", None)
    asked = f" ({guarantee.statement})" if guarantee and guarantee.at_some_radii else ""
    return f"{group_name(group)}{asked}"


def _without_seed(run: Run) -> str:
    """The label of a run, with that of all repetitions in place of its classifier's."""
    return run.label.replace(str(run.facts["classifier"]), str(run.facts["family"]), 1)


def _settings(
    member: Certification | Attack | Withstood | Measurement | Training, votes: bool = True
) -> tuple[Any, ...]:
    """All settings except for seeds, but whether there is one; of a certification, its guarantee too.

    Of a training that is not complete, also its folder: it has no repetition. Without `votes`, not the number
    of votes n.
    """
    if isinstance(member, Training):
        return (*_settings_of_run(member.run), None if member.complete else member.run.path)
    own = [(key, str(_number(value))) for key, value in getattr(member, "settings", {}).items()]
    return (*_settings_of_run(member.run, votes), *own, getattr(member, "guarantee", None))


@lru_cache(maxsize=20_000)
def _settings_of_run(run: Run, votes: bool = True) -> tuple[Any, ...]:
    told, config = _told(run), signature(run.path) if run.config else ""
    if not votes:
        told.pop("n", None)
        known = settings_of(run.path).items() if run.config else ()
        config = str([item for item in known if item[0] != "certificate.n"])
    return (*told.items(), config, run.training_seed is None, _attacks_itself(run))


def _attacks_itself(run: Run) -> bool:
    """Whether the source of a transfer and the attacked network have a training in common."""
    source = source_of(run.path) if run.config else None
    return source is not None and run.network is not None and bool(source.parts & run.network.parts)


def _told(run: Run) -> dict[str, str]:
    """The facts that are settings; the images are compared themselves, and any device may compute them.

    A foreign log's name counts too, since it is all that is known of its network; if it has neither a name
    nor a method, its family, which is then that of its file alone.
    """
    left_out = ["seed", "train_seed", "classifier", "source", "images", "device"]
    left_out += ["name"] if run.config else []
    left_out += ["family"] if run.config or has_method(run) else []
    return {key: str(_number(fact)) for key, fact in sorted(run.facts.items()) if key not in left_out}


def has_method(run: Run) -> bool:
    """Whether the facts of a foreign log say which classifier it is of, up to the seed."""
    return any(run.facts.get(name) is not None for name in ("name", "method"))


def _number(value: Any) -> Any:
    """100000 and 100000.0 are the same setting."""
    return int(value) if isinstance(value, float) and value.is_integer() else value

"""Which network a run is about: that of one training, an ensemble of several, or one behind a denoiser.

Evaluations with equal identities are of one network, however their commands named its files. Networks with
equal settings are repetitions with other seeds, if they are independent.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from robustsmooth.places import PLACES
from robustsmooth.report.facts import (
    TRAINING_FACTS,
    cached_config,
    facts_of,
    flatten,
    forget_facts,
    mapping,
    network_in_run,
    places_of,
    training_folder,
)

OF_TRAININGS = ("method", "model", "checkpoint", "train_sigma", *TRAINING_FACTS.values())
"""Facts about a training that its evaluations have too."""
NO_PARTS = ("checkpoint", "new_head", "channels_last", "trust")
"""Keys of a model's config that are no parts of its network."""
ADDED = ("denoiser", "denoiser_checkpoint")
"""Parts that an evaluation may add to the model of a training."""
NO_SETTINGS = {
    "seed", "trust", "run_dir", "root", "num_workers", "logger", "callbacks", "monitor", "save_every_steps",
    "evaluate", "devices", "accelerator", "strategy", "num_nodes", "log_every_n_steps", "enable_progress_bar",
    "enable_model_summary", "copies_per_pass",
}  # fmt: skip
"""Keys of a config that a repetition with another seed may change too, at any level."""
NO_SETTINGS_OF_EVALUATIONS = {*NO_SETTINGS, "batch_size", "subset"}
"""The same for an evaluation: no result depends on a batch, and the images themselves are compared."""
OF_COMMANDS = {
    "attack", "batch_size", "certificate", "checkpoint", "compile", "data", "epsilons", "loss", "measure",
    "method", "mode", "model", "num_noises", "numerics", "pictures", "prediction", "radii", "row", "save",
    "smoothing", "source", "target", "trainer",
}  # fmt: skip
"""Keys of the configs that change the results."""


@dataclass(frozen=True)
class Network:
    """A network that was trained or evaluated.

    Attributes:
        identity: The same for one network.
        settings: The settings of its trainings and of what was changed after them, without seeds; for a file
            that no training of ours wrote, its place.
        parts: The classifiers in it, by the folders or files of their trainings.
        denoisers: The denoisers in it, in the same way.
        name: The name of its run folder or file, or of several.
        facts: What is known about its training, or what its trainings have in common. ``seed`` has the seeds
            of all its parts, such as ``0+1``, as far as they are known.
        changed: What was changed after its training, such as ``ensemble of 2``; empty if nothing.
    """

    identity: str
    settings: Any
    parts: frozenset[Path]
    name: str
    denoisers: frozenset[Path] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)
    changed: str = ""


@lru_cache(maxsize=8192)
def network_of(folder: Path) -> Network | None:
    """The network that a run trained or evaluated; None if its config names none."""
    folder = folder.absolute()
    if facts_of(folder)[1] == folder:
        return _of_training(folder, "last", ())
    return network_asked(cached_config(folder), folder)


def network_asked(config: Mapping[str, Any], used_by: Path, chain: tuple[Path, ...] = ()) -> Network | None:
    """The network that a config asks for.

    Args:
        config: With ``checkpoint``, and perhaps ``model``: that of an evaluation, or of the source of a
            transferred attack.
        used_by: The run folder of that config.
        chain: The folders whose configs led here; none is opened twice.
    """
    if not isinstance(checkpoint := config.get("checkpoint"), str):
        return None
    model = mapping(config.get("model"))
    network, members = _trained(checkpoint, used_by, chain), model.get("members")
    if members:
        places = members if isinstance(members, list) else [members]
        others = [_trained(str(place), used_by, chain) for place in places]
        return _ensemble([network, *others], model.get("consensus"))
    changed = _changed_parts(model, training_folder(checkpoint, used_by))
    return _with_parts(network, changed, used_by, chain) if changed else network


def source_of(folder: Path) -> Network | None:
    """The network from which an attack is transferred; None without one."""
    config = cached_config(folder)
    asked = config.get("source") or mapping(config.get("measure")).get("source")
    return network_asked(mapping(asked), folder)


def facts_of_networks(folder: Path) -> dict[str, Any]:
    """What an evaluation's network and the source of a transfer add to its facts; None takes a fact away."""
    network, source = network_of(folder), source_of(folder)
    found = {"source": source.name} if source else {}
    if network is None or not network.changed:
        return found
    trained = {name: network.facts.get(name) for name in OF_TRAININGS}
    trained |= {"checkpoint": None} if trained["checkpoint"] == "last" else {}
    return found | trained | {"train_seed": network.facts.get("seed")}


def _trained(checkpoint: str, used_by: Path, chain: tuple[Path, ...]) -> Network:
    """The network of a training or an export, or of a file from elsewhere."""
    folder = training_folder(checkpoint, used_by)
    if folder is None or folder in chain:
        return _from_elsewhere(checkpoint, used_by)
    if facts_of(folder)[1] == folder:
        return _of_training(folder, network_in_run(checkpoint, folder), chain)
    home, places = folder.resolve(), [place.resolve() for place in places_of(checkpoint, used_by)]
    file = next((place for place in places if home in place.parents), home / "model.safetensors")
    own = _of_file(file, folder.name)
    exported = network_asked(cached_config(folder), folder, (*chain, folder))
    return replace(exported, identity=own.identity, name=own.name) if exported else own


def _of_training(folder: Path, name: str, chain: tuple[Path, ...]) -> Network:
    home = folder.resolve()
    return Network(
        identity=f"{home} {name}",
        settings=_settings_of_training(folder, name, chain),
        parts=frozenset({home}),
        name=folder.name if name == "last" else f"{folder.name} {name}",
        facts={**facts_of(folder)[0], "checkpoint": name},
    )


def _settings_of_training(folder: Path, name: str, chain: tuple[Path, ...]) -> list[Any]:
    """The settings of a training, and which of its networks is meant; the best one depends on a metric."""
    config = cached_config(folder)
    chosen = [name, str(config.get("monitor"))] if name == "best" else [name]
    return [*chosen, _settings(_read(config), (*chain, folder))]


def _from_elsewhere(checkpoint: str, used_by: Path) -> Network:
    """A file without its training, or a published network such as ``published:...``."""
    if re.match("[a-z]+:", checkpoint):
        return _of_file(Path(checkpoint), checkpoint.partition(":")[2])
    places = places_of(checkpoint, used_by)
    file = next((place for place in places if place.exists()), places[-1]).resolve()
    return _of_file(file, file.name)


def _of_file(place: Path, name: str) -> Network:
    return Network(str(place), str(place), frozenset({place}), name)


def _ensemble(members: Sequence[Network], consensus: Any) -> Network:
    """Several networks, whose order counts only for which of them decide alone."""
    first = consensus if isinstance(consensus, int) else len(members)
    groups = [members[:first], members[first:]]
    words = f"ensemble of {len(members)}" + ("" if consensus is None else f" consensus={consensus}")
    ordered = sorted(members, key=_in_names)
    counts = Counter(str(one.facts.get("method", one.name)) for one in ordered)
    named = [name if count in (1, len(members)) else f"{count} {name}" for name, count in counts.items()]
    return Network(
        identity=json.dumps([sorted(one.identity for one in group) for group in groups]),
        settings=["ensemble", *(sorted((one.settings for one in group), key=str) for group in groups)],
        parts=frozenset[Path]().union(*(one.parts for one in members)),
        denoisers=frozenset[Path]().union(*(one.denoisers for one in members)),
        name="+".join(one.name for one in members),
        facts=_common([one.facts for one in members]) | _facts_of_all("+".join(named), words, ordered),
        changed=words,
    )


def _in_names(member: Network) -> tuple[bool, str, str]:
    """A sorting key, so that an ensemble has one name in any order; files from elsewhere are last."""
    return "method" not in member.facts, str(member.settings), str(member.facts.get("seed"))


def _changed_parts(model: Mapping[str, Any], trained: Path | None) -> dict[str, Any]:
    """The parts of an evaluation's model that are not those of the training; None for one taken away.

    The checkpoint of a training has its normalisation, and the weights of a denoiser of its own. The model of
    a file from elsewhere is all of its network.
    """
    then = mapping(cached_config(trained).get("model")) if trained else {}
    counted = {*model, *then} - {*NO_PARTS} if "_target_" in model else {*model} - {*NO_PARTS}
    if trained:
        counted -= {"normalization", "denoiser_checkpoint"} if then.get("denoiser") else {"normalization"}
    if trained and not then:  # an old training that does not name its model
        counted = {*ADDED}
    given = {key: model.get(key) for key in sorted(counted, key=str)}
    if "_target_" not in model:  # what it leaves open is as in the training
        given = {key: value for key, value in given.items() if value is not None}
    return {key: value for key, value in given.items() if value != then.get(key)}


def _with_parts(
    network: Network, changed: Mapping[str, Any], used_by: Path, chain: tuple[Path, ...]
) -> Network:
    """A network with other parts than after its training."""
    place = changed.get("denoiser_checkpoint")
    denoisers = [_trained(place, used_by, chain)] if isinstance(place, str) else []
    others = {key: value for key, value in changed.items() if key != "denoiser_checkpoint"}
    words = ["denoised"] if others.get("denoiser") is not None else []
    other = [str(key).strip("_") for key in others if key != "denoiser" and others[key] is not None]
    less = [str(key) for key in others if others[key] is None]
    if network.facts and other:
        words.append(f"with another {' and '.join(other)}")
    if network.facts and less:
        words.append(f"without {' and '.join(less)}")
    parts = [network, *denoisers]
    method = str(network.facts.get("method", network.name if words else ""))
    by = [f"by {one.name}" for one in denoisers]
    return Network(
        identity=json.dumps([[one.identity for one in parts], others], default=str),
        settings=[[one.settings for one in parts], _settings(others, (*chain, used_by))],
        parts=network.parts,
        denoisers=network.denoisers.union(*(one.parts for one in denoisers)),
        name=" ".join([network.name, *words[:1], *by, *words[1:]]),
        facts=dict(network.facts) | _facts_of_all(method, " ".join(words), parts),
        changed=" ".join([network.changed, *words]).strip(),
    )


def _common(known: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts that all networks share of which any are known."""
    trainings = [facts for facts in known if facts]
    return {
        key: value
        for key, value in (trainings[0] if trainings else {}).items()
        if all(facts.get(key) == value for facts in trainings)
    }


def _facts_of_all(method: str, words: str, parts: Sequence[Network]) -> dict[str, Any]:
    seeds = [str(one.facts["seed"]) for one in parts if one.facts.get("seed") is not None]
    known = {"seed": "+".join(seeds) or None}
    return known | ({"method": f"{method} {words}".strip()} if method else {})


@lru_cache(maxsize=8192)
def signature(folder: Path) -> str:
    """All settings of a run and of the trainings that it starts from, without seeds and places, as text.

    Runs with the same signature are repetitions with other seeds.
    """
    trains = facts_of(folder)[1] == folder
    left_out = NO_SETTINGS if trains else NO_SETTINGS_OF_EVALUATIONS
    return json.dumps(_settings(_read(cached_config(folder)), (folder,), left_out), default=str)


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings in the `signature` of a run, by their full names such as ``certificate.n0``."""
    return dict(flatten(json.loads(signature(folder))))


def _read(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys of a config that commands use; an experiment stores values of all its rows with them."""
    return {key: value for key, value in config.items() if key in OF_COMMANDS}


def _settings(tree: Any, chain: tuple[Path, ...], left_out: Collection[str] = NO_SETTINGS) -> Any:
    if isinstance(tree, list):
        return [_settings(value, chain, left_out) for value in tree]
    if not isinstance(tree, Mapping):
        return tree
    kept = {str(key): value for key, value in tree.items() if str(key) not in left_out}
    found: dict[str, Any] = {}
    if "_target_" not in kept and (network := network_asked(kept, chain[-1], chain)):
        found = {"network": network.settings}
        kept = {key: value for key, value in kept.items() if key not in ("checkpoint", "model")}
    return found | {
        key: _origin(value, chain) if key in PLACES else _settings(value, chain, left_out)
        for key, value in sorted(kept.items())
    }


def _origin(place: Any, chain: tuple[Path, ...]) -> Any:
    """Instead of the place of a checkpoint, or of votes: the settings of that run, without its seed."""
    folder = training_folder(place, chain[-1]) if isinstance(place, str) else None
    if folder is None or folder in chain:
        return place if folder is None else None
    return _settings_of_training(folder, network_in_run(place, folder), chain)


def forget() -> None:
    """Forget what was read from run folders, which may have changed since, so that it is read again."""
    for reading in (network_of, signature):
        reading.cache_clear()
    forget_facts()

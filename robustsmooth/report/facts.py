"""The facts about a run, from its config, Hydra's record of the command line, and its settings.

Facts have short names (method, model, data, split, images, sigma, train_sigma, n, alpha, attack, seed...) and
plain values. An evaluation also has the facts of its training run. Files in a run folder may have any
content: what is not a mapping counts as empty, and what should be a number but is not is left out and
reported.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from robustsmooth.places import places_now

NUMBERS = {
    "sigma": "at least 0",
    "train_sigma": "at least 0",
    "n0": "at least 0",
    "n": "at least 1",
    "alpha": "in (0, 1)",
}
"""Facts that must be numbers, and which ones are allowed."""

USUAL_NOISE = "gaussian"
"""The fact ``smoothing`` of logs that do not state it."""

TRAINING_FACTS = {
    "attack": "train_attack",
    "epsilon": "train_epsilon",
    "steps": "train_steps",
    "copies": "copies",
}
"""Settings of a training's attack, by their names in its config, with their names as facts of evaluations."""

GROUPS = ("method", "model", "data", "certificate", "attack", "smoothing", "loss", "experiment")
OF_AN_ATTACK = ("attack", "epsilon", "norm", "steps", "num_noise", "loss")
OUR_FILES = (".ckpt", ".safetensors")
KNOWN = (
    *NUMBERS, *GROUPS, *OF_AN_ATTACK, "name", "split", "images", "seed", "train_seed", "target", "mode",
    "source", "guarantee", "randomized", "device",
)  # fmt: skip
"""Names of facts that reports use; others only tell runs apart."""


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def read_mapping(path: Path, problems: list[str]) -> dict[str, Any]:
    """A YAML or JSON file as a mapping; empty if it is missing, or not readable (then a problem)."""
    if not path.exists():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, _YamlLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{path} is not readable: {(str(error).splitlines() or [type(error).__name__])[0]}")
        return {}
    if content is not None and not isinstance(content, dict):
        problems.append(f"{path} holds no mapping, but {str(content)[:40]!r}")
    return content if isinstance(content, dict) else {}


class _YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads ``1e-3`` as a number, as Hydra writes it."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)?(\.\d*)?([eE][-+]?\d+)$|^[-+]?\d[\d_]*\.\d*$|^[-+]?\.(inf|nan)$"),
    list("-+0123456789."),
)


def checked_numbers(facts: Mapping[str, Any], where: Path, problems: list[str]) -> dict[str, Any]:
    """The facts as plain values: numbers read from text, lists as text.

    Numbers that are not allowed are left out and reported.
    """
    wrong = wrong_numbers(facts)
    problems += [f"{where}: {fault}; it is left out" for fault in wrong.values()]
    return {name: _plain(name, value) for name, value in facts.items() if name not in wrong}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, list | Mapping):
        return json.dumps(value, default=str)
    return float(value) if name in NUMBERS and isinstance(value, str) else value


def wrong_numbers(facts: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the facts that must be numbers, by their names."""
    return {
        name: f"{name} must be {allowed}, got {facts[name]!r}"
        for name, allowed in NUMBERS.items()
        if facts.get(name) is not None and not _is_allowed(name, facts[name])
    }


def _is_allowed(name: str, value: Any) -> bool:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return False
    return 0 < number < 1 if name == "alpha" else (name == "n") <= number < math.inf


def config_of(folder: Path, problems: list[str] | None = None) -> dict[str, Any]:
    """The resolved config of a run folder."""
    return read_mapping(folder / ".hydra" / "config.yaml", [] if problems is None else problems)


@lru_cache(maxsize=8192)
def cached_config(folder: Path) -> Mapping[str, Any]:
    """The resolved config of a run folder, read once until `forget_facts`."""
    return config_of(folder)


@lru_cache(maxsize=8192)
def _hydra(folder: Path) -> Mapping[str, Any]:
    return mapping(read_mapping(folder / ".hydra" / "hydra.yaml", []).get("hydra"))


def overrides_of(folder: Path) -> list[str]:
    """The arguments of the command line of a run; none if unknown."""
    words = mapping(_hydra(folder).get("overrides")).get("task")
    return [str(word) for word in words] if isinstance(words, list) else []


def facts_of(folder: Path) -> tuple[dict[str, Any], Path | None]:
    """The facts of a run folder, and the folder of its training run."""
    facts, trained = _facts_of(folder.absolute())
    return dict(facts), trained


@lru_cache(maxsize=8192)
def _facts_of(folder: Path) -> tuple[Mapping[str, Any], Path | None]:
    config, hydra = cached_config(folder), _hydra(folder)
    choices = mapping(mapping(hydra.get("runtime")).get("choices"))
    facts: dict[str, Any] = {}
    trained: Path | None = folder if isinstance(config.get("method"), Mapping) else None
    if isinstance(checkpoint := config.get("checkpoint"), str):
        trained = training_folder(checkpoint, folder)
        if trained != folder:
            facts = _facts_of_evaluated(checkpoint, trained)
    chosen = {group: choices.get(group) for group in GROUPS}
    facts |= {group: name for group, name in chosen.items() if name not in (None, "none", "as_trained")}
    noise = str(mapping(config.get("smoothing")).get("_target_", "")).rpartition(".")[2]
    if (words := re.findall("[A-Z][a-z]+", noise.removesuffix("Noise"))) not in ([], ["No"]):
        facts.setdefault("smoothing", "_".join(words).lower())  # of a checkpoint that does not name its noise
    facts |= (
        _facts_of_training(config, facts)
        if trained == folder
        else _facts_of_evaluation(config, choices, folder)
    )
    facts |= {"seed": config["seed"]} if "seed" in config else {}
    method = mapping(config.get("method"))
    if method.get("sigma") is not None:
        facts["train_sigma"] = method["sigma"]
    for group, names in (
        ("smoothing", ("sigma",)),
        ("certificate", ("n0", "n", "alpha")),
        ("attack", ("norm", "steps", "epsilon", "num_noise")),
    ):
        settings = mapping(config.get(group))
        facts |= {name: settings[name] for name in names if settings.get(name) is not None}
    return facts, trained


def _facts_of_evaluated(checkpoint: str, trained: Path | None) -> dict[str, Any]:
    """What is known about the network that was evaluated."""
    facts: dict[str, Any] = {}
    exported = False
    if trained is not None:
        facts, its_own = facts_of(trained)
        exported, seed = its_own != trained, facts.pop("seed", None)
        facts |= {} if exported else {"train_seed": seed}
        for name in OF_AN_ATTACK:  # of the training
            facts.pop(name, None)
    name = network_in_run(checkpoint, trained)
    if name not in (("last", "model") if exported else ("last",)):
        facts["checkpoint"] = name
    return facts


def network_in_run(checkpoint: str, folder: Path | None) -> str:
    """The name of a checkpoint file without its ending; the last one of the folder of a training.

    The name of a folder may have a dot too. Without its training, other files are not known to be of one.
    """
    path = Path(checkpoint)
    is_file = path.suffix != "" and path.name != folder.name if folder else path.suffix in OUR_FILES
    return path.stem if is_file else "last"


def _facts_of_training(config: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    settings = {
        **mapping(config.get("attack")),
        "attack": facts.get("attack"),
        **mapping(config.get("method")),
    }
    found = {fact: settings[name] for name, fact in TRAINING_FACTS.items() if settings.get(name) is not None}
    # A row of an experiment's table is a variant of a method.
    return found | ({"method": config["row"]} if config.get("row") else {})


def _facts_of_evaluation(
    config: Mapping[str, Any], choices: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    facts = _facts_of_images(config)
    measure = mapping(config.get("measure"))
    if config.get("attack") or measure.get("attack"):
        facts["attack"] = choices.get("attack") or choices.get("attack@measure.attack") or folder.name
    elif measure:
        facts["attack"] = "none"
    return facts


def _facts_of_images(config: Mapping[str, Any]) -> dict[str, Any]:
    """Which images were asked for, from a config or from the settings of an evaluation."""
    subset = mapping(mapping(config.get("data")).get("subset"))
    facts = fact_of_split(subset.get("split"))
    words = [f"every {subset['every']}"] if subset.get("every") not in (None, 1) else []
    words += [f"at most {subset['max']}"] if subset.get("max") is not None else []
    indices = subset.get("indices")
    words += [] if indices is None else [f"{len(indices) if isinstance(indices, list) else indices} chosen"]
    return facts | ({"images": " ".join(words)} if words else {})


def fact_of_split(name: Any) -> dict[str, Any]:
    """The fact about a split; none for the test split, which is that of logs without this fact."""
    return {} if name in (None, "test") else {"split": "validation" if name == "val" else name}


def training_folder(checkpoint: str, used_by: Path) -> Path | None:
    """The run folder that a checkpoint (a run folder, or a file in it) belongs to, if it still exists.

    Args:
        checkpoint: As in a run's config: a relative path is meant from the directory of the run's command.
        used_by: The folder of that run.
    """
    for path in places_of(checkpoint, used_by):
        for folder in (path, path.parent, path.parent.parent):
            if (folder / ".hydra" / "config.yaml").exists():
                return folder.absolute()
    return None


def places_of(checkpoint: str, used_by: Path) -> list[Path]:
    """Where a checkpoint that a run's config names may be now; arguments as in `training_folder`."""
    started_in = mapping(_hydra(used_by).get("runtime")).get("cwd", ".")
    before = cached_config(used_by).get("run_dir", used_by)
    return places_now(checkpoint, str(started_in), str(before), used_by)


def settings_facts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The facts among the settings that an evaluation's rows depend on."""
    flat = {key.rpartition(".")[2]: value for key, value in flatten(settings)}
    names = ("sigma", "n0", "n", "alpha", "guarantee", "norm", "target", "device", "mode", "randomized")
    facts = {name: flat[name] for name in names if isinstance(flat.get(name), str | int | float)}
    facts |= _facts_of_images(settings)
    for group, name in (("target", "target"), ("procedure", "certificate")):
        if "name" in mapping(settings.get(group)):
            facts[name] = settings[group]["name"]
    return facts


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values at all levels with their full names, such as ``certificate.n0``."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def forget_facts() -> None:
    """Forget what was read from run folders, which may have changed since, so that it is read again."""
    for reading in (cached_config, _hydra, _facts_of):
        reading.cache_clear()

"""The facts about an experiment that ``docs/papers`` states, read from the configs that it composes."""

import functools
import itertools
import math
import shlex
import sys
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from robustsmooth.commands import conf_dir
from robustsmooth.models import NORMALIZATIONS
from tests import composing
from tests.test_rows import batches

PAPERS = Path(__file__).parents[1] / "docs" / "papers"
RECIPES = PAPERS / "recipes.yaml"
TEST_IMAGES = {"cifar10": 10000, "cifar100": 10000, "imagenet": 50000, "mini_imagenet50": 2500, "digits": 364}


def papers():
    """The data files of the papers, by name."""
    files = [path for path in PAPERS.glob("*.yaml") if path != RECIPES]
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}


@functools.cache
def recipes():
    """What rows with certain facts have in all experiments."""
    return yaml.safe_load(RECIPES.read_text(encoding="utf-8"))


def experiments():
    """What the papers state about each experiment, by its name."""
    return {name: item for paper in papers().values() for name, item in paper["experiments"].items()}


@functools.cache
def composed(command, *overrides):
    """A command's whole config, read-only."""
    return composing.composed(command, *overrides, whole=True)


def jobs(name, scale):
    """The jobs of each row of an experiment: lists of overrides, by the row's name (`all` without rows).

    In the order in which they run.
    """
    sweeper = composed("train", f"experiment={name}", f"scale={scale}").hydra.sweeper
    settings = {
        key: value
        for key, value in OmegaConf.to_container(sweeper, resolve=True).items()
        if key in ("params", "rows", "first")
    }
    first, rows = settings.pop("first", None) or [], settings.pop("rows", None)
    found = {}
    for row, overrides in (rows or {"all": {}}).items():
        if overrides is not None:
            grid = {**settings, "rows": {row: overrides}} if overrides else settings
            found[row] = [job for batch in batches(**grid) for job in batch]
    return dict(sorted(found.items(), key=lambda item: stage(first, item[0])))


def stage(first, row):
    """When a row runs, given `hydra.sweeper.first`: rows of the same stage run at once."""
    names = [[name for name in first if isinstance(name, str)], *(n for n in first if not isinstance(n, str))]
    return next((at for at, members in enumerate(names) if row in members), len(names))


def representatives(row):
    """The first job, and the jobs that differ from it in one override: enough to meet every value once."""
    first = row[0]
    return [
        job
        for job in row
        if len(job) != len(first) or sum(a != b for a, b in zip(job, first, strict=True)) < 2
    ]


def job_config(name, scale, job):
    """The config of one job: that of its choices, composed once, with the values of the job."""
    groups, values = choices_and_values(job)
    return _updated(_base(name, scale, *groups).copy(), values)


def choices_and_values(words):
    """The words that choose a file of a group, and the overrides of values."""
    groups, values = [], []
    for override in OverridesParser.create().parse_overrides(list(words)):
        if (conf_dir() / override.get_key_element().lstrip("+").partition("@")[0]).is_dir():
            groups.append(override.input_line)
        else:
            values.append(override)
    return groups, values


def _updated(cfg, values):
    OmegaConf.set_struct(cfg, True)  # a key that is not there is refused, as by the commands
    for override in values:
        key = override.get_key_element().lstrip("+")
        OmegaConf.update(cfg, key, override.value(), merge=True, force_add=override.is_add())
    return cfg


def folder(cfg):
    """The folder of a job inside the sweep's; `job_config` must have made its config last."""
    subdir = OmegaConf.to_container(HydraConfig.get(), resolve=False)["sweep"]["subdir"]
    with open_dict(cfg):
        cfg.folder = subdir
    return cfg.folder


@functools.lru_cache(maxsize=1)  # `${hydra:...}` refers to the last config
def _base(name, scale, *groups):
    """The config of a job's choices, without Hydra's part, which is large to copy."""
    cfg = composed("train", f"experiment={name}", f"scale={scale}", *groups)
    HydraConfig.instance().set_config(cfg)
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


def row_facts(name, scale, row):
    """All facts of a row: one value each, or the list of those that its jobs have."""
    merged = {"jobs": len(row)}
    of_jobs = [facts(job_config(name, scale, job)) for job in representatives(row)]
    for key in dict.fromkeys(key for found in of_jobs for key in found):
        values = list(dict.fromkeys(_frozen(found[key]) for found in of_jobs if key in found))
        merged[key] = values[0] if len(values) == 1 else values
    return merged


def _frozen(value):
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value


# ---------------------------------------------------------------------------- one job


def facts(cfg):
    """The facts of one job: its training, and `<evaluation>.<fact>` of everything that runs after it."""
    found = dict(training(cfg))
    for name, said in evaluations(cfg).items():
        found |= {f"{name}.{key}": value for key, value in evaluation(said, cfg).items()}
    return found


def evaluations(cfg):
    """The configs of what runs after a training, by name."""
    found = {}
    for name, line in (cfg.get("evaluate") or {}).items():
        if line is not None:
            command, *words = shlex.split(line)
            found[name] = _evaluation(command, *(word.replace("{run}", "run") for word in words))
    return found


@functools.cache
def _evaluation(command, *words):
    """As in `job_config`; of Hydra's part only the name of the command and its choices."""
    groups, values = choices_and_values(words)
    whole = composed(command, "checkpoint=run", *groups)
    cfg = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
    own = {"job": {"name": command}, "runtime": {"choices": dict(whole.hydra.runtime.choices)}}
    OmegaConf.update(cfg, "hydra", own, force_add=True)
    return _updated(cfg, values)


def training(cfg):
    """What is trained, and how."""
    method, choices = cfg.method, HydraConfig.get().runtime.choices
    yield "method", choices.method
    yield "data", choices.data
    yield "network", choices.model
    if cfg.model.network.get("depth") and "cifar_resnet" in choices.model:
        yield "network", f"cifar_resnet{cfg.model.network.depth}"
    yield "normalization", normalization(cfg.model.normalization)
    yield "validation_images", cfg.data.val_images
    yield "augmentation", augmentation(cfg.data.augmentation)
    yield "epochs", cfg.trainer.max_epochs
    yield "batch", cfg.data.batch_size
    yield "optimizer", method.optimizer._target_.rpartition(".")[2]
    yield "learning_rate", method.optimizer.lr
    yield "weight_decay", method.optimizer.get("weight_decay", 0.0)
    if method.optimizer.get("momentum") is not None:
        yield "momentum", method.optimizer.momentum
    yield "schedule", schedule(method.scheduler)
    yield "sigma", method.sigma
    for fact, key in METHOD_FACTS.items():
        value = OmegaConf.select(cfg, key)
        if value is not None:
            yield fact, value
    if method.get("discard_below") is not None:
        yield "given_voter", method.voter is not None
    if method.get("labeler") is not None:
        yield "extra_weight", method.extra_weight
    if (cfg.get("attack") or {}).get("_target_"):  # an experiment may hold settings for its other rows
        yield from attack(cfg.attack, trains=True)


METHOD_FACTS = {
    "shortcut": "model.network.shortcut",
    "nesterov": "method.optimizer.nesterov",
    "gradient_clip": "trainer.gradient_clip_val",
    "copies": "method.copies",
    "warmup_epochs": "method.warmup_epochs",
    "multi_noise": "method.multi_noise",
    "time_steps": "method.time_steps",
    "student": "method.student",
    "noisy_images": "method.noise_probability",
    "decay_biases": "method.decay_biases",
    "fidelity": "loss.fidelity",
    "penalty_weight": "loss.penalty_weight",
    "probes": "loss.num_probes",
    "probe_scaling": "loss.probe_scaling",
    "difference_step": "loss.difference_step",
    "statistics": "loss.statistics",
    "radius_weight": "loss.robust_weight",
    "inverse_temperature": "loss.inverse_temperature",
    "margin": "loss.margin",
    "threshold": "loss.threshold",
    "robust_weight": "method.robust_weight",
    "robust_weight_factor": "method.robust_weight_factor",
    "robust_weight_from_epoch": "method.robust_weight_epoch",
    "mapping_copies": "method.mapping_copies",
    "mapping_interval": "method.mapping_interval",
    "mapping_learning_rate": "method.mapping_optimizer.lr",
    "adversarial_weight": "method.adversarial_weight",
    "mixture": "method.mixture",
    "labels": "method.labels",
    "noise_weight_decay": "method.noise_weight_decay",
    "noise_rank": "model.noise_layers.weight.rank",
    "noise_granularity": "model.noise_layers.weight.granularity",
    "noise_scaling": "model.noise_layers.weight.scaling",
    "output_noise_rank": "model.noise_layers.output.rank",
    "output_noise_scaling": "model.noise_layers.output.scaling",
    "stability_weight": "loss.terms.stability.weight",
    "consistency_weight": "loss.terms.consistency.weight",
    "entropy_weight": "loss.terms.consistency.entropy_weight",
    "mix_weight": "method.mix_weight",
    "one_step": "method.one_step",
    "confidence_mask": "method.confidence_mask",
    "epsilon_factor": "method.epsilon_factor",
    "epsilon_factor_from_epoch": "method.epsilon_epoch",
    "discard_below": "method.discard_below",
    "discard_votes": "method.discard_votes",
    "reweight_every": "method.reweight_every",
    "reweight_votes": "method.reweight_votes",
    "share_floor": "method.share_floor",
    "bound_alpha": "method.alpha",
    "objective": "method.objective",
}
"""Facts that only some methods have, with their keys."""


def normalization(said):
    """The name of a normalisation."""
    if isinstance(said, str):
        return said
    values = OmegaConf.to_container(said, resolve=True)
    return next(name for name, known in NORMALIZATIONS.items() if known == values)


def augmentation(node):
    """An augmentation in words."""
    kind, mirror = node._target_.rpartition(".")[2], " and mirror" if node.flip else ""
    if kind == "CropAndFlip":
        return f"crop {node.padding}{mirror}"
    return f"{kind} {node.scale[0]:g} to {node.scale[1]:g}{mirror}"


def schedule(node):
    """A schedule in words."""
    if node is None:
        return "constant"
    kind = node._target_.rpartition(".")[2]
    if kind == "StepLR":
        return f"x {node.gamma:g} every {node.step_size}"
    if kind == "MultiStepLR":
        return f"x {node.gamma:g} at {', '.join(map(str, node.milestones))}"
    return kind


def attack(node, trains=False):
    """An attack; in training the method hands it the noises, `copies` of them."""
    kind, norm = node._target_.rpartition(".")[2], node.get("norm", "l2")
    budget = node.epsilon is not None and math.isfinite(node.epsilon)
    yield "attack", f"{kind} {norm}"
    noise = node.objective._target_.rpartition(".")[2]
    yield "attack_objective", noise
    yield "epsilon", node.epsilon if budget else "none"
    yield "steps", node.get("steps", 1)
    if not budget and node.get("step_size"):
        yield "step", node.step_size
    if kind == "NoisePGD":
        yield "restores", node.restore
        yield "keeps", node.keep
    if kind == "PGD" and budget and node.epsilon:
        step = node.step_size or 2 * node.epsilon / node.steps
        yield "step", f"{step / node.epsilon:.4g} epsilon"
    if trains and node.get("random_start") is not None:
        yield "random_start", node.random_start
    if noise != "Plain" and node.get("fixed_noise") is not None:
        yield "new_noise_each_step", not node.fixed_noise
    if not trains and noise != "Plain":
        yield "noises", node.num_noise
        if node.sigma is not None:
            yield "noise_level", node.sigma


def evaluation(said, cfg):
    """The facts of one evaluation, from its config and that of the job before it."""
    command = said.hydra.job.name
    found = {"images": images(cfg, said)}
    if said.checkpoint != "run":
        found["network"] = Path(said.checkpoint).stem
    if OmegaConf.select(said, "model.members") is not None:
        found["networks"] = 1 + len(said.model.members)
    sigma = said.smoothing.sigma if said.smoothing.sigma is not None else cfg.method.sigma
    if command == "certify":
        procedure = said.certificate
        found["certificate"] = said.hydra.runtime.choices.certificate
        found |= {key: procedure[key] for key in ("n0", "n", "alpha", "scores", "k") if key in procedure}
    elif command == "predict":
        found |= {"n": said.prediction.n, "alpha": said.prediction.alpha}
    elif command == "attack":
        found |= dict(attack(said.attack))
        found["epsilon"] = _list(said.epsilons) or found["epsilon"]
        if said.num_noises is not None:
            found["noises"] = _list(said.num_noises)
        found |= {"mode": said.mode, "target": said.target}
        found |= {"topk": said.attack.topk} if said.attack.topk > 1 else {}
        if said.target == "smoothed":
            found |= {"n": said.prediction.n, "alpha": said.prediction.alpha}
    elif command == "measure":
        found |= measurement(said.measure)
    if command != "measure" and sigma != cfg.method.sigma and said.get("target") != "network":
        found["sigma"] = sigma  # another one than in training
    return found


def measurement(node):
    """The settings of a measurement."""
    found = {"measures": node._target_.rpartition(".")[2]}
    for key in ("n", "sigmas", "samples"):
        if key in node:
            found[key] = _list(node[key]) if OmegaConf.is_list(node[key]) else node[key]
    if node.get("attack") is not None:
        found |= dict(attack(node.attack))
    return found


def images(cfg, said):
    """How many images are evaluated."""
    data = HydraConfig.get().runtime.choices.data
    subset = OmegaConf.merge(cfg.data.subset, {k: v for k, v in said.data.subset.items() if v is not None})
    if subset.split == "train":
        return "for training"
    if subset.indices is not None:
        first, _, last = str(subset.indices).partition(":")
        return int(last) - int(first or 0)
    count = math.ceil(TEST_IMAGES[data] / subset.every)
    return min(count, subset.max) if subset.max else count


def _list(values):
    """A list as it is, or a long evenly spaced one in words."""
    if values is None:
        return None
    values = [float(value) if isinstance(value, float) else value for value in values]
    steps = {round(b - a, 6) for a, b in itertools.pairwise(values)}
    if len(values) > 12 and len(steps) == 1:
        return f"{values[0]:g} to {values[-1]:g} by {steps.pop():g}"
    return tuple(_frozen(value) for value in values)


# ---------------------------------------------------------------------------- against the data files


def flat(tree, prefix=""):
    """`{certify: {n: 10}}` as `{certify.n: 10}`."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def expected_facts(stated, row):
    """What a row's configs must say: the paper's facts, changed by the deviations, completed by our choices
    and by what its recipe has in all experiments.

    Returns:
        The facts, and sentences about entries that cannot be right.
    """
    found, problems = flat(stated["rows"][row].get("states") or {}), []
    for kind in ("deviations", "ours"):
        for entry in stated.get(kind) or []:
            if not entry.get("why"):
                problems.append(f"{kind}: an entry without a reason: {entry}")
            if row not in entry.get("rows", [row]):
                continue
            for key, value in flat(entry["facts"]).items():
                evaluation = key.rpartition(".")[0]
                if "rows" not in entry and not any(item.startswith(evaluation) for item in found):
                    continue  # of an evaluation that this row does not have
                if kind == "deviations" and (key not in found or found[key] == value):
                    problems.append(f"deviations: the paper does not state another {key} for {row}")
                if kind == "ours" and key in found:
                    problems.append(f"ours: the paper states {key} for {row}")
                found[key] = value
    common = {}
    for entry in recipes():
        if applies(entry, found):
            common |= entry["facts"]
    return common | found, problems


def applies(entry, found):
    """Whether a row with these facts, one value each or a list, has what the entry of a recipe says."""

    def listed(value):
        return value if isinstance(value, list) else [value]

    return all(set(listed(value)) & set(listed(found.get(key))) for key, value in entry["when"].items())


def differences(wanted, composed_facts):
    """Sentences, one per fact that is not as wanted."""
    said = []
    for key in dict.fromkeys([*wanted, *composed_facts]):
        if key not in composed_facts:
            said.append(f"{key}: {wanted[key]} in docs/papers, nothing in the configs")
        elif key not in wanted and key != "jobs":  # how many settings: only where a paper counts them
            said.append(f"{key}: {composed_facts[key]} in the configs, nothing in docs/papers")
        elif key in wanted and not _same(wanted[key], composed_facts[key]):
            said.append(f"{key}: {wanted[key]} in docs/papers, {composed_facts[key]} in the configs")
    return said


def _same(one, other):
    def plain(value):
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return (
            _frozen(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else value
        )

    return plain(one) == plain(other)


if __name__ == "__main__":
    for experiment in sys.argv[1:]:
        known = experiments().get(experiment, {"rows": {}})
        for row, members in jobs(experiment, "full").items():
            print(f"{experiment} {row}")
            wanted, problems = expected_facts(known, row) if row in known["rows"] else ({}, [])
            for sentence in problems + differences(wanted, row_facts(experiment, "full", members)):
                print("   ", sentence)

"""Every YAML file of every group composes, binds to its constructor and can be instantiated."""

import importlib
import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from robustsmooth.commands import conf_dir
from robustsmooth.instantiation import instantiate
from tests.composing import composed

CONF = conf_dir()
COMMANDS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in ("common", "evaluation"))
FILES = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*.yaml"))
"""All configs, nested ones too, as `group/name`."""


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_commands_that_start_together_have_different_folders(kind):
    place = OmegaConf.to_container(composed("train", whole=True).hydra[kind], resolve=False)["dir"]
    timed = place.rpartition("-")[0]  # without the name of the command
    first, second = (OmegaConf.create({"dir": timed}).dir for _ in range(2))
    assert first != second


def nodes(cfg, path=""):
    """All nodes with a `_target_`, with their paths; interpolations are not resolved."""
    if OmegaConf.is_config(cfg):
        cfg = OmegaConf.to_container(cfg, resolve=False)
    if isinstance(cfg, dict):
        if not str(cfg.get("_target_", "$")).startswith("$"):  # it is checked at the node that it refers to
            yield path, cfg
        for key, value in cfg.items():
            yield from nodes(value, f"{path}.{key}")
    elif isinstance(cfg, list):
        for at, item in enumerate(cfg):
            yield from nodes(item, f"{path}[{at}]")


def binds(path: str, node: dict) -> None:
    """Check that the keys of a node are arguments of its target."""
    module, _, name = node["_target_"].rpartition(".")
    target = getattr(importlib.import_module(module), name)
    keys = {str(key): None for key in node if not str(key).startswith("_")}
    signatures = [inspect.signature(target)]
    if inspect.isclass(target):  # `**kwargs` are the base classes'
        signatures += [inspect.signature(base.__init__) for base in target.__mro__[1:-1]]
    known: set[str] = set()
    for signature in signatures:
        known |= {
            parameter.name for parameter in signature.parameters.values() if parameter.kind not in (2, 4)
        }
        if not any(
            parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.parameters.values()
        ):
            break
    unknown = set(keys) - known
    assert not unknown, f"{path}: {node['_target_']} has no argument {sorted(unknown)}"


def test_the_files_are_found():
    """Counted in another way, so that the tests below cannot become empty when a folder is moved."""
    walked = [path for path in CONF.glob("**/*") if path.is_file()]
    assert len(FILES) == len(walked) >= 100
    tested = {
        "attack",
        "callbacks",
        "certificate",
        "data",
        "denoiser",
        "experiment",
        "hydra",
        "logger",
        "loss",
    }
    tested |= {
        "illustration",
        "measure",
        "method",
        "model",
        "noise_layers",
        "recipe",
        "scale",
        "smoothing",
        "sweep",
        "trainer",
    }
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == tested
    assert {"train", "certify", "predict", "attack", "report"} <= set(COMMANDS)


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_what_it_is(name):
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("#"), f"{name}.yaml opens with a comment that says what it is"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_and_binds(command):
    for path, node in nodes(composed(command)):
        binds(path, node)


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


METHODS, DATA = choices("method"), [name for name in choices("data") if name != "as_trained"]
PAIRS = sorted(
    {(method, "digits") for method in METHODS}
    | {("gaussian", data) for data in DATA}
    | {(method, data) for method in METHODS for data in DATA if f"{method}-{data}" in choices("recipe")}
)
"""Every method, every data set, and every recipe."""


@pytest.mark.parametrize(("method", "data"), PAIRS)
def test_methods_with_data_sets_compose_and_bind(method, data, tmp_path):
    """With `recipe/<method>-<data>` where it exists; on the digits the method is instantiated, too."""
    cfg = composed("train", f"method={method}", f"data={data}", "data.num_classes=10")
    for path, node in nodes(cfg):
        binds(path, node)
    if data == "digits":
        module = instantiate(on_the_digits(cfg, tmp_path).method)
        assert module.network.num_classes == 10
        assert module.configure_optimizers()


@pytest.mark.parametrize("data", ["imagefolder", "imagenet", "mini_imagenet50"])
@pytest.mark.parametrize(
    ("words", "test", "training"),
    [
        ([], 224, 224),
        (["data.test_crop=16"], 16, 16),
        (["data.test_crop=288", "data.augmentation.size=224"], 288, 224),
    ],
)
def test_training_images_are_as_large_as_test_images(data, words, test, training):
    module = instantiate(composed("train", f"data={data}", "data.num_classes=10", *words).data)
    assert module.image_shape == (3, test, test)
    assert module.file_augmentation.size == training


def on_the_digits(cfg, folder):
    """The config with what some methods start from, which is not read before training."""
    if "start" in cfg.method:
        cfg.method.start = "anywhere"
    if "targets" in cfg.method:  # votes
        (folder / "predict.tsv").write_text("idx\tcounts\n0\t1:9\n")
        cfg.method.targets = str(folder)
    return cfg


def test_every_recipe_is_of_a_method_and_a_data_set():
    for recipe in choices("recipe"):
        assert recipe in {f"{m}-{d}" for m, d in PAIRS}, f"recipe/{recipe}.yaml is never picked up"


@pytest.mark.parametrize("group", ["callbacks", "trainer", "logger", "model", "loss"])
def test_every_choice_of_training_binds(group):
    for choice in choices(group):
        if choice == "as_trained":
            continue
        for path, node in nodes(composed("train", f"{group}={choice}", "data.num_classes=10")):
            binds(path, node)


@pytest.mark.parametrize(
    ("command", "group"),
    [("certify", "certificate"), ("certify", "smoothing"), ("train", "smoothing"), ("attack", "attack")],
)
def test_every_choice_of_evaluation_binds(command, group):
    for choice in choices(group):
        for path, node in nodes(composed(command, f"{group}={choice}")):
            binds(path, node)


@pytest.mark.parametrize(
    ("command", "context", "group"),
    [
        ("attack", "attack=pgd_l2", "attack/objective"),
        ("train", "method=sodm", "method/mapping"),
        ("train", "method=gaussian", "loss/term"),
        ("train", "method=gaussian", "denoiser"),
        ("train", "method=cpni", "noise_layers"),
        ("measure", "seed=0", "measure"),
        ("illustrate", "seed=0", "illustration"),
        ("train", "seed=0", "experiment/digits"),
        ("train", "seed=0", "experiment/cifar10"),
    ],
)
def test_every_nested_choice_binds(command, context, group):
    """The experiments of papers are in test_papers.py."""
    outer, _, inner = group.partition("/")
    for choice in choices(group):
        chosen = f"experiment={inner}/{choice}" if outer == "experiment" else f"{group}={choice}"
        if group == "noise_layers":
            chosen = f"noise_layers@model.noise_layers={choice}"
        elif group == "denoiser":
            chosen = f"+denoiser@model.denoiser={choice}"
        elif group == "loss/term":
            chosen = f"+loss/term@loss.terms.another={choice}"
        for path, node in nodes(composed(command, context, chosen)):
            binds(path, node)


@pytest.mark.parametrize("group", ["callbacks", "loss", "attack"])
def test_every_small_part_instantiates(group):
    command = "attack" if group == "attack" else "train"
    for choice in choices(group):
        cfg = composed(command, f"{group}={choice}")
        instantiate(cfg[group])


def test_the_test_can_fail(tmp_path: Path):
    node = OmegaConf.create({"_target_": "torch.nn.Linear", "in_features": 1, "out_featurs": 2})
    with pytest.raises(AssertionError, match="out_featurs"):
        binds("model", node)

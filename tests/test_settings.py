"""Wrong values in every setting of every command are refused, or listed here as meaningful."""

import functools

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from robustsmooth.commands.settings import check_settings
from robustsmooth.instantiation import instantiate
from tests.composing import composed
from tests.test_conf import COMMANDS, choices

NONSENSE = {
    "text": "nonsense",
    "true": True,
    "null": None,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "a negative number": -3,
    "a fraction of one": 0.4375,
    "a list": [[]],
}
FILE = ["checkpoint=a", "data=digits", "model=small_cnn"]
GIVEN = {
    "report": ["runs=a"],
    "train": ["callbacks=certify"],
    **dict.fromkeys(("certify", "predict", "attack", "export"), FILE),
    "measure": [*FILE, "measure=timing", "smoothing.sigma=0.25"],
}
STUB = {"_target_": "builtins.dict"}
KEPT = ("trainer", "report", "source")
BUILT = (
    "smoothing",
    "measure",
    "data",
    "model",
    "method",
    "certificate",
    "prediction",
    "numerics",
    "attack",
    "illustration",
)

MEANINGFUL = {
    "text": """run_dir checkpoint runs report.title monitor certified source.checkpoint file
        license push report.published report.baseline
        model.checkpoint""",
    "infinity": "attack.epsilon",
    "true": """unverified compile model.new_head
        model.channels_last data.augmentation.flip trainer.deterministic
        trainer.enable_model_summary trainer.enable_progress_bar trainer.use_distributed_sampler
        attack.fixed_noise attack.targeted attack.random_start numerics.channels_last numerics.compile
        certificate.randomized loss.terms.classification.clean
        method.loss.terms.classification.clean callbacks.certify.certificate.randomized
        callbacks.certify.numerics.channels_last callbacks.certify.numerics.compile""",
    "null": """model.checkpoint model.noise_layers model.normalization data.num_classes data.subset.max
        data.subset.indices data.num_workers data.extra method.scheduler.step_size smoothing.sigma
        method.noise.sigma callbacks.certify.smoothing.sigma measure.sigma callbacks.progress.metrics
        callbacks.certify.radii trainer.max_time trainer.precision trainer.gradient_clip_val
        trainer.check_val_every_n_epoch trainer.limit_train_batches trainer.limit_val_batches
        trainer.limit_test_batches trainer.log_every_n_steps trainer.num_sanity_val_steps
        trainer.deterministic trainer.enable_model_summary trainer.enable_progress_bar trainer.max_epochs
        source.checkpoint attack.sigma attack.copies_per_pass attack.step_size attack.direction epsilons
        num_noises prediction.alpha certified save radii file save_every_steps evaluate report.show
        report.radii report.restate report.wandb report.published report.baseline
        license push
        model.denoiser model.denoiser_checkpoint""",
    "a fraction of one": """data.val_images smoothing.sigma attack.sigma attack.margin attack.step_size
        attack.epsilon prediction.alpha certificate.alpha method.sigma method.optimizer.lr
        method.optimizer.momentum method.optimizer.weight_decay method.scheduler.gamma report.level
        trainer.gradient_clip_val trainer.limit_train_batches trainer.limit_val_batches
        trainer.limit_test_batches measure.sigma illustration.sigma illustration.point
        callbacks.certify.certificate.alpha
        callbacks.certify.smoothing.sigma""",
    "a negative number": "illustration.point",
    "refused when the data are read": """data.val_images data.subset.indices""",
    "of an experiment, or of the checkpoint's model": """row scale source.model""",
}
"""Where a value has a meaning, or cannot be judged before the work starts."""


def is_meaningful(key, name):
    listed = {kind: keys.split() for kind, keys in MEANINGFUL.items()}
    if key.startswith(tuple(listed["of an experiment, or of the checkpoint's model"])):
        return True
    if key in listed["refused when the data are read"] and name in ("a negative number", "text"):
        return True
    return key in listed.get(name, ())


@functools.cache
def config(command):
    """A command's config with no value missing, resolved, so that a changed value changes no other."""
    plain = OmegaConf.to_container(composed(command, *GIVEN.get(command, [])), resolve=True)
    if "smoothing" in plain and not plain["smoothing"].get("_partial_"):
        plain["smoothing"]["sigma"] = 0.25
    return plain


def leaves(node, key=""):
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{key}{name}.")
        elif not str(name).startswith("_"):
            yield f"{key}{name}"


def shortened(plain, first):
    """The config with the part `first` and those that are always checked; the other parts are stubs."""
    return OmegaConf.create(
        {
            name: part if name in (first, *KEPT) or not isinstance(part, dict) else STUB
            for name, part in plain.items()
        }
    )


def refusals(command, plain, keys):
    """For every key and every kind of nonsense: what the command says to it, None if it accepts it.

    It is refused before the command starts, or as it builds the part with the key.
    """
    configs = {first: shortened(plain, first) for first in {key.partition(".")[0] for key in keys}}
    for key in keys:
        cfg = configs[key.partition(".")[0]]
        place, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, place) if place else cfg
        before = OmegaConf.to_container(node)[last]
        for name, value in NONSENSE.items():
            node[last] = value
            yield key, name, refusal(command, cfg, key)
        node[last] = before


def refusal(command, cfg, key):
    first, *rest = key.split(".")
    try:
        check_settings(cfg, command)
        part = cfg[first]
        if first == "callbacks":
            part = part[rest[0]]
        given = {"folder": "a", "settings": {}} if first == "measure" else {}
        if (rest and first in BUILT) or first == "callbacks":
            instantiate(part, **given)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("command", COMMANDS)
def test_nonsense_is_refused_before_any_work(command):
    shared = ("data.", "model.", "numerics.", "prediction.", "logger.")
    keys = [
        key for key in leaves(config(command)) if not key.startswith(("method.network.", "method.noise."))
    ]
    tested = {"train": (), "attack": ("data.", "model.", "logger.")}.get(command, shared)
    keys = [key for key in keys if not key.startswith(tested)]
    accepted, unclear = [], []
    for key, name, said in refusals(command, config(command), keys):
        if is_meaningful(key, name):
            continue
        if said is None:
            accepted.append(f"{key}: {name}")
        elif f"`{key}" not in said and f"`{key.rpartition('.')[0]}`" not in said:
            unclear.append(f"{key}: {name}: {said}")
    assert not accepted, "\n".join(accepted)
    assert not unclear, "\n".join(unclear)


NEWER = ["stability", "consistency", "smoothmix", "cat_rs", "sun2025", "denoiser"]
MEANINGFUL_THERE = {
    "text": "method.start",
    "true": "method.one_step method.confidence_mask",
    "null": """method.epsilon_epoch method.reweight_every method.voter method.scheduler.milestones
        method.attack.epsilon""",
    "a fraction of one": """method.loss.terms.stability.weight method.loss.terms.consistency.weight
        method.loss.terms.consistency.entropy_weight method.mix_weight method.robust_weight
        method.epsilon_factor method.discard_below method.alpha model.denoiser.norm_momentum""",
}


@pytest.mark.parametrize("method", NEWER)
def test_nonsense_in_a_newer_method_is_refused(method, tmp_path):
    """The test above checks the settings of the default method only."""
    (tmp_path / "predict.tsv").write_text("idx\tcounts\n0\t1:9\n", encoding="utf-8")
    words = [f"method={method}", "data=digits", "model=small_cnn", "model.network.width=4"]
    whole = OmegaConf.to_container(composed("train", *words), resolve=True)
    given = {"targets": str(tmp_path), "start": "a"}
    whole["method"].update({key: value for key, value in given.items() if key in whole["method"]})
    keys = [
        key
        for key in leaves(whole)
        if key.startswith(("method.", "model.denoiser."))
        and not key.startswith(("method.network.", "method.noise."))
    ]
    accepted = [
        f"{key}: {name}"
        for key, name, said in refusals("train", whole, keys)
        if said is None
        and key not in MEANINGFUL_THERE.get(name, "").split()
        and not is_meaningful(key.replace("method.attack.", "attack."), name)
    ]
    assert not accepted, "\n".join(accepted)


def test_a_fraction_under_a_key_with_a_dot_becomes_a_number_in_its_place():
    noise = {"_target_": "robustsmooth.smoothing.GaussianNoise", "sigma": "1/4"}
    cfg = composed("train").copy()
    OmegaConf.set_struct(cfg, False)
    cfg["rows"] = {"attack.epsilon": 1.0, "a.b": {"noise": noise}, "list": [{"c.d": noise}]}
    OmegaConf.set_struct(cfg, True)
    check_settings(cfg, "train")
    read = {**noise, "sigma": 0.25}
    assert cfg.rows == {"attack.epsilon": 1.0, "a.b": {"noise": read}, "list": [{"c.d": read}]}


OF_THE_TRAINING = ["checkpoint=a", "model=small_cnn", "+denoiser@model.denoiser=dncnn"]


@pytest.mark.parametrize("command", ["certify", "attack", "export"])
def test_a_model_may_refer_to_the_data_of_the_training(command):
    source = ["model@source.model=small_cnn"] if command == "attack" else []
    check_settings(composed(command, *OF_THE_TRAINING, *source), command)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.network.width=-1", "`model.network.width` must be an integer of at least 1, got -1"),
        ("model.network.width=???", "Missing mandatory value: model.network.width"),
        ("+model.network.widthh=1", "there is no setting `model.network.widthh`"),
        ("model.channels_last=3", "`model.channels_last` must be true or false, got 3"),
    ],
)
def test_its_other_settings_are_checked(word, message):
    with pytest.raises((ValueError, MissingMandatoryValue), match=message):
        check_settings(composed("certify", *OF_THE_TRAINING, word), "certify")


@pytest.mark.parametrize(
    "model", [name for name in choices("model") if name not in ("as_trained", "ensemble")]
)
@pytest.mark.parametrize("command", ["train", "certify"])
def test_every_network_may_get_its_classes_from_a_folder_of_images(command, model):
    file = ["checkpoint=a"] if command == "certify" else []
    check_settings(composed(command, *file, "data=imagefolder", f"model={model}"), command)

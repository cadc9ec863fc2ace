"""One row per training method: a short run of it, as a user types it. The shared tests run on every row.

A new method adds a row here and is tested without new test code (see test_all_methods.py).
"""

from dataclasses import dataclass

__all__ = ["METHODS", "Method"]

TINY = (
    "model=small_cnn",
    "model.network.width=4",
    "data=digits",
    "data.batch_size=16",
    "logger=none",
    "trainer=cpu",
    "trainer.max_epochs=4",
    "data.val_images=1393",  # 40 images remain for training: two batches
    "trainer.limit_val_batches=1",
)


@dataclass(frozen=True)
class Method:
    """A row.

    Attributes:
        name: Names the tests.
        words: The command line that chooses the method, with settings that make it short. ``{trained}``
            stands for the checkpoint of a network trained for a moment, ``{votes}`` for a folder of
            votes on the training images.
        logs: Keys that training logs, besides those of every method.
        learning_rate: Of the test that the loss falls on a tiny set.
        falls_to: The share of its start that it must fall below there.
        variant: Whether it differs from another row only in settings. Then its tests on two ranks and on a
            tiny set are slow ones.
    """

    name: str
    words: tuple[str, ...]
    logs: tuple[str, ...] = ()
    learning_rate: float = 0.05
    falls_to: float = 0.9
    variant: bool = False

    @property
    def overrides(self) -> tuple[str, ...]:
        """The command line in full."""
        return (*TINY, *self.words)


_HEAT = ("method=heat", "model.checkpoint={trained}", "loss.num_probes=3")
_SMOOTHADV = ("attack.steps=2", "attack.epsilon=0.25", "method.warmup_epochs=2")
_SODM = ("method=sodm", "method.copies=3", "method.mapping_copies=5", "method.mapping_interval=1")
_DENOISER = (
    "method=denoiser",
    "model.checkpoint={trained}",
    "model.denoiser.depth=3",
    "model.denoiser.width=8",
)
_SUN2025 = (
    "attack.steps=2",
    "method.copies=2",
    "method.warmup_epochs=1",
    "method.discard_below=0.05",
    "method.discard_votes=20",
)

METHODS = [
    Method("natural", ("method=natural",)),
    Method("gaussian", ("method=gaussian",)),
    Method(
        "consistency", ("method=consistency",), ("train/classification", "train/consistency", "train/entropy")
    ),
    Method("stability", ("method=stability",), ("train/classification", "train/stability")),
    Method(
        "consistency_smoothadv",
        ("method=smoothadv", "loss=consistency", *_SMOOTHADV),
        ("train/consistency", "train/epsilon"),
        variant=True,
    ),
    Method(
        "macer_smoothadv",
        ("method=smoothadv", "loss=macer", *_SMOOTHADV),
        ("train/robustness",),
        variant=True,
    ),
    Method("gaussian_uniform", ("method=gaussian", "smoothing=uniform", "method.copies=2"), variant=True),
    Method("smoothmix", ("method=smoothmix", "attack.steps=2"), ("train/classification", "train/mixing")),
    Method(
        "smoothmix_one_step",
        ("method=smoothmix", "attack.steps=2", "method.one_step=true", "loss=consistency"),
        ("train/mixing", "train/consistency"),
        variant=True,
    ),
    Method(
        "cat_rs",
        ("method=cat_rs", "method.targets={votes}", "method.confidence_mask=true", "attack.steps=2"),
        ("train/classification", "train/robustness", "train/sure"),
    ),
    Method("sun2025", ("method=sun2025", *_SUN2025, "method.reweight_every=1"), ("train/kept_images",)),
    Method(
        "sun2025_voter",
        (
            "method=sun2025",
            *_SUN2025,
            "+model@method.voter=small_cnn",
            "method.voter.network.width=4",
            "method.voter.checkpoint={trained}",
            "method.reweight_every=null",
        ),
        variant=True,
    ),
    # In front of a random classifier, whose answers hardly depend on its input.
    Method("denoiser", _DENOISER, learning_rate=0.1, falls_to=0.9995),
    Method("denoiser_mse", (*_DENOISER, "method.objective=mse"), learning_rate=0.01, variant=True),
    Method("heat", _HEAT, ("train/fidelity", "train/penalty")),
    Method(
        "heat_time_steps",
        (
            *_HEAT,
            "method.time_steps=2",
            "method.student=random",
            "method.noise_probability=0.5",
            "loss.fidelity=logits",
        ),
    ),
    Method(
        "heat_frozen",
        (*_HEAT, "loss.statistics=frozen", "method.decay_biases=false", "loss.penalty_weight=100"),
        variant=True,
    ),
    Method("adversarial", ("method=adversarial", "attack.steps=2")),
    Method("adversarial_linf", ("method=adversarial_linf", "attack.steps=2"), variant=True),
    Method("vanilla_smoothed", ("method=vanilla_smoothed", *_SMOOTHADV), ("train/epsilon",), variant=True),
    Method("smoothadv_pgd", ("method=smoothadv", *_SMOOTHADV), ("train/epsilon",)),
    Method(
        "smoothadv_ddn",
        ("method=smoothadv", "attack=smoothadv_ddn", *_SMOOTHADV, "method.multi_noise=false"),
        variant=True,
    ),
    Method("smoothadv_stein", ("method=smoothadv", "attack=stein", *_SMOOTHADV), variant=True),
    Method(
        "smoothadv_more_data",
        (
            "method=smoothadv_selftraining",
            *_SMOOTHADV,
            "method.labeler.network.width=4",
            "method.labeler.checkpoint={trained}",
            # fine-tuning at the same time, with a new last layer
            "model.checkpoint={trained}",
            "model.new_head=true",
        ),
    ),
    Method("macer", ("method=macer", "method.copies=3"), ("train/classification", "train/robustness")),
    Method(
        "sodm_softmax",
        (*_SODM, "method/mapping=softmax"),
        ("train/accuracy", "train/robustness"),
        variant=True,
    ),
    Method("sodm_dynamic", (*_SODM, "method.robust_weight_epoch=1"), ("train/robust_weight",)),
    Method(
        "pni",
        ("method=pni", "attack.steps=2"),
        ("train/clean_loss", "train/adversarial_loss", "train/adversarial_top1", "train/noise_scale"),
    ),
    Method("cpni", ("method=cpni", "attack.steps=2")),
    Method(
        "cpni_activations",
        (
            "method=cpni",
            "attack.steps=2",
            "noise_layers@model.noise_layers=cpni_weight_output",
            "model.noise_layers.image_shape=[1,8,8]",
            "method.noise_weight_decay=0.0",
        ),
        variant=True,
    ),
    Method(
        "cpni_images",
        ("method=cpni", "attack.steps=2", "noise_layers@model.noise_layers=cpni_images"),
        variant=True,
    ),
    Method(
        "cpni_gauss",
        ("method=cpni_gauss", "attack.steps=2", "model.checkpoint={trained}"),
        ("train/adversarial_top1",),
        variant=True,
    ),
    Method("cpni_epgd", ("method=cpni_epgd", "attack.steps=2", "attack.num_noise=2"), variant=True),
]

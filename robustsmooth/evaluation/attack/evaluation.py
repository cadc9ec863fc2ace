"""Attacks inside ``trainer.test``: one row per image and budget, resumable, on any number of ranks."""

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from rich.console import RenderableType
from torch import Tensor, nn

from robustsmooth.attacks import Attack, distance
from robustsmooth.attacks.geometry import displace, quantize
from robustsmooth.data import Batch
from robustsmooth.evaluation.attack.images import ImageStore, draw_grid
from robustsmooth.evaluation.attack.plan import AttackPlan, Variant
from robustsmooth.evaluation.attack.summary import (
    CertifiedLog,
    beneath_certified,
    short,
    summarize_variant,
    table_of,
)
from robustsmooth.evaluation.attack.target import Decision, SinglePass, Target
from robustsmooth.evaluation.base import Evaluation
from robustsmooth.evaluation.context import answers_of, fingerprint, image_shape
from robustsmooth.models import is_random
from robustsmooth.smoothing import ABSTAIN, ImageRandomness

__all__ = ["AttackEvaluation"]

_TOLERANCE = 1e-5  # relative, by which a foreign attack may leave its budget in rounding


class AttackEvaluation(Evaluation):
    """Attacks every test image; writes ``attack.tsv``, ``summary.json`` and a picture.

    The attack looks at the base classifier or, by its objective, at the smoothed one. Whether it has
    succeeded is decided by the target, on the image that comes back; distances are measured there too.
    What is attacked need not be what decides: with a `source`, the images transfer.

    Two modes. ``budget`` asks for the accuracy within each epsilon. ``minimum`` asks for the smallest
    perturbation that succeeds (flips the answer or, with ``attack.topk``, leaves the best `topk`); where
    none was found the attack has failed, whatever distance it came back from.

    Logged for each budget: ``test/attack_acc@<epsilon>`` and ``test/attack_abstention@<epsilon>``; in the
    mode ``minimum`` ``test/attack_success``, ``test/attack_median_<norm>``, ``test/attack_mean_<norm>``. With
    several numbers of noises ``,m=<number>`` follows.

    What an attack draws does not depend on the other images of its batch, except for networks that are
    random by themselves and for AutoAttack with ``one_by_one=false``. Rounding does: a pass of another number
    of images may round its last digit otherwise. With another batch size or number of ranks, or after an
    interruption, distances agree to about 1e-6 relative, and an answer may differ where the image lies on the
    edge by as little. A later start in the same folder with more budgets adds their rows.

    Args:
        attack: What is done to each image; not targeted.
        target: Who decides.
        folder: Where everything is written.
        mode: ``budget`` or ``minimum``.
        epsilons: Budgets; the attack's own by default.
        num_noises: Numbers of noises of its objective; the attack's own by default.
        batch_size: Images that are attacked at a time, at most; an attack that works image by image gets one.
            An objective with noise multiplies it by ``attack.copies_per_pass``.
        source: The network that the attack looks at; the tested one by default.
        source_sigma: Its noise level, for an attack that has none of its own.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``, as of the trainer.
        certified: A certification of the target, for comparison; the attack must be in l2.
        save: Format in which the adversarial images are kept, None for not at all; see `ImageStore`.
        pictures: How many images, the first ones, ``attack_grid.png`` shows.
        seed: Addresses all randomness.
        settings: What else the rows depend on, as plain values (the data set, say).
        progress: Show a bar, and a table after.

    Raises:
        ValueError: If arguments do not go together.
    """

    name: ClassVar[str] = "attack"
    verb: ClassVar[str] = "attacking"
    columns: ClassVar[list[str]] = [
        *["idx", "label", "epsilon", "num_noise", "clean", "clean_correct", "adversarial", "success"],
        *["abstain", "l2", "linf", "votes", "time"],
    ]
    key: ClassVar[list[str]] = ["idx", "epsilon", "num_noise"]

    def __init__(
        self,
        attack: Attack,
        target: Target,
        folder: Path | str,
        *,
        mode: Literal["budget", "minimum"] = "budget",
        epsilons: Sequence[float] | None = None,
        num_noises: Sequence[int] | None = None,
        batch_size: int = 64,
        source: nn.Module | None = None,
        source_sigma: float | None = None,
        precision: str = "32-true",
        certified: CertifiedLog | None = None,
        save: Literal["safetensors", "npz"] | None = None,
        pictures: int = 0,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        if not isinstance(attack, Attack):
            raise ValueError(
                f"{type(attack).__name__} moves the noise in training and finds no image: choose an attack "
                "on images, such as attack=smoothadv_pgd"
            )
        super().__init__(folder, seed=seed, settings=settings, progress=progress)
        self.plan = AttackPlan(attack, mode, epsilons, num_noises)
        for name, value, least in (("batch_size", batch_size, 1), ("pictures", pictures, 0)):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}")
        if certified is not None and self.plan.norm != "l2":
            raise ValueError("`certified` radii are in l2: compare them with an l2 attack, or leave them out")
        if certified is not None and isinstance(target, SinglePass):
            raise ValueError(
                "`certified` radii are of the smoothed classifier, and say nothing about one pass of the "
                "network: set target=smoothed, or leave them out"
            )
        self.target, self.batch_size = target, batch_size
        self.source, self.source_sigma = source, source_sigma
        self.precision, self.certified, self.pictures = precision, certified, pictures
        self.images = ImageStore(folder, save)

    # ------------------------------------------------------------------ the life of an evaluation

    def begin(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Any]:
        """See `Evaluation.begin`: get the target ready, and complete the plan with what it knows."""
        device, shape = trainer.strategy.root_device, image_shape(trainer)
        self._network = network if self.source is None else self.source.to(device).eval()
        self._check_classes(network)
        then = self.written_settings(self.folder, self.name)
        self.target.heed = self.heed
        self.target.set_up(network, shape, device, then, trainer.strategy.broadcast)
        sigma = self.target.sigma if self.source is None else self.source_sigma
        self.plan = self.plan.completed(sigma, is_random(self._network))
        self._variants = self.plan.variants
        everything = list(getattr(getattr(trainer, "datamodule", None), "test_indices", ()))
        self.images.pictured = frozenset(everything[: self.pictures])
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        answers = answers_of(network, shape, device)
        if self.source is not None:
            of_source = answers_of(self._network, shape, device)
            answers |= {f"source {name}": values for name, values in of_source.items()}
        settings = {
            "mode": self.plan.mode,
            "attack": self.plan.settings(),
            "target": self.target.settings(),
            "network": fingerprint(network),
            "answers": answers,
            "source": None if self.source is None else fingerprint(self.source),
            "numerics": {
                "precision": self.precision,
                "batch_size": self.batch_size,
                "torch": torch.__version__,
            },
            "seed": self.seed,
        }
        if self.certified is not None:
            self.certified.check({**settings, **self.settings}, everything)
        return settings

    def variants(self) -> list[tuple[Any, ...]]:
        """See `Evaluation.variants`: a row for each budget and number of noises."""
        return [(each.epsilon, each.num_noise) for each in self._variants]

    def evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch) -> None:
        """See `Evaluation.evaluate`: attack as many unfinished images as fill device batches."""
        if self.certified is not None:
            self.certified.compare(batch, self._names)
        self._waiting += [each for each in zip(*batch, strict=True) if not self.is_finished(int(each[2]))]
        while len(self._waiting) >= self.at_a_time:
            self._attack_batch()

    def finish(self, trainer: pl.Trainer) -> None:
        """See `Evaluation.finish`."""
        while self._waiting:
            self._attack_batch()

    def summarize(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """See `Evaluation.summarize`."""
        metrics: dict[str, float | None] = {}
        facts: list[dict[str, Any]] = []
        warnings: list[str] = []
        for each in self._variants:
            mine = [row for row in rows if (row["epsilon"], row["num_noise"]) == each.name]
            epsilon = None if math.isinf(each.epsilon) else each.epsilon
            said = {
                "epsilon": epsilon,
                "num_noise": each.num_noise,
                **summarize_variant(mine, self.plan.norm),
            }
            metrics |= self.plan.metrics(each, said)
            if self.certified is not None and self.plan.mode == "budget":
                beside = beneath_certified(mine, each.epsilon, self.certified, self.target.alpha)
                said["certified"] = dataclasses.asdict(beside)
                warning = beside.warning(each.epsilon)
                warnings += [warning] if warning else []
            facts.append(said)
        return metrics, {
            "attack": type(self.plan.attack).__name__,
            "norm": self.plan.norm,
            "mode": self.plan.mode,
            "variants": facts,
            "warnings": warnings,
        }

    def report(self, summary: Mapping[str, Any]) -> Iterable[RenderableType]:
        """See `Evaluation.report`."""
        return [table_of(summary), *(f"[yellow]Warning:[/] {line}" for line in summary["warnings"])]

    def after_merge(self, trainer: pl.Trainer) -> None:
        """See `Evaluation.after_merge`: merge the images, and draw the largest budget's pictured ones."""
        images = self.images.merge()
        if images is not None and self.images.pictured:
            self._draw(images, getattr(getattr(trainer, "datamodule", None), "class_names", ()))
        self.images.clean_up()

    # ------------------------------------------------------------------ one device batch

    @property
    def at_a_time(self) -> int:
        """Images that are attacked together, at most."""
        return 1 if getattr(self.plan.attack, "one_by_one", False) else self.batch_size

    def _attack_batch(self) -> None:
        """Attack the first images that wait."""
        chosen, self._waiting = self._waiting[: self.at_a_time], self._waiting[self.at_a_time :]
        images, labels, indices = (torch.stack(part) for part in zip(*chosen, strict=True))
        clean = self._decide(images, labels, indices)
        for variant in self._variants:
            keys = [(index, variant.epsilon, variant.num_noise) for index in indices.tolist()]
            if all(self.has(*key) for key in keys):
                continue
            start = time.perf_counter()
            with self._autocast(images.device), self._watched():
                randomness = ImageRandomness(self.seed, "attack", indices)
                points = variant.attack(self._network, images, labels, randomness=randomness)
            if self.target.levels is not None:  # it only knows images on a grid
                steps = self.target.levels
                points = displace(images, quantize(points - images, steps, variant.epsilon, self.plan.norm))
            decision = self._decide(points, labels, indices)
            seconds = (time.perf_counter() - start) / len(chosen)
            self._write(variant, keys, images, points, labels, clean, decision, seconds)
        self.heed(0, len(chosen))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Between the passes of an attack, whoever wrote it, the bar moves and the process may be stopped."""
        watch = self._network.register_forward_pre_hook(lambda _, inputs: self.heed(len(inputs[0])))
        try:
            yield
        finally:
            watch.remove()

    def _decide(self, images: Tensor, labels: Tensor, indices: Tensor) -> Decision:
        with self._autocast(images.device):
            return self.target.decide(images, labels, indices, self.plan.attack.topk)

    def _write(
        self,
        variant: Variant,
        keys: Sequence[tuple[int, float, int]],
        images: Tensor,
        points: Tensor,
        labels: Tensor,
        clean: Decision,
        decision: Decision,
        seconds: float,
    ) -> None:
        """Keep the images, then write the rows that are not there yet."""
        perturbation = points.double() - images.double()
        lengths = {norm: distance(perturbation, norm).tolist() for norm in ("l2", "linf")}
        self._check_budget(variant, lengths)
        self.images.add(keys, images, points, labels.tolist(), decision.predictions)
        for place, key in enumerate(keys):
            row = {
                "idx": key[0],
                "label": int(labels[place]),
                "epsilon": key[1],
                "num_noise": key[2],
                "clean": clean.predictions[place],
                "clean_correct": int(not clean.wrong[place]),
                "adversarial": decision.predictions[place],
                "success": int(decision.wrong[place]),
                "abstain": int(decision.predictions[place] == ABSTAIN),
                "l2": lengths["l2"][place],
                "linf": lengths["linf"][place],
                "votes": decision.votes,
                "time": round(seconds, 6),
            }
            self.write(row)

    def _check_budget(self, variant: Variant, lengths: Mapping[str, Sequence[float]]) -> None:
        longest = max(lengths[self.plan.norm])
        if longest > variant.epsilon * (1 + _TOLERANCE):
            raise ValueError(
                f"{type(variant.attack).__name__} left its budget: a perturbation of {longest:g} in "
                f"{self.plan.norm}, where epsilon is {variant.epsilon:g}"
            )

    # ------------------------------------------------------------------ parts of it

    def _check_classes(self, network: nn.Module) -> None:
        ours, theirs = (getattr(each, "num_classes", None) for each in (network, self._network))
        if ours != theirs:
            raise ValueError(
                f"the source has {theirs} classes and the target {ours}: images transfer between networks of "
                "the same classes"
            )

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)

    def _draw(self, images: dict[str, Any], class_names: Sequence[str]) -> None:
        largest = max(self._variants, key=lambda each: (each.epsilon, each.num_noise))
        chosen = [
            place
            for place, (index, epsilon, noises) in enumerate(
                zip(images["idx"], images["epsilon"], images["num_noise"], strict=True)
            )
            if int(index) in self.images.pictured
            and (float(epsilon), int(noises)) == (largest.epsilon, largest.num_noise)
        ]
        if chosen:
            budget = "" if math.isinf(largest.epsilon) else f", epsilon {short(largest.epsilon)}"
            draw_grid(
                self.folder / "attack_grid.png",
                {name: values[chosen] for name, values in images.items()},
                f"{type(largest.attack).__name__} with {type(largest.attack.objective).__name__}{budget}",
                class_names,
            )

"""Attacks inside ``trainer.test``: one row per image and budget, resumable, on any number of ranks."""

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from rich.console import RenderableType
from torch import Tensor, nn

from robustsmooth.attacks import Attack, distance
from robustsmooth.attacks.geometry import displace, quantize
from robustsmooth.data import Batch
from robustsmooth.evaluation.attack.images import ImageStore, Key, draw_grid, keys_of
from robustsmooth.evaluation.attack.plan import AttackPlan, Variant
from robustsmooth.evaluation.attack.summary import (
    CertifiedLog,
    beneath_certified,
    summarize_variant,
    table_of,
)
from robustsmooth.evaluation.attack.target import Decision, SinglePass, Target
from robustsmooth.evaluation.base import Evaluation
from robustsmooth.evaluation.context import answers_of, image_shape
from robustsmooth.kinds import ATTACK, LogKind
from robustsmooth.models import is_random
from robustsmooth.smoothing import ABSTAIN, ImageRandomness, Noise, fingerprint
from robustsmooth.smoothing.numerics import autocast
from robustsmooth.statistics import short

_TOLERANCE = 1e-5  # relative; how far an attack may leave its budget by rounding


class AttackEvaluation(Evaluation):
    """Attacks every test image; writes ``attack.tsv``, ``summary.json`` and a picture.

    The attack follows the gradient of the base classifier or, by its objective, of the smoothed one. Whether
    it has succeeded is decided by the target, on the image that the attack returns; distances are measured on
    that image too. With a `source`, another network is attacked and the images are shown to the target
    (transfer).

    There are two modes. ``budget`` measures the accuracy within each epsilon. ``minimum`` looks for the
    smallest perturbation that succeeds (that changes the answer or, with ``attack.topk``, moves the label out
    of the best `topk`). Where none was found the attack has failed, and its distance is ignored.

    Logged for each budget: ``test/attack_acc@<epsilon>`` and ``test/attack_abstention@<epsilon>``; in the
    mode ``minimum`` ``test/attack_success``, ``test/attack_median_<norm>``, ``test/attack_mean_<norm>``. With
    several numbers of noises ``,m=<number>`` follows.

    The random numbers of an attack do not depend on the other images of its batch, except for networks that
    are random inside and for AutoAttack with ``one_by_one=false``. Rounding does: a pass over another number
    of images may round differently in the last digit. With another batch size or number of ranks, or after an
    interruption, distances agree to about 1e-6 (relative), and an answer may differ for an image that is this
    close to a decision boundary. A later start in the same folder with more budgets adds their rows.

    Args:
        attack: The attack on each image; not targeted.
        target: The classifier that decides.
        folder: Where everything is written.
        mode: ``budget`` or ``minimum``.
        epsilons: Budgets; the attack's own by default.
        num_noises: Numbers of noises of its objective; the attack's own by default.
        batch_size: Images that are attacked at a time, at most; an attack that works image by image gets one.
            An objective with noise multiplies it by ``attack.copies_per_pass``.
        source: The network that is attacked; the tested one by default.
        source_noise: The noise that it was trained with, which the attack's noise follows.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``, as of the trainer.
        certified: A certification of the target, to compare with; the attack must be in l2.
        save: Format in which the adversarial images are saved; None to save none. See `ImageStore`.
        pictures: How many images ``attack_grid.png`` shows (the first ones).
        seed: Addresses all randomness.
        settings: What else the rows depend on, as plain values, such as the data set.
        progress: Show a progress bar, and a table at the end.

    Raises:
        ValueError: If the arguments contradict each other.
    """

    kind: ClassVar[LogKind] = ATTACK
    verb: ClassVar[str] = "attacking"

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
        source_noise: Noise | None = None,
        precision: str = "32-true",
        certified: CertifiedLog | None = None,
        save: Literal["safetensors", "npz"] | None = None,
        pictures: int = 0,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
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
        self.source, self.source_noise = source, source_noise
        self.precision, self.certified, self.pictures = precision, certified, pictures
        self.images = ImageStore(folder, save)

    # ------------------------------------------------------------------ the evaluation

    def begin(self, trainer: pl.Trainer, network: nn.Module) -> dict[str, Any]:
        """See `Evaluation.begin`: prepare the target, and complete the plan with its noise."""
        device, shape = trainer.strategy.root_device, image_shape(trainer)
        self._network = network if self.source is None else self.source.to(device).eval()
        self._check_classes(network)
        self.target.advance = self.advance
        self.target.set_up(trainer, network, self.written_settings())
        noise = self.target.noise if self.source is None else self.source_noise
        self.plan = self.plan.completed(noise, is_random(self._network))
        self._variants = self.plan.variants
        everything = list(getattr(getattr(trainer, "datamodule", None), "test_indices", ()))
        self.images.pictured = frozenset(everything[: self.pictures])
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._saved: set[Key] | None = None  # known on rank 0, which reports
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
        return [(variant.epsilon, variant.num_noise) for variant in self._variants]

    def evaluate(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch) -> None:
        """See `Evaluation.evaluate`: attack unfinished images in full device batches."""
        if self.certified is not None:
            self.certified.compare(batch, self._names)
        self._waiting += [item for item in zip(*batch, strict=True) if not self.is_finished(int(item[2]))]
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
        for variant in self._variants:
            mine = [row for row in rows if (row["epsilon"], row["num_noise"]) == variant.name]
            epsilon = None if math.isinf(variant.epsilon) else variant.epsilon
            said = {
                "epsilon": epsilon,
                "num_noise": variant.num_noise,
                **summarize_variant(mine, self.plan.norm),
            }
            metrics |= self.plan.metrics(variant, said)
            if self.certified is not None and self.plan.mode == "budget":
                beside = beneath_certified(mine, variant.epsilon, self.certified, self.target.alpha)
                said["certified"] = dataclasses.asdict(beside)
                warning = beside.warning(variant.epsilon)
                warnings += [warning] if warning else []
            facts.append(said)
        keys = {(int(row["idx"]), float(row["epsilon"]), int(row["num_noise"])) for row in rows}
        if self._saved is not None and keys - self._saved:
            save = self.images.save
            warnings.append(
                f"{len(keys - self._saved)} of {len(rows)} rows have no image in attack.{save}: they were "
                f"written by a start without save={save}; the same command in a new folder "
                "(hydra.run.dir=...) saves all images"
            )
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
        """See `Evaluation.after_merge`: merge the images, and draw those of the largest budget."""
        images = self.images.merge()
        if self.images.save is not None:
            self._saved = set() if images is None else set(keys_of(images))
        if images is not None and self.images.pictured:
            self._draw(images, getattr(getattr(trainer, "datamodule", None), "class_names", ()))
        self.images.clean_up()

    # ------------------------------------------------------------------ one device batch

    @property
    def at_a_time(self) -> int:
        """The most images that are attacked together."""
        return 1 if getattr(self.plan.attack, "one_by_one", False) else self.batch_size

    def _attack_batch(self) -> None:
        """Attack the first images of the queue."""
        chosen, self._waiting = self._waiting[: self.at_a_time], self._waiting[self.at_a_time :]
        images, labels, indices = (torch.stack(part) for part in zip(*chosen, strict=True))
        clean = self._decide(images, labels, indices)
        for variant in self._variants:
            keys = [(index, variant.epsilon, variant.num_noise) for index in indices.tolist()]
            if all(self.has(*key) for key in keys):
                continue
            start = time.perf_counter()
            with autocast(self.precision, images.device), self._watched():
                randomness = ImageRandomness(self.seed, "attack", indices)
                points = variant.attack(self._network, images, labels, randomness=randomness)
            if self.target.levels is not None:  # the target takes images on a grid only
                steps = self.target.levels
                points = displace(images, quantize(points - images, steps, variant.epsilon, self.plan.norm))
            decision = self._decide(points, labels, indices)
            seconds = (time.perf_counter() - start) / len(chosen)
            self._write(variant, keys, images, points, labels, clean, decision, seconds)
        self.advance(0, len(chosen))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Move the progress bar at every pass of the attack, also of one from a library."""
        watch = self._network.register_forward_pre_hook(lambda _, inputs: self.advance(len(inputs[0])))
        try:
            yield
        finally:
            watch.remove()

    def _decide(self, images: Tensor, labels: Tensor, indices: Tensor) -> Decision:
        with autocast(self.precision, images.device):
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
        """Write the rows that are missing, and before them their images."""
        perturbation = points.double() - images.double()
        lengths = {norm: distance(perturbation, norm).tolist() for norm in ("l2", "linf")}
        self._check_budget(variant, lengths)
        new = [place for place, key in enumerate(keys) if not self.has(*key)]
        self.images.add(
            [keys[place] for place in new],
            images[new],
            points[new],
            labels[new].tolist(),
            [decision.predictions[place] for place in new],
        )
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

    # ------------------------------------------------------------------ helpers

    def _check_classes(self, network: nn.Module) -> None:
        ours, theirs = (getattr(item, "num_classes", None) for item in (network, self._network))
        if ours != theirs:
            raise ValueError(
                f"the source has {theirs} classes and the target {ours}: images transfer between networks of "
                "the same classes"
            )

    def _draw(self, images: dict[str, Any], class_names: Sequence[str]) -> None:
        largest = max(self._variants, key=lambda variant: (variant.epsilon, variant.num_noise))
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

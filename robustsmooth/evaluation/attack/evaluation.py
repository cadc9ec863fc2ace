"""Attacks inside ``trainer.test``: one row per image and budget, resumable, on any number of ranks."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from rich.console import Console
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
from robustsmooth.evaluation.context import fingerprint, gather, image_shape, images_here, network_of
from robustsmooth.evaluation.progress import VotingProgress
from robustsmooth.evaluation.records import RecordLog
from robustsmooth.models import is_random
from robustsmooth.smoothing import ABSTAIN, ImageRandomness

__all__ = ["AttackEvaluation"]

COLUMNS = [
    *["idx", "label", "epsilon", "num_noise", "clean", "clean_correct", "adversarial", "success", "abstain"],
    *["l2", "linf", "votes", "time"],
]
KEY = ["idx", "epsilon", "num_noise"]
_TOLERANCE = 1e-5  # relative, by which a foreign attack may leave its budget in rounding


class AttackEvaluation(Callback):
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

    Rows do not depend on the loader's batch or the number of ranks, except for networks that are random
    by themselves and for AutoAttack with ``one_by_one=false``, whose draws are shared by a device batch.
    A later start in the same folder with more budgets adds their rows.

    Args:
        attack: What is done to each image; not targeted.
        target: Who decides.
        folder: Where everything is written.
        mode: ``budget`` or ``minimum``.
        epsilons: Budgets; the attack's own by default.
        num_noises: Numbers of noises of its objective; the attack's own by default.
        batch_size: Images per device batch; always filled up to it, so that rounding is the same. An
            objective with noise multiplies it by ``attack.copies_per_pass``.
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
        self.target, self.folder = target, Path(folder)
        self.batch_size, self.source, self.source_sigma = batch_size, source, source_sigma
        self.precision, self.certified, self.pictures = precision, certified, pictures
        self.images = ImageStore(folder, save)
        self.seed, self.settings, self.progress = seed, dict(settings or {}), progress
        self.console = Console(stderr=True)
        self.summary: dict[str, Any] = {}
        """What ``summary.json`` holds, once the test is over."""
        self._bar: VotingProgress | None = None

    # ------------------------------------------------------------------ the test

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Get the target ready and open the log."""
        network = network_of(pl_module)
        self._network = network if self.source is None else self.source.to(pl_module.device).eval()
        self._check_classes(network)
        then = RecordLog.written_settings(self.folder, "attack")
        shape = image_shape(trainer)
        self.target.set_up(network, shape, pl_module.device, then, trainer.strategy.broadcast)
        sigma = self.target.sigma if self.source is None else self.source_sigma
        self.plan = self.plan.completed(sigma, is_random(self._network))
        self.variants = self.plan.variants
        settings = self._settings(network)
        self._log = RecordLog(self.folder, "attack", COLUMNS, KEY, settings, rank=trainer.global_rank)
        everything = list(getattr(getattr(trainer, "datamodule", None), "test_indices", ()))
        self.images.pictured = frozenset(everything[: self.pictures])
        if self.certified is not None and everything and self.certified.radius.keys().isdisjoint(everything):
            raise ValueError(f"`{self.certified.path}` certifies none of the images to attack")
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._seen: list[int] = []
        self._votes = 0
        finished = len(self._log.finished) // len(self.variants) // trainer.world_size
        self._bar = VotingProgress(
            "attacking",
            max(0, images_here(trainer) - finished),
            self.target.votes * (len(self.variants) + 1),
            self.console,
            disable=not (self.progress and trainer.is_global_zero),
        )

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *args: Any
    ) -> None:
        """Attack as many unfinished images as fill device batches."""
        for image, label, index in zip(*batch, strict=True):
            self._seen.append(int(index))
            if any((int(index), each.epsilon, each.num_noise) not in self._log for each in self.variants):
                self._waiting.append((image, label, index))
        while len(self._waiting) >= self.batch_size:
            self._attack_batch()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finish all images; merge the ranks' rows and images; log the metrics."""
        while self._waiting:
            self._attack_batch()
        self._close()
        expected = [(str(index), *each.name) for index in gather(self._seen) for each in self.variants]
        if trainer.is_global_zero:
            self._log.merge(expected)
            self._draw(trainer)
        trainer.strategy.barrier()
        wanted = set(expected)
        rows = [row for row in self._log.rows() if tuple(row[name] for name in KEY) in wanted]
        self._metrics, facts = self._summarize(rows)
        self.summary = {
            "images": len(expected) // len(self.variants),
            **facts,
            "settings": self._log.settings,
        }
        pl_module.log_dict(
            {key: value for key, value in self._metrics.items() if value is not None},
            sync_dist=trainer.world_size > 1,
        )

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``summary.json`` and print the table."""
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        self.summary = {"metrics": dict(sorted({**logged, **self._metrics}.items())), **self.summary}
        if not trainer.is_global_zero:
            return
        draft = self.folder / "summary.json.tmp"
        draft.write_text(json.dumps(self.summary, indent=2) + "\n", encoding="utf-8")
        draft.replace(self.folder / "summary.json")
        for line in self._warnings:
            self.console.print(f"[yellow]Warning:[/] {line}", highlight=False, soft_wrap=True)
        if self.progress:
            self.console.print(table_of(self.summary))

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave file and terminal in order; finished rows stay."""
        self._close()

    # ------------------------------------------------------------------ one device batch

    def _attack_batch(self) -> None:
        """Attack the first images that wait, filled up to the device batch's size."""
        chosen, self._waiting = self._waiting[: self.batch_size], self._waiting[self.batch_size :]
        count = len(chosen)
        filled = [chosen[place % count] for place in range(self.batch_size)]
        images, labels, indices = (torch.stack(part) for part in zip(*filled, strict=True))
        clean = self._decide(images, labels, indices, count)
        for variant in self.variants:
            keys = [(index, variant.epsilon, variant.num_noise) for index in indices[:count].tolist()]
            if all(key in self._log for key in keys):
                continue
            start = time.perf_counter()
            with self._autocast(images.device):
                randomness = ImageRandomness(self.seed, "attack", indices)
                points = variant.attack(self._network, images, labels, randomness=randomness)
            if self.target.levels is not None:  # it only knows images on a grid
                steps = self.target.levels
                points = displace(images, quantize(points - images, steps, variant.epsilon, self.plan.norm))
            decision = self._decide(points, labels, indices, count)
            seconds = (time.perf_counter() - start) / count
            self._write(variant, keys, images, points, labels, clean, decision, seconds)
        self._advance(0, count)

    def _decide(self, images: Tensor, labels: Tensor, indices: Tensor, count: int) -> Decision:
        with self._autocast(images.device):
            decision = self.target.decide(images, labels, indices, count, self.plan.attack.topk)
        self._advance(decision.votes * count, 0)
        return decision

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
        count = len(keys)
        perturbation = points[:count].double() - images[:count].double()
        lengths = {norm: distance(perturbation, norm).tolist() for norm in ("l2", "linf")}
        self._check_budget(variant, lengths)
        self.images.add(keys, images[:count], points[:count], labels[:count].tolist(), decision.predictions)
        for place, key in enumerate(keys):
            if key in self._log:
                continue
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
            self._log.append(row)

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

    def _settings(self, network: nn.Module) -> dict[str, Any]:
        """What rows depend on."""
        return {
            "mode": self.plan.mode,
            "attack": self.plan.settings(),
            "target": self.target.settings(),
            "network": fingerprint(network),
            "source": None if self.source is None else fingerprint(self.source),
            "numerics": {
                "precision": self.precision,
                "batch_size": self.batch_size,
                "torch": torch.__version__,
            },
            "seed": self.seed,
            **self.settings,
        }

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)

    def _summarize(self, rows: Sequence[Mapping[str, str]]) -> tuple[dict[str, float | None], dict[str, Any]]:
        """Metrics to log, by key, and the facts of every variant."""
        metrics: dict[str, float | None] = {}
        facts: list[dict[str, Any]] = []
        self._warnings: list[str] = []
        for each in self.variants:
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
                self._warnings += [warning] if warning else []
            facts.append(said)
        return metrics, {
            "attack": type(self.plan.attack).__name__,
            "norm": self.plan.norm,
            "mode": self.plan.mode,
            "variants": facts,
            "warnings": self._warnings,
        }

    def _draw(self, trainer: pl.Trainer) -> None:
        """Merge the images and draw the largest budget's pictured ones."""
        images = self.images.merge()
        if images is None or not self.images.pictured:
            return
        largest = max(self.variants, key=lambda each: (each.epsilon, each.num_noise))
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
            names = getattr(getattr(trainer, "datamodule", None), "class_names", ())
            draw_grid(
                self.folder / "attack_grid.png",
                {name: values[chosen] for name, values in images.items()},
                f"{type(largest.attack).__name__} with {type(largest.attack.objective).__name__}{budget}",
                names,
            )

    def _advance(self, votes: int, images: int) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        self._votes += votes
        for _ in range(images):
            self._bar.advance(self._bar.votes_per_image)
        self._bar.update(self._votes)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if hasattr(self, "_log"):
            self._log.close()

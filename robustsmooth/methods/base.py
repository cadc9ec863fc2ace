"""The base of all training methods: network, optimiser, schedule, metrics, addressed randomness."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypedDict, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MaxMetric, MeanMetric

from robustsmooth.data import UNLABELED, Batch
from robustsmooth.smoothing import (
    BatchRandomness,
    GaussianNoise,
    ImageRandomness,
    Noise,
    NoNoise,
    address,
    check_images,
    contains_label,
)

Parameters = Iterable[nn.Parameter] | list[dict[str, Any]]
Optimizing = Callable[[Parameters], Optimizer]


class Training(TypedDict, total=False):
    """What every method takes beside network, optimiser and noise level; see `ClassificationModule`."""

    scheduler: Callable[[Optimizer], LRScheduler] | None
    noise: Callable[..., Noise]
    scheduler_interval: Literal["epoch", "step"]
    seed: int


class ClassificationModule(pl.LightningModule):
    """Base class of the training methods; a subclass defines the loss of a batch.

    Randomness in training is addressed by (seed, purpose, epoch, batch, rank): a run that is killed
    and resumed draws the same numbers as an uninterrupted run. Explicit draws come from `randomness`. Layers
    that use the global generator (dropout, noise layers) are covered too, since that generator is seeded
    before each step.

    Logs ``train/loss``, ``train/top1`` and ``train/learning_rate`` per epoch, and in validation
    ``val/loss``, ``val/top1``, ``val/top5`` on clean images and ``val/noisy_top1`` under noise of the
    training level, which is ``val/top1`` again if that level is 0: best.ckpt is chosen by it.

    Args:
        network: Maps images in [0, 1], ``(B, C, H, W)``, to logits ``(B, K)``; has ``num_classes``.
        optimizer: Makes the optimiser from the parameters (a partial).
        scheduler: Makes the schedule from the optimiser (a partial); constant learning rate if None.
        sigma: Noise level of training and validation, in pixel units; 0 for none.
        noise: Makes the noise of that level (a partial), from the ``smoothing`` group. `self.noise` is the
            result; `NoNoise` if sigma is 0.
        scheduler_interval: Whether the schedule counts epochs or optimiser steps.
        seed: The run's seed.

    Raises:
        ValueError: If `sigma` is negative or not finite, or the noise has a level of its own.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        *,
        sigma: float = 0.0,
        noise: Callable[..., Noise] = GaussianNoise,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(sigma, int | float) or not 0 <= sigma < float("inf"):
            raise ValueError(f"`method.sigma` must be a finite number of at least 0, got {sigma}")
        self.network = network
        self.optimizer_partial = optimizer
        self.scheduler_partial = scheduler
        self.scheduler_interval = scheduler_interval
        own = getattr(noise, "keywords", {}).get("sigma")
        if own:  # 0.0 in smoothing=none
            raise ValueError(
                f"`smoothing.sigma` has no effect in training, got {own}; set method.sigma={own}"
            )
        self.sigma = float(sigma)
        self.noise = noise(sigma=self.sigma) if sigma > 0 else NoNoise()
        self.seed = seed
        self._place = (0, 0, 0)  # epoch, batch, rank of the current training step
        # "disable" lets NaN through, but ignores weights: so one value per image is given.
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.train_top1 = MeanMetric()
        self.train_learning_rate = MaxMetric(nan_strategy="disable")
        self.train_others = nn.ModuleDict()  # see `mean_metric`
        self.val_loss = MeanMetric(nan_strategy="disable")
        self.val_top1 = MeanMetric()
        self.val_top5 = MeanMetric()
        self.val_noisy_top1 = MeanMetric()

    @property
    def datamodule(self) -> Any:
        """The data of the training."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all devices, without gradients; all of them must call it."""
        if self._trainer is None:
            return value
        mean = self.trainer.strategy.reduce(value, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    # ------------------------------------------------------------------ what a method defines

    @property
    def needs_labels(self) -> bool:
        """Whether this method needs the labels of all training images."""
        return True

    @abstractmethod
    def training_loss(self, batch: Batch) -> Tensor | dict[str, Tensor]:
        """The loss to minimise on a batch.

        Args:
            batch: Images in [0, 1], labels, indices.

        Returns:
            A scalar; or a dict whose ``"loss"`` is that scalar, ``"logits"`` (optional) the
            ``(B, K)`` logits that count for ``train/top1``, and whose other entries are scalars,
            logged as ``train/<key>``.
        """

    def parameter_groups(self) -> Parameters:
        """The parameters that are trained; override this for separate weight decays."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    # ------------------------------------------------------------------ randomness

    def randomness(self, purpose: str) -> BatchRandomness:
        """Random numbers of this training step and rank for one purpose."""
        return BatchRandomness(self.seed, f"train/{purpose}", *self._place)

    def noises(self, images: Tensor, copies: int = 1, purpose: str = "noise", draw: int = 0) -> Tensor:
        """Noise of the training level for a batch, ``(copies, B, C, H, W)``.

        Args:
            images: ``(B, C, H, W)``.
            copies: Noises per image.
            purpose: Noises of two purposes are independent; the same purpose gives the same ones again.
            draw: Distinguishes several draws of one purpose.

        Raises:
            ValueError: If the noise level is 0, or `copies` is below 1.
        """
        if self.sigma == 0:
            raise ValueError(
                "`method.sigma` is 0 and this method trains on noise: set it, such as method.sigma=0.25, or "
                "`sigma: 0.25` in the method's YAML file"
            )
        if copies < 1:
            raise ValueError(f"`copies` of the noise must be at least 1, got {copies}")
        return self.noise.draw(images, copies, self.randomness(purpose), draw)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the global generators for this step, for layers that draw from them."""
        if batch_idx == 0:  # checking every batch would make a GPU wait
            check_images(batch.images, where="the data set's images")
        self._place = (self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(address(self.seed, "train/global", *self._place))

    # ------------------------------------------------------------------ Lightning

    def on_fit_start(self) -> None:
        """Refuse extra images without labels, unless the method can use them."""
        extra = getattr(self.datamodule, "extra", None)
        if extra is not None and self.needs_labels and bool((extra.labels == UNLABELED).any()):
            raise ValueError(
                f"`data.extra` holds images without labels, and {type(self).__name__} learns from them: set "
                "data.extra.keep_labels=true if the file has some, or method=smoothadv_selftraining or heat"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)`` in [0, 1]."""
        return self.network(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: the method's loss, logged."""
        result = self.training_loss(batch)
        parts = dict(result) if isinstance(result, dict) else {"loss": result}
        loss = parts.pop("loss")
        logits = parts.pop("logits", None)
        size = len(batch.images)
        self.train_loss.update(loss.detach().expand(size))
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
        if logits is not None:
            self.train_top1.update(contains_label(logits.detach(), batch.labels).float())
            self.log("train/top1", self.train_top1, on_step=False, on_epoch=True)
        self.train_learning_rate.update(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("train/learning_rate", self.train_learning_rate, on_step=False, on_epoch=True)
        for key, value in parts.items():
            metric = self.mean_metric(key)
            metric.update(value.detach().to(self.device).expand(size))
            where = f"train_others.{key}"
            self.log(f"train/{key}", metric, on_step=False, on_epoch=True, metric_attribute=where)
        return loss

    def mean_metric(self, key: str) -> MeanMetric:
        """The mean of ``train/<key>`` over an epoch, created when it is first asked for."""
        if key not in self.train_others:
            self.train_others[key] = MeanMetric(nan_strategy="disable").to(self.device)
        return cast(MeanMetric, self.train_others[key])

    def on_validation_epoch_start(self) -> None:
        """Seed the global generators, so that layers that use them draw the same numbers every time."""
        torch.manual_seed(address(self.seed, "validation/global", self.global_rank))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Clean and noisy accuracy; the noise of an image is the same in every epoch."""
        if len(batch.labels):  # a rank may have no image
            self._validate(batch)
        metrics = {"val/loss": self.val_loss, "val/top1": self.val_top1, "val/top5": self.val_top5}
        self.log_dict({**metrics, "val/noisy_top1": self.val_noisy_top1}, on_step=False, on_epoch=True)

    def _validate(self, batch: Batch) -> None:
        images, labels, indices = batch
        logits = self.network(images)
        self.val_loss.update(functional.cross_entropy(logits, labels).expand(len(images)))
        self.val_top1.update(contains_label(logits, labels).float())
        self.val_top5.update(contains_label(logits, labels, k=5).float())
        if self.sigma > 0:
            noise = self.noise.draw(images, 1, ImageRandomness(self.seed, "validation/noise", indices))[0]
            logits = self.network(images + noise)
        self.val_noisy_top1.update(contains_label(logits, labels).float())

    def configure_optimizers(self) -> Any:
        """The optimiser and, if there is one, its schedule."""
        optimizer = self.optimizer_partial(self.parameter_groups())
        if self.scheduler_partial is None:
            return optimizer
        schedule = {"scheduler": self.scheduler_partial(optimizer), "interval": self.scheduler_interval}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

"""The method of Sun et al. 2025, "Average Certified Radius is a Poor Metric": easy images, attacked noise."""

from typing import Any, Unpack

import torch
from scipy.special import ndtri
from torch import Tensor, nn

from robustsmooth.attacks import NoisePGD
from robustsmooth.data import Batch
from robustsmooth.losses import CopiesLoss, CrossEntropy
from robustsmooth.methods.adversarial import require_noise_attack
from robustsmooth.methods.base import ClassificationModule, Optimizing, Training
from robustsmooth.methods.noisy import copies_loss, require_copies, require_noise
from robustsmooth.smoothing import Numerics, Tally, VoteEngine
from robustsmooth.smoothing.addressing import address
from robustsmooth.statistics import clopper_pearson_lower

_CHUNK = 256  # images that are loaded at once for their votes


def certainty_weights(right: Tensor, votes: int, floor: float, alpha: float) -> Tensor:
    """How often images are drawn: in proportion to the radius that their votes certify.

    The share of right votes is clipped to [`floor`, 1]; the weight is ``Phi^-1`` of the one-sided
    Clopper-Pearson lower bound from that many correct ones of `votes`.

    Args:
        right: Right votes of each image, ``(N,)``.
        votes: Votes of each image.
        floor: The smallest share that counts: harder images get the weight of this share.
        alpha: Failure probability of the bound.

    Returns:
        ``(N,)`` float64, positive.

    Raises:
        ValueError: If `floor` is so small for so few votes that the weight would not be positive.
    """
    counts = right.double().clamp(min=floor * votes).cpu().numpy()
    lowest = float(ndtri(clopper_pearson_lower(floor * votes, votes, alpha)))
    if lowest <= 0:
        raise ValueError(
            f"`method.share_floor` is too small for {votes} votes: an image at {floor} would have the weight "
            f"{lowest:.2f}, which must be positive; raise share_floor or reweight_votes"
        )
    return torch.from_numpy(ndtri(clopper_pearson_lower(counts, votes, alpha)))


class Sun2025Module(ClassificationModule):
    r"""Trains on easy images, with noises that make them hard.

    Until epoch E: the loss of m noisy copies, as `GaussianModule`. At epoch E `discard_votes` votes are
    counted for every training image, and images whose share of correct votes is below `discard_below` are
    dropped for good. From E on, every `reweight_every` epochs, `reweight_votes` votes are counted for every
    remaining image, and images are drawn with replacement by `certainty_weights`, as many per epoch as
    before. The noises are attacked, at constant norm, until the network errs.

    The votes are addressed by epoch and image and are part of the checkpoint: a resumed run draws the same
    images in the same order, on any number of devices.

    Its authors' point is that a high average certified radius can come from easy images alone. Compare the
    certified curve, or the distribution of p_A, too, and not only the ACR of this method.

    As in `SmoothAdvModule`, and unlike the published code, one step sees all images of the batch.

    Args:
        network: See `ClassificationModule`.
        optimizer: See `ClassificationModule`.
        sigma: Noise level in pixel units; positive.
        attack: Moves the noises; see `NoisePGD`.
        loss: Of the noisy copies; cross-entropy if None.
        copies: Noises per image, m.
        warmup_epochs: E; 0 to start with the votes.
        discard_below: t, in [0, 1]; 0 drops nothing.
        discard_votes: Votes that decide which images are dropped.
        reweight_every: Epochs from one weighting to the next; None for equal weights.
        reweight_votes: Votes of a weighting.
        share_floor: Smallest share of right votes in a weight.
        alpha: Of the bound in a weight.
        voter: A trained network whose votes decide which images are dropped; None for the network itself.
        **training: See `ClassificationModule`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizing,
        *,
        sigma: float,
        attack: NoisePGD,
        loss: CopiesLoss | None = None,
        copies: int = 4,
        warmup_epochs: int = 60,
        discard_below: float = 0.5,
        discard_votes: int = 100,
        reweight_every: int | None = 10,
        reweight_votes: int = 16,
        share_floor: float = 0.75,
        alpha: float = 0.1,
        voter: nn.Module | None = None,
        **training: Unpack[Training],
    ) -> None:
        super().__init__(network, optimizer, sigma=sigma, **training)
        require_noise(sigma)
        require_noise_attack(attack)
        self.loss = loss or CrossEntropy()
        require_copies("copies", copies, self.loss)
        require_copies("discard_votes", discard_votes)
        require_copies("reweight_votes", reweight_votes)
        if reweight_every is not None:
            require_copies("reweight_every", reweight_every)
        if warmup_epochs < 0:
            raise ValueError(f"`method.warmup_epochs` must be at least 0, got {warmup_epochs}")
        for name, value in (("discard_below", discard_below), ("share_floor", share_floor)):
            if not 0 <= value <= 1:
                raise ValueError(f"`method.{name}` must be in [0, 1], got {value}")
        if not 0 < alpha < 1:
            raise ValueError(f"`method.alpha` must be in (0, 1), got {alpha}")
        none = torch.zeros(1, device="cpu")  # wherever the network is built
        certainty_weights(none, reweight_votes, share_floor, alpha)  # a weight must be positive
        self.attack, self.copies = attack, copies
        self.warmup_epochs = warmup_epochs
        self.discard_below, self.discard_votes = discard_below, discard_votes
        self.reweight_every, self.reweight_votes = reweight_every, reweight_votes
        self.share_floor, self.alpha = share_floor, alpha
        self.voter = None if voter is None else voter.requires_grad_(False)
        self.image_weights: Tensor | None = None
        """Weight of each training image from `warmup_epochs` on, in the order of the data's positions."""
        self._voted = -1  # the epoch of the last votes

    # ------------------------------------------------------------------ the loss

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of noisy copies, with attacked noises from `warmup_epochs` on."""
        noises = self.noises(batch.images, self.copies)
        if self.current_epoch >= self.warmup_epochs:
            noises = self.attack(
                self.network,
                batch.images,
                batch.labels,
                noises=noises,
                randomness=self.randomness("attack"),
            )
        result = copies_loss(self.network, self.loss, batch.images, noises, batch.labels, sigma=self.sigma)
        if self.image_weights is None:
            return result
        return {**result, "kept_images": (self.image_weights > 0).sum().float()}

    # ------------------------------------------------------------------ which images

    def on_fit_start(self) -> None:
        """Tell the data which images an epoch draws."""
        super().on_fit_start()
        if getattr(self.datamodule, "extra", None) is not None:
            raise ValueError("this method chooses among the training images itself: leave `data.extra` out")
        self.datamodule.draw_weights = self.draw_weights

    def draw_weights(self, epoch: int) -> Tensor | None:
        """The weights of the images in an epoch; counts votes first when they are due.

        The sampler calls it at the beginning of an epoch, on all ranks; a checkpoint contains the weights of
        its epoch.
        """
        if epoch < self.warmup_epochs:
            return None
        due = self.warmup_epochs
        if self.reweight_every is not None:
            due += (epoch - due) // self.reweight_every * self.reweight_every
        if self._voted != due:
            self._vote(due)
        return self.image_weights

    def _vote(self, epoch: int) -> None:
        if self.image_weights is None:
            kept = torch.ones(len(self.datamodule.train_positions), dtype=torch.bool)
            if self.discard_below > 0:
                right = self._right_votes(
                    self.voter or self.network, self.discard_votes, "discard", epoch, kept
                )
                kept = right >= self.discard_below * self.discard_votes
            if not kept.any():
                raise ValueError(
                    f"every training image has less than `method.discard_below`={self.discard_below} of its "
                    "votes right, so none is left to train on: lower it, or raise method.warmup_epochs"
                )
            self.image_weights = kept.double()
        if self.reweight_every is not None:
            kept = self.image_weights > 0
            right = self._right_votes(self.network, self.reweight_votes, "reweight", epoch, kept)
            weights = certainty_weights(right, self.reweight_votes, self.share_floor, self.alpha)
            self.image_weights = torch.where(kept, weights, torch.zeros_like(weights))
        self._voted = epoch

    def _right_votes(self, network: nn.Module, votes: int, purpose: str, epoch: int, kept: Tensor) -> Tensor:
        """How many votes each of the training images has for its label; 0 for those not kept. ``(N,)``."""
        positions = torch.tensor(self.datamodule.train_positions)
        places = {int(positions[place]): place for place in kept.nonzero().flatten().tolist()}
        mine = sorted(places)[self.global_rank :: self.trainer.world_size]
        engine = VoteEngine(
            network,
            self.noise,
            Tally(n=votes, purpose=f"train/{purpose}", batch_size=_CHUNK),
            seed=address(self.seed, f"train/{purpose}", epoch),
            # Fixed, so that the votes do not depend on which format is faster.
            numerics=Numerics(precision=str(self.trainer.precision), channels_last=False),  # type: ignore[arg-type]
        )
        right = torch.zeros(len(positions), device=self.device)
        mode = network.training
        network.eval()
        part = self.datamodule.part("train")
        with torch.no_grad():
            for start in range(0, len(mine), _CHUNK):
                batch = self.datamodule.convert(part.__getitems__(mine[start : start + _CHUNK]))
                engine.submit(batch.images.to(self.device), batch.indices, batch.labels)
                for done in engine.run(flush=start + _CHUNK >= len(mine)):
                    right[places[done.index]] = float(done.record[done.label])
        network.train(mode)
        return self.trainer.strategy.reduce(right, reduce_op="sum").cpu()

    # ------------------------------------------------------------------ exact resume

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the weights: which images an epoch draws."""
        checkpoint["image_weights"] = {"weights": self.image_weights, "voted": self._voted}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        saved = checkpoint["image_weights"]
        self.image_weights, self._voted = saved["weights"], saved["voted"]

"""The base of all attacks: their contract, their noise, and how the network is left unchanged."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robustsmooth.attacks.geometry import Norm, distance, expand
from robustsmooth.attacks.objectives import Network, Objective, Plain, Stein
from robustsmooth.smoothing.addressing import BatchRandomness, Randomness
from robustsmooth.smoothing.noise import GaussianNoise, Noise

# Draws of one `Randomness` that never coincide: 0 is the fixed noise, 1, 2, ... the fresh noise of each step,
# and negative numbers are for these two.
SEED_DRAW = -1
START_DRAW = -3


class View(NamedTuple):
    """The oracle's view of some points.

    Attributes:
        loss: ``(B,)``, what the attack maximises.
        success: ``(B,)`` bool, whether the classifier under attack errs there.
    """

    loss: Tensor
    success: Tensor


class Oracle:
    """The attacked classifier as the optimiser uses it: loss, success and gradient at a point.

    Args:
        attack: Holds the objective, its noise and the goal.
        network: The base classifier.
        images: ``(B, ...)`` in [0, 1].
        labels: ``(B,)``, the classes to leave, or to reach for a targeted attack.
        randomness: The source of the attack's noise.
        noises: ``(m, B, ...)`` to use at every step instead of the attack's own.
    """

    def __init__(
        self,
        attack: "Attack",
        network: Network,
        images: Tensor,
        labels: Tensor,
        randomness: Randomness,
        noises: Tensor | None = None,
    ) -> None:
        self.attack, self.images, self.labels, self.randomness = attack, images, labels, randomness
        self._network = network
        self._labels_checked = False
        if noises is not None and noises.shape[1:] != images.shape:
            raise ValueError(
                f"`noises` must be (m, {', '.join(map(str, images.shape))}) to go with the images, "
                f"got {tuple(noises.shape)}"
            )
        self._given = noises
        self._fixed = noises

    def part(self, start: int, stop: int) -> "Oracle":
        """The oracle of some of the images, all under the fixed noise of the first of them.

        For libraries, which pass on the images that are not broken yet, and have no notion of noise.
        """
        images, labels = self.images[start:stop], self.labels[start:stop]
        part = Oracle(self.attack, self._network, images, labels, self.randomness)
        noises = self._noises(None)
        part._given = part._fixed = noises.expand(len(noises), *self.images.shape)[:, start : start + 1]
        return part

    def network(self, points: Tensor) -> Tensor:
        """The base classifier's logits; checks the labels once."""
        logits = self._network(points)
        if logits.ndim != 2 or len(logits) != len(points):
            raise ValueError(
                f"`network` must map {len(points)} images to ({len(points)}, classes) logits, "
                f"got shape {tuple(logits.shape)}"
            )
        if not self._labels_checked:
            lowest, highest = int(self.labels.min()), int(self.labels.max())
            if lowest < 0 or highest >= logits.shape[1]:
                raise ValueError(
                    f"`labels` must be in [0, {logits.shape[1] - 1}] for this network's "
                    f"{logits.shape[1]} classes, got {lowest if lowest < 0 else highest}"
                )
            if self.attack.topk >= logits.shape[1]:
                raise ValueError(
                    f"`topk` must be smaller than the network's {logits.shape[1]} classes, "
                    f"got {self.attack.topk}"
                )
            self._labels_checked = True
        return logits

    def climb(self, points: Tensor, step: int) -> tuple[View, Tensor]:
        """The view of the points and the loss's gradient, under the noise of this step (0, 1, ...)."""
        attack = self.attack
        scores, gradient = attack.objective.gradient(
            self.network, points, self.labels, self._noises(step), attack.copies_per_pass
        )
        return self._view(scores), gradient if attack.targeted else -gradient

    def judge(self, points: Tensor) -> View:
        """Loss and success at the points, under the fixed noise, so that points can be compared."""
        with torch.no_grad():
            return self._view(self.scores(points))

    def scores(self, points: Tensor) -> Tensor:
        """The class scores under the fixed noise, ``(B, K)``, differentiable."""
        attack = self.attack
        return attack.objective.scores(self.network, points, self._noises(None), attack.copies_per_pass)

    def _view(self, scores: Tensor) -> View:
        margin = self.attack.margin
        at_label = scores.gather(1, self.labels[:, None])
        if self.attack.targeted:
            others = scores.scatter(1, self.labels[:, None], -torch.inf)
            return View(at_label.squeeze(1), at_label.squeeze(1) >= others.amax(1) + margin)
        ahead = (scores > at_label + margin).sum(1)  # a tie is not ahead
        return View(-at_label.squeeze(1), ahead >= self.attack.topk)

    def _noises(self, step: int | None) -> Tensor:
        """The noises of a step, or the fixed ones for None."""
        attack = self.attack
        if attack.objective.noise == "none":
            return self.images.new_zeros((1, *[1] * self.images.ndim))
        if step is not None and not attack.fixed_noise and self._given is None:
            return self._draw(1 + step)
        if self._fixed is None:
            self._fixed = self._draw(0)
        return self._fixed

    def _draw(self, draw: int) -> Tensor:
        attack = self.attack
        if attack.sigma is None:
            raise ValueError(
                f"`sigma` of {type(attack).__name__} is not set and no `noises` were given: "
                "set attack.sigma to the classifier's noise level"
            )
        if attack.sigma == 0:  # the network itself is random
            return self.images.new_zeros((attack.num_noise, *[1] * self.images.ndim))
        noise = (
            GaussianNoise(attack.sigma) if attack.noise is None else replace(attack.noise, sigma=attack.sigma)
        )
        return noise.draw(self.images, attack.num_noise, self.randomness, draw)


class Incumbent:
    """The best point so far, for each image separately.

    A point that succeeds beats one that does not. Among points that succeed the closer one wins, or
    the one of larger loss; among points that fail always the one of larger loss. With ``"closest"`` a
    difference within rounding does not count, and the first point is kept: on the ball's surface all points
    are equally close.

    Args:
        images: The starting points, ``(B, ...)``.
        prefer: ``"closest"`` or ``"strongest"``.
        norm: The norm in which closeness is measured.
    """

    def __init__(self, images: Tensor, prefer: Literal["closest", "strongest"], norm: Norm) -> None:
        self.images, self.prefer, self.norm = images, prefer, norm
        self._lead = 1e-5 if prefer == "closest" else 0.0  # relative
        self.points = images
        self.success = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._merit = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)

    def offer(self, points: Tensor, view: View) -> None:
        """Keep every point that is better than the one kept for its image."""
        merit = view.loss.double()
        if self.prefer == "closest":
            merit = torch.where(view.success, -distance(points - self.images, self.norm), merit)
        ahead = merit - self._merit > self._lead * merit.abs()
        better = (view.success & ~self.success) | ((view.success == self.success) & ahead)
        self.points = torch.where(expand(better, points), points, self.points)
        self._merit = torch.where(better, merit, self._merit)
        self.success = self.success | view.success


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Looks for a perturbed image that is misclassified: an optimiser times an objective.

    The classifier is the network (`Plain`) or its average over noise. An attack is a value: two with
    the same fields do the same, and `dataclasses.replace` gives one with another budget.

    Contract of every attack: images outside [0, 1] are an error. The result is in [0, 1], and inside the ball
    if there is a budget, also after rounding. Parameters, their gradients, train and eval modes and the
    global random state are not changed. A zero gradient does not give NaN. The caller may be in
    `torch.inference_mode`, under autocast, or in a step of distributed training. The caller measures on the
    result whether the attack succeeded and how far it went.

    Args:
        objective: What to climb; see `robustsmooth.attacks.objectives`.
        sigma: Standard deviation of the attack's own noise, in pixel units, >= 0 (0 for a network that is
            random inside). None: the caller gives `noises`, or sets it.
        noise: Distribution of that noise, used at the level `sigma`. None: Gaussian.
        num_noise: Noisy copies per gradient, m in the papers. More copies are slower and stronger.
        fixed_noise: The same noises at every step, as in SmoothAdv's Pseudocode 1; otherwise fresh
            ones at each.
        copies_per_pass: Noisy copies that go through the network at once; None for all. Fewer copies save
            memory and change nothing else, except for networks that are random inside: they draw once per
            pass and need 1.
        targeted: The labels are the classes to reach, not the ones to leave.
        topk: An attack succeeds if the label is not among the `topk` classes of highest score; used by
            optimisers that keep the closest success.

        margin: Lead in score that a success needs (a difference of logarithms, except for `Stein`). With a
            margin above 0, the closest success against a smoothed classifier is more likely to succeed under
            other noise too, which decides in the end.

    Raises:
        ValueError: If a value is out of its range.
    """

    objective: Objective = field(default_factory=Plain)
    sigma: float | None = None
    noise: Noise | None = field(default=None, repr=False)
    num_noise: int = 1
    fixed_noise: bool = True
    copies_per_pass: int | None = 8
    targeted: bool = False
    topk: int = 1
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Objective):
            raise TypeError(
                f"`objective` must be one of robustsmooth.attacks' objectives, got {self.objective!r}"
            )
        if self.sigma is not None and not self.sigma >= 0:
            raise ValueError(f"`sigma` must be >= 0, got {self.sigma}")
        self._require_positive("num_noise", "copies_per_pass", "topk")
        if not self.margin >= 0:
            raise ValueError(f"`margin` must be >= 0, got {self.margin}")
        if self.targeted and self.topk > 1:
            raise ValueError(f"`topk` must be 1 for a targeted attack, got {self.topk}")
        if self.objective.noise == "required" and self.sigma == 0:
            raise ValueError(f"`sigma` must be > 0 for {type(self.objective).__name__}, got 0")
        if isinstance(self.objective, Stein) and self.noise is not None and self.noise.norm != "l2":
            raise ValueError(
                f"Stein's estimator holds for Gaussian noise, got {type(self.noise).__name__}: choose "
                "attack/objective=plug_in or expectation"
            )
        if self.objective.noise == "none" and self.num_noise > 1:
            raise ValueError(
                f"`num_noise` is {self.num_noise}, but {type(self.objective).__name__} looks at the image "
                "without noise: choose attack/objective=plug_in or expectation"
            )

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be > 0, got {value}")

    def _require_choice(self, name: str, *choices: str | None) -> None:
        value = getattr(self, name)
        if value not in choices:
            known = ", ".join("null" if choice is None else choice for choice in choices)
            raise ValueError(f"`{name}` must be one of {known}, got {value}")

    def __call__(
        self,
        network: Network,
        images: Tensor,
        labels: Tensor,
        *,
        randomness: Randomness | None = None,
        noises: Tensor | None = None,
    ) -> Tensor:
        """Attack a batch.

        Args:
            network: Maps images in [0, 1] to logits, each image by itself. A module is in eval mode during
                the attack.
            images: ``(B, ...)`` floating, in [0, 1].
            labels: ``(B,)`` integers: the classes to leave, or to reach for a targeted attack.
            randomness: The source of noise and random starts; the same ones at every call if None.
            noises: ``(m, B, ...)``, already scaled by sigma: used at every step, in place of the
                attack's own. For a training step that uses the same noises afterwards.

        Returns:
            Perturbed images, ``(B, ...)``, of the images' dtype, without a graph.

        Raises:
            ValueError: If an image is outside [0, 1], a label is not one of the network's classes,
                or shapes do not match.
        """
        _check_batch(images, labels)
        randomness = BatchRandomness(0, "attack") if randomness is None else randomness
        with undisturbed(network, images, randomness) as network:
            # Cloned here: tensors made in inference mode cannot be part of a graph.
            images, labels = images.detach().clone(), labels.detach().clone().long()
            noises = None if noises is None else noises.detach().clone()
            return self._search(Oracle(self, network, images, labels, randomness, noises)).detach()

    def with_epsilon(self, epsilon: float) -> Self:
        """The same attack with another budget, for warm-up and for lists of budgets.

        Raises:
            ValueError: If the attack has no budget, or `epsilon` is not positive.
        """
        if not hasattr(self, "epsilon"):
            raise ValueError(f"{type(self).__name__} has no `epsilon` to change")
        return replace(self, epsilon=epsilon)  # type: ignore[call-arg]

    @abstractmethod
    def _search(self, oracle: Oracle) -> Tensor:
        """Perturb ``oracle.images``; gradients are enabled and the network is in eval mode."""


def _check_batch(images: Tensor, labels: Tensor) -> None:
    if not images.is_floating_point():
        raise TypeError(f"`images` must be floats in [0, 1], got {images.dtype}: divide bytes by 255")
    if images.ndim < 2 or labels.shape != images.shape[:1] or len(images) == 0:
        raise ValueError(
            "`images` must be (B, ...) and `labels` (B,) with B >= 1, "
            f"got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if not bool(((images >= 0) & (images <= 1)).all()):  # false for NaN too
        low, high = float(images.min()), float(images.max())
        raise ValueError(
            f"`images` must be in [0, 1], got values in [{low:g}, {high:g}]: "
            "normalisation must be the network's first layer"
        )


@contextmanager
def undisturbed(network: Network, images: Tensor, randomness: Randomness) -> Iterator[Network]:
    """Enable gradients, eval mode and frozen parameters inside the block; restore everything afterwards.

    A compiled network would compute the gradients of all its parameters in the attack too. The global
    generators are seeded inside, for networks that are random. Gradients keep their direction in float16; see
    `levelled`.

    Args:
        network: What is attacked.
        images: The batch, ``(B, ...)``.
        randomness: Gives the seed.

    Yields:
        The network, without the wrapper of distributed training.
    """
    if isinstance(network, DistributedDataParallel):
        network = network.module  # its forward would wait for a backward pass of the parameters
    device = images.device
    seed = int(randomness.uniform(images.detach().flatten(1)[:, 0].float(), draw=SEED_DRAW)[0, 0] * 2**24)
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    modes = [module.training for module in modules]
    trained = [item for module in modules[:1] for item in module.parameters() if item.requires_grad]
    cache = torch.is_autocast_cache_enabled()
    devices = (
        [torch.cuda.current_device() if device.index is None else device.index]
        if device.type == "cuda"
        else []
    )
    # Older releases of torch cache the weights that autocast converts, with or without their graph: the
    # caller's pass and ours would share them.
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
            torch.default_generator.manual_seed(seed)
            for index in devices:
                torch.cuda.default_generators[index].manual_seed(seed)
            for module in modules:
                module.training = False
            for parameter in trained:
                parameter.requires_grad_(False)
            yield levelled(network)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        torch.set_autocast_cache_enabled(cache)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def levelled(network: Network) -> Network:
    """The network, with gradients of its images that neither vanish nor overflow in float16.

    The loss's gradient in the logits is as small as 1 - p for an image whose label has probability p, and a
    network in float16 would round what follows from it to zero. On the way back each image's gradient in the
    logits is therefore scaled to a largest entry between 1/2 and 1, which an image with a wrong answer has
    anyway, and its gradient in the pixels is scaled back in float32. The factors are powers of two: in
    float32 they change no digit.

    Args:
        network: Its parameters must be frozen, since their gradients are not scaled back; each image's logits
            must depend on that image only.

    Returns:
        The same function, with logits in float32 at least.
    """

    def call(points: Tensor) -> Tensor:
        points = points.view_as(points)  # with a hook of its own
        logits = network(points)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if not (points.requires_grad and logits.requires_grad):
            return logits
        size = torch.ones(())

        def level(gradient: Tensor) -> Tensor:
            nonlocal size
            largest = gradient.flatten(1).abs().amax(1)
            size = torch.where(largest > 0, largest / largest.frexp().mantissa, 1.0)
            return gradient / expand(size, gradient)

        logits.register_hook(level)
        points.register_hook(lambda gradient: gradient * expand(size, gradient).to(gradient.dtype))
        return logits

    return call

"""The plan of an attack evaluation: a mode, and a grid of budgets and numbers of noises."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from robustsmooth.attacks import Attack, Norm
from robustsmooth.evaluation.context import named
from robustsmooth.smoothing import GaussianNoise, Noise, NoNoise
from robustsmooth.statistics import short

Mode = Literal["budget", "minimum"]


def check_attack(attack: Attack) -> None:
    """Raise ValueError unless an attack moves images, and away from their labels."""
    if not isinstance(attack, Attack):
        raise ValueError(
            f"{type(attack).__name__} perturbs the noise in training and not the image: choose an attack "
            "on images, such as attack=smoothadv_pgd"
        )
    if attack.targeted:
        raise ValueError(
            "`attack.targeted` must be false: an evaluation asks whether answers leave their labels"
        )


@dataclasses.dataclass(frozen=True)
class Variant:
    """One point of the grid: the attack with one budget and one number of noises."""

    epsilon: float
    num_noise: int
    attack: Attack

    @property
    def name(self) -> tuple[str, str]:
        """The values of the log's key columns."""
        return str(self.epsilon), str(self.num_noise)


@dataclasses.dataclass(frozen=True)
class AttackPlan:
    """An attack and the grid over which it is varied.

    Args:
        attack: The attack on each image; not targeted.
        mode: ``budget``: the accuracy within each epsilon. ``minimum``: the smallest perturbation that
            succeeds; attacks that can keep the closest successful point (`PGD`) do so.
        epsilons: Budgets; the attack's own by default.
        num_noises: Numbers of noises of its objective; the attack's own by default.

    Raises:
        ValueError: If the arguments contradict each other.
    """

    attack: Attack
    mode: Mode = "budget"
    epsilons: Sequence[float] | None = None
    num_noises: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("budget", "minimum"):
            raise ValueError(f"`mode` must be budget or minimum, got {self.mode!r}")
        check_attack(self.attack)
        if self.mode == "budget" and self.epsilons is None and getattr(self.attack, "epsilon", None) is None:
            raise ValueError(
                "mode=budget needs a budget: set attack.epsilon or epsilons, or choose mode=minimum"
            )
        for name in ("epsilons", "num_noises"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"`{name}` must be different values, at least one, got {list(values)}")
        if self.mode == "minimum" and hasattr(self.attack, "keep"):
            closest = dataclasses.replace(self.attack, keep="closest")  # type: ignore[call-arg]
            object.__setattr__(self, "attack", closest)
        assert self.variants  # every variant checks its own values

    @property
    def norm(self) -> Norm:
        """The norm in which distances are measured."""
        return getattr(self.attack, "norm", "l2")

    @property
    def variants(self) -> list[Variant]:
        """The grid."""
        budgets: Sequence[float | None] = self.epsilons or [getattr(self.attack, "epsilon", None)]
        noises = self.num_noises or [self.attack.num_noise]
        return [
            Variant(
                math.inf if epsilon is None else float(epsilon),
                int(num_noise),
                dataclasses.replace(
                    self.attack if epsilon is None else self.attack.with_epsilon(float(epsilon)),
                    num_noise=int(num_noise),
                ),
            )
            for epsilon in budgets
            for num_noise in noises
        ]

    def completed(self, noise: Noise | None, random: bool) -> "AttackPlan":
        """The plan with what an attack takes from the classifier that it attacks.

        Args:
            noise: Its smoothing noise, and the level for an attack that has none of its own; None if unknown.
            random: Whether it is random inside: then every noisy copy needs a pass of its own.

        Raises:
            ValueError: If the attack needs a noise level and there is none.
        """
        changes: dict[str, Any] = {}
        if self.attack.objective.noise != "none":
            if self.attack.sigma is None and noise is not None:
                changes["sigma"] = noise.sigma
            if self.attack.noise is None and noise is not None and not isinstance(noise, NoNoise):
                changes["noise"] = noise
            changes |= {"copies_per_pass": 1} if random else {}
            if self.attack.sigma is None and noise is None:
                raise ValueError(
                    f"`sigma` of {type(self.attack).__name__} is not set and the attacked network has no "
                    "noise level: set attack.sigma, or choose attack/objective=plain"
                )
        return dataclasses.replace(self, attack=dataclasses.replace(self.attack, **changes))

    def settings(self) -> dict[str, Any]:
        """What rows depend on, as plain values; without the grid, which a later start may extend."""
        attack = self.attack
        fields = {
            field.name: getattr(attack, field.name)
            for field in dataclasses.fields(attack)
            if field.name not in ("epsilon", "num_noise", "copies_per_pass", "objective", "noise")
        }
        if attack.noise is not None and type(attack.noise) is not GaussianNoise:
            fields["noise"] = type(attack.noise).__name__
        epsilon = getattr(attack, "epsilon", None)
        if fields.get("step_size") is not None and epsilon is not None and hasattr(attack, "keep"):
            step_size = fields["step_size"]
            fields["step_size"] = f"{step_size / epsilon:.6g} epsilon"  # see `with_epsilon`
            if math.inf in (epsilon, *(variant.epsilon for variant in self.variants)):
                fields["step_size"] = f"{step_size:.6g} at epsilon {epsilon:.6g}"
        return {"name": type(attack).__name__, **fields, "objective": named(attack.objective)}

    def metrics(self, variant: Variant, said: Mapping[str, Any]) -> dict[str, float | None]:
        """The metrics of one variant.

        Args:
            variant: The variant.
            said: Its facts, from `summarize_variant`.

        Returns:
            Values by key; None where the value is not finite.
        """
        variants = self.variants
        noise = f",m={variant.num_noise}" if len({item.num_noise for item in variants}) > 1 else ""
        budget = f"@{short(variant.epsilon)}"
        if self.mode == "budget":
            return {
                f"test/attack_acc{budget}{noise}": said["accuracy"],
                f"test/attack_abstention{budget}{noise}": said["abstention"],
            }
        place = f"{budget}{noise}" if len({item.epsilon for item in variants}) > 1 else noise
        return {
            f"test/attack_success{place}": said["distance"]["success"],
            f"test/attack_median_{self.norm}{place}": said["distance"]["median"],
            f"test/attack_mean_{self.norm}{place}": said["distance"]["mean_of_successes"],
        }

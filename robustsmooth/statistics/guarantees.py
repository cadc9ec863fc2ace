"""What a certified radius guarantees: its norm, its statement, and its basis.

Logs hold it as text, such as ``l2-certificate``, ``l1-at-radius-certificate``, ``l2-top5-votes-certificate``
or ``l2-lbound-assumed``; `Guarantee.parse` reads that back. Radii of two guarantees are never compared or
averaged.
"""

from dataclasses import dataclass
from typing import Literal, Self

BASES = ("certificate", "exact", "assumed", "estimate")


@dataclass(frozen=True, order=True)
class Guarantee:
    """One kind of statement about a radius.

    Args:
        norm: Norm of the perturbations: ``l2``, ``l1`` or ``linf``; ``none`` without noise.
        basis: ``certificate`` (holds with probability at least 1 - alpha), ``exact`` (a theorem about this
            network), ``assumed`` (holds under an assumption that is not checked), or ``estimate`` (no
            guarantee).
        statement: What is certified; empty for the usual one, "the prediction stays the same". ``at-radius``:
            only one radius was tested (``at-radii``: a few). ``top5``: the class stays among the five
            most probable ones. ``top5-votes``: among the five largest logits of most noisy copies.
            ``lbound``: HeatSmoothing's L-bound.
    """

    norm: str = "l2"
    basis: Literal["certificate", "exact", "assumed", "estimate"] = "certificate"
    statement: str = ""

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.basis not in BASES:
            raise ValueError(f"`basis` must be one of {', '.join(BASES)}, got {self.basis!r}")

    def __str__(self) -> str:
        return "-".join(filter(None, [self.norm, self.statement, self.basis]))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The guarantee that a log names.

        Raises:
            ValueError: If the text names none.

        >>> Guarantee.parse("l2-top5-votes-certificate")
        Guarantee(norm='l2', basis='certificate', statement='top5-votes')
        """
        norm, *statement, basis = text.split("-") if text.count("-") else ("", "")
        if norm not in ("l2", "l1", "linf", "none") or basis not in BASES:
            raise ValueError(f"a guarantee is a norm, a statement and {' or '.join(BASES)}, got {text!r}")
        return cls(norm, basis, "-".join(statement))  # type: ignore[arg-type]

    @property
    def usual(self) -> bool:
        """Whether it is the usual l2 certificate, which is not named in tables."""
        return self == Guarantee()

    @property
    def at_some_radii(self) -> bool:
        """Whether only one radius or a few were tested; then the mean of radii is not an ACR."""
        return self.statement in ("at-radius", "at-radii")

    @property
    def kind(self) -> Literal["certificate", "assumption", "estimate"]:
        """Whether the radii hold with probability 1 - alpha, only under an assumption, or are estimates."""
        if self.basis == "assumed":
            return "assumption"
        return "estimate" if self.basis == "estimate" else "certificate"

    @property
    def caveat(self) -> str:
        """A warning for numbers with this guarantee; empty for a certificate."""
        if self.basis == "assumed":
            return "No certificate: holds only if the network is a Gaussian average, which was not checked."
        return "No certificate: estimates without a confidence level." if self.basis == "estimate" else ""

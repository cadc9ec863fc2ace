"""Which images are evaluated, and which are held out for validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from robustsmooth.smoothing.addressing import generator

_SPLIT_SEED = 0  # fixed on purpose: runs of different seeds use the same validation images


Evaluated = Literal["test", "val", "train"]


@dataclass(frozen=True)
class Subset:
    """The images that are evaluated.

    Args:
        split: ``test``, the test split; ``val``, the validation images, which were held out of the training
            split, for choosing settings; or ``train``, the training images, without augmentation. An index is
            a position in the original split.
        every: Keep the images 0, `every`, 2 `every`...: 20 for CIFAR-10 and 100 for ImageNet in most
            papers.
        max: Keep at most this many of those, evenly spread. (Not the first ones, which in class folders would
            all be of one class.)
        indices: Keep exactly these: a list, or a range as text such as ``"0:1000"`` or ``"0:1000:5"``.
            Overrides `every` and `max`. For validation images, positions among them.

    Raises:
        ValueError: If a number is not positive, or the split unknown.
    """

    split: Evaluated = "test"
    every: int = 1
    max: int | None = None
    indices: Sequence[int] | int | str | None = None

    def __post_init__(self) -> None:
        if self.split not in get_args(Evaluated):
            raise ValueError(f"`subset.split` must be test, val or train, got {self.split!r}")
        if self.every < 1:
            raise ValueError(f"`subset.every` must be at least 1, got {self.every}")
        if self.max is not None and self.max < 1:
            raise ValueError(f"`subset.max` must be at least 1, or null for no limit, got {self.max}")

    def select(self, length: int) -> list[int]:
        """The selected positions among `length` images, in ascending order.

        Raises:
            ValueError: If a position is outside of them, or named twice.
        """
        if self.indices is not None:
            return self._named(length)
        kept = list(range(0, length, self.every))
        if self.max is not None and self.max < len(kept):
            kept = [kept[place * len(kept) // self.max] for place in range(self.max)]
        return kept

    def _named(self, length: int) -> list[int]:
        if isinstance(self.indices, str):
            parts = self.indices.split(":")
            try:
                named = list(range(*(int(part) for part in parts)))
            except (TypeError, ValueError):
                named = []
            if len(parts) not in (2, 3) or not named:
                raise ValueError(
                    "`subset.indices` must be a list or a range such as '0:1000' or '0:1000:5', "
                    f"got {self.indices!r}"
                )
        else:
            given = [self.indices] if isinstance(self.indices, int) else self.indices or ()
            named = sorted(int(index) for index in given)
        if len(set(named)) != len(named):
            raise ValueError("`subset.indices` names an image twice; each is evaluated exactly once")
        if not named or named[0] < 0 or named[-1] >= length:
            raise ValueError(
                f"`subset.indices` must be in [0, {length}), the images of the {self.split} split, "
                f"got {self.indices!r}"
            )
        return named


def stratified_split(labels: Tensor, held_out: int | float) -> tuple[list[int], list[int]]:
    """Hold out images of every class, in proportion to its size; always the same ones.

    Every class keeps an image for training: where all of its images would be held out, it is one less.

    Args:
        labels: ``(N,)`` int64, the classes of the training split.
        held_out: How many images to hold out, in [0, N); or what share of them, in (0, 1).

    Returns:
        The positions that are kept, and those held out, both in ascending order.

    Raises:
        ValueError: If `held_out` is out of range, or no image could be held out.
    """
    if not 0 <= held_out < len(labels):
        raise ValueError(
            f"`data.val_images` must be in [0, {len(labels)}), the images of the training split, or a share "
            f"of them in (0, 1), got {held_out}"
        )
    if 0 < held_out < 1:
        held_out = max(1, round(held_out * len(labels)))
    held_out = int(held_out)
    shuffled = torch.randperm(len(labels), generator=generator(_SPLIT_SEED, "validation split"))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    # `by_class` is sorted by class, so evenly spaced positions take a share of every class.
    places = torch.tensor([(2 * place + 1) * len(labels) // (2 * held_out) for place in range(held_out)])
    chosen = by_class[places.long()]
    stays = torch.ones(len(labels), dtype=torch.bool)
    stays[chosen] = False
    for label in {*labels.tolist()} - {*labels[stays].tolist()}:  # the last image of a class stays
        stays[(labels == label).nonzero()[0]] = True
    if held_out and stays.all():
        raise ValueError(
            f"`data.val_images` would hold out {held_out} of {len(labels)} images, each the only one of its "
            "class; give a larger number, or 0"
        )
    return stays.nonzero().flatten().tolist(), (~stays).nonzero().flatten().tolist()

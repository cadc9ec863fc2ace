"""Several networks as one classifier (Horvath et al. 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of several networks' logits.

    The ensemble is smoothed and certified like a single network.

    With `consensus` = j, the first j networks are evaluated first. Where all of them predict the same class,
    the mean of their logits is the answer, and the others are not used. This is another classifier than the
    mean of all, and it is the one that is certified. If one image needs the other networks, they run on the
    whole batch, so that an answer does not depend on the other images of the batch.

    Args:
        members: Networks that map images in [0, 1] to logits of the same classes; each has ``num_classes``.
        consensus: j, from 2 to the number of networks minus one; None to use all.

    Raises:
        ValueError: If there are fewer than two networks, their classes differ in number, or `consensus` is
            out of its range.
    """

    def __init__(self, members: Sequence[nn.Module], consensus: int | None = None) -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"an ensemble needs at least two networks, got {len(members)}")
        classes = {int(member.num_classes) for member in members}  # type: ignore[arg-type]
        if len(classes) > 1:
            raise ValueError(f"the networks of an ensemble must have the same classes, got {sorted(classes)}")
        if consensus is not None and not 2 <= consensus < len(members):
            raise ValueError(
                f"`model.consensus` must be at least 2 and below the number of networks ({len(members)}), "
                f"got {consensus}"
            )
        self.members = nn.ModuleList(members)
        self.consensus = consensus
        self.num_classes = classes.pop()

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of images ``(B, C, H, W)`` in [0, 1]."""
        if self.consensus is None:
            return torch.stack([member(images) for member in self.members]).mean(dim=0)
        first = torch.stack([member(images) for member in self.members[: self.consensus]])
        answers = first.argmax(dim=2)
        agreed = (answers == answers[0]).all(dim=0)
        if not torch.jit.is_tracing() and bool(agreed.all()):  # a trace must hold both cases
            return first.mean(dim=0)
        rest = torch.stack([member(images) for member in self.members[self.consensus :]])
        return torch.where(agreed.unsqueeze(1), first.mean(dim=0), torch.cat([first, rest]).mean(dim=0))

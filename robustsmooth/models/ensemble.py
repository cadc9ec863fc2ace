"""Several networks as one classifier (Horvath et al. 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    """The mean of several networks' logits.

    The smoothed classifier that is certified is that of the ensemble: nothing in the certificate changes.

    With `consensus` = j, the first j networks answer first; where all of them name the same class, the mean
    of their logits is the answer, and the others are not asked. That is another classifier than the mean of
    all, and it is the one that is certified. The others run on whole batches, if one image needs it, so that
    an answer does not depend on what else is in the batch.

    Args:
        members: Networks that map images in [0, 1] to logits of the same classes; each has ``num_classes``.
        consensus: j, from 2 to the number of networks less one; None to ask all.

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
        if bool(agreed.all()):
            return first.mean(dim=0)
        rest = torch.stack([member(images) for member in self.members[self.consensus :]])
        return torch.where(agreed.unsqueeze(1), first.mean(dim=0), torch.cat([first, rest]).mean(dim=0))

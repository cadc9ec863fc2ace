"""A check of an imported network, because a wrong normalisation is the most common silent error."""

import math
from typing import Any, Protocol

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn


class HasSamples(Protocol):
    """Data with a method `sample`, see `robustsmooth.data.ImageDataModule.sample`."""

    def sample(self, count: int, split: Any = "test") -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels, indices."""
        ...


@torch.no_grad()
def sanity_check(
    network: nn.Module,
    datamodule: HasSamples,
    images: int = 200,
    split: str = "test",
    expected: float | None = None,
) -> float:
    """Print the clean accuracy of a network on a few images, before a long job starts.

    Args:
        network: Maps images in [0, 1] to logits ``(B, K)``.
        datamodule: Provides the images, evenly spread over the split.
        images: How many.
        split: ``test``, or ``val`` before training.
        expected: The accuracy that its authors state, in [0, 1]; None if they do not.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        ValueError: If an output is NaN, or the accuracy differs from the expected one by more than 3 points
            and by more than two standard errors of the choice of images.
    """
    inputs, labels, _ = datamodule.sample(images, split)
    device = next(network.parameters()).device
    mode = network.training
    network.eval()
    logits = torch.cat([network(part.to(device)).cpu() for part in inputs.split(50)])
    network.train(mode)
    broken = int(logits.isnan().any(dim=1).sum())
    if broken:
        raise ValueError(
            f"the network returns NaN for {broken} of {len(labels)} {split} images; its training diverged or "
            "its precision overflows: take another checkpoint, or train again with a smaller learning rate"
        )
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    chance = labels.bincount().max().item() / len(labels)  # of always the most frequent class
    is_guessing = chance < 1 and accuracy < chance + 0.1 * (1 - chance)  # one class alone tells nothing
    note = "; that is close to guessing: is model.normalization right?" if is_guessing else ""
    _say(f"clean accuracy on {len(labels)} {split} images: {100 * accuracy:.1f} %{note}")
    if expected is not None:
        chance_error = 2 * math.sqrt(expected * (1 - expected) / len(labels))
        if abs(accuracy - expected) > 0.03 + chance_error:
            raise ValueError(
                f"the clean accuracy is {100 * accuracy:.1f} % on {len(labels)} {split} images, where "
                f"{100 * expected:.1f} % is expected: the normalisation or the data differ from its "
                "training; set model.normalization, or look at data.root"
            )
    return accuracy


@rank_zero_only
def _say(text: str) -> None:
    """Print in one of several processes."""
    print(text, flush=True)

"""From a model config to a classifier of images in [0, 1]."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from robustsmooth.models.classifier import Classifier, Normalize

__all__ = ["NORMALIZATIONS", "build_classifier"]

Statistics = Mapping[str, Sequence[float]]

NORMALIZATIONS: dict[str, Statistics | None] = {
    "none": None,
    "center": {"mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0]},
    "half": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "cifar10": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
    "cifar10_exact": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]},
    "cifar100": {"mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]},
    "imagenet": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
"""Normalisations by name. ``cifar10`` is that of Cohen, Salman and most published CIFAR-10 networks, whose
standard deviations are means over per-image deviations; ``cifar10_exact`` has those of all pixels."""


def build_classifier(
    network: nn.Module,
    num_classes: int,
    normalization: str | Statistics | None = None,
    checkpoint: str | None = None,
    noise_layers: Callable[[nn.Module], nn.Module] | None = None,
    channels_last: bool = False,
) -> Classifier:
    """Put a network behind its normalisation, swap in noise layers, load a checkpoint.

    Args:
        network: Maps normalised images to logits.
        num_classes: Number of logits.
        normalization: A name in `NORMALIZATIONS`, or ``mean`` and ``std`` per channel; None for none.
        checkpoint: What to start from, see `robustsmooth.models.load_checkpoint`.
        noise_layers: Replaces layers of the network, such as PNI and CPNI; applied before loading, so
            that checkpoints of plain networks can be loaded and the noise scales keep their initial values.
        channels_last: Run in the channels-last memory format.
    """
    normalize = _normalize(normalization)
    classifier = Classifier(network, normalize, num_classes=num_classes, channels_last=channels_last)
    if noise_layers is not None:
        noise_layers(classifier)  # layers inside the network, or noise in front of the normalisation
    return classifier


def _normalize(normalization: str | Statistics | None) -> Normalize | None:
    if isinstance(normalization, str):
        if normalization not in NORMALIZATIONS:
            known = ", ".join(NORMALIZATIONS)
            raise ValueError(
                f"`normalization` must be one of {known}, or mean and std, got {normalization!r}"
            )
        normalization = NORMALIZATIONS[normalization]
    if normalization is None:
        return None
    if set(normalization) != {"mean", "std"}:
        raise ValueError(f"`normalization` must have exactly mean and std, got {', '.join(normalization)}")
    return Normalize(normalization["mean"], normalization["std"])

"""Building a classifier of images in [0, 1] from a model config."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from robustsmooth.models.checkpoint import load_checkpoint, load_denoiser
from robustsmooth.models.classifier import Classifier, Normalize
from robustsmooth.models.state import Checkpoint

Statistics = Mapping[str, Sequence[float]]

_CIFAR10_MEAN, _IMAGENET_MEAN = [0.4914, 0.4822, 0.4465], [0.485, 0.456, 0.406]
NORMALIZATIONS: dict[str, Statistics | None] = {
    "none": None,
    "cifar10": {"mean": _CIFAR10_MEAN, "std": [0.2023, 0.1994, 0.2010]},
    "cifar10_pixels": {"mean": _CIFAR10_MEAN, "std": [0.2470, 0.2435, 0.2616]},
    "cifar10_center": {"mean": _CIFAR10_MEAN, "std": [1.0, 1.0, 1.0]},
    "cifar100": {"mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]},
    "imagenet": {"mean": _IMAGENET_MEAN, "std": [0.229, 0.224, 0.225]},
    "imagenet_center": {"mean": _IMAGENET_MEAN, "std": [1.0, 1.0, 1.0]},
    "half": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}
"""Normalisations by name. ``cifar10`` is that of Cohen et al. and most published CIFAR-10 networks (its
deviations are means over images), ``cifar10_pixels`` has the deviations over all pixels; the ``..._center``
ones are the centre layer of Salman et al.; ``half`` maps to [-1, 1]; MACER's networks have ``none``."""


def build_classifier(
    network: nn.Module,
    num_classes: int,
    normalization: str | Statistics | None = None,
    checkpoint: str | Checkpoint | None = None,
    noise_layers: Callable[[nn.Module], object] | None = None,
    channels_last: bool = False,
    new_head: bool = False,
    denoiser: nn.Module | None = None,
    denoiser_checkpoint: str | None = None,
) -> Classifier:
    """Put a network behind its normalisation, swap in noise layers, load a checkpoint.

    Args:
        network: Maps normalised images to logits.
        num_classes: Number of logits.
        normalization: A name in `NORMALIZATIONS`, or ``mean`` and ``std`` per channel; None for none.
        checkpoint: What to start from, see `robustsmooth.models.load_checkpoint`; None for an untrained
            network.
        noise_layers: Replaces layers of the classifier in place, such as `NoiseLayers`; before loading, so
            that plain checkpoints fit and the strengths of the noise keep their initial values.
        channels_last: Run in the channels-last memory format.
        new_head: Do not load the last linear layer, to train a new one for other classes.
        denoiser: Maps noisy images in [0, 1] to images, in front of everything else, such as `DnCNN`.
        denoiser_checkpoint: The denoiser's weights; a checkpoint of a denoised classifier has its own.

    Raises:
        ValueError: If the normalisation is unknown, or not for the three channels of torchvision's networks;
            or if the checkpoint does not fit.
    """
    normalize = _normalize(normalization)
    _check_channels(network, normalize)
    if denoiser_checkpoint is not None:
        if denoiser is None:
            raise ValueError(
                "`model.denoiser_checkpoint` needs model.denoiser, such as denoiser@model.denoiser=dncnn"
            )
        load_denoiser(denoiser, denoiser_checkpoint)
    classifier = Classifier(
        network, normalize, num_classes=num_classes, channels_last=channels_last, denoiser=denoiser
    )
    if noise_layers is not None:
        noise_layers(classifier)  # layers inside the network, or noise in front of the normalisation
    if checkpoint is not None:
        load_checkpoint(classifier, checkpoint, new_head=new_head)
    return classifier


def _check_channels(network: nn.Module, normalize: Normalize | None) -> None:
    """Refuse a network of torchvision for grey images, before it fails in the first step."""
    name = getattr(network, "torchvision_name", None)
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    if normalize is None or name is None or first is None:
        return
    channels = normalize.mean.numel()
    if channels != first.in_channels:
        raise ValueError(
            f"torchvision's {name} takes images of {first.in_channels} channels, but the data (and "
            f"`normalization`) have {channels}; choose model=timm, whose networks take any number"
        )


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
    return Normalize(list(normalization["mean"]), list(normalization["std"]))

"""Networks of torchvision and timm, by name."""

import difflib
from collections.abc import Sequence
from typing import Any

from torch import nn


def torchvision_network(name: str, num_classes: int) -> nn.Module:
    """A classification network of torchvision, untrained.

    Published weights are loaded by ``model.checkpoint=torchvision:IMAGENET1K_V2``; the attribute
    ``torchvision_name`` is the network's name.

    Args:
        name: Such as ``resnet50``; torchvision's documentation lists them.
        num_classes: Number of logits.

    Raises:
        ValueError: If torchvision has no such network, or it is `inception_v3` or `googlenet`: with its
            weights, torchvision's changes the normalisation inside, and in training it has several outputs.
    """
    from torchvision import models

    if name in ("googlenet", "inception_v3"):
        raise ValueError(
            f"torchvision's {name} has a normalisation of its own and several outputs; use timm's "
            "inception_v3 (model=timm model.network.name=inception_v3)"
        )
    known = models.list_models(module=models)
    _check_known(name, known, "torchvision")
    network = models.get_model(name, weights=None, num_classes=num_classes)
    network.torchvision_name = name
    return network


def timm_network(
    name: str, num_classes: int, in_channels: int = 3, image_size: int | None = None
) -> nn.Module:
    """A network of timm, untrained; needs the extra ``robustsmooth[timm]``.

    Published weights are loaded by ``model.checkpoint=timm:resnet50.a1_in1k``.

    Args:
        name: Such as ``vit_small_patch16_224``.
        num_classes: Number of logits.
        in_channels: Channels of the image.
        image_size: Sides of the image, for networks that need it; timm's default if None.

    Raises:
        ModuleNotFoundError: If timm is not installed.
        ValueError: If timm has no such network.
    """
    import timm

    _check_known(name.partition(".")[0], timm.list_models(), "timm")
    options: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **options)


def resnet32x32(depth: int, num_classes: int, in_channels: int = 3) -> nn.Module:
    """An ImageNet residual network for 32x32 images: a 3x3 stem and no pooling in front.

    HeatSmoothing and the robustness library train these on CIFAR-10. The names of the parameters are
    torchvision's.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_classes: Number of logits.
        in_channels: Channels of the image.

    Raises:
        ValueError: If there is no such depth.
    """
    if depth not in (18, 34, 50, 101, 152):
        raise ValueError(f"`depth` must be 18, 34, 50, 101 or 152, got {depth}")
    network: Any = torchvision_network(f"resnet{depth}", num_classes)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


def _check_known(name: str, known: Sequence[str], library: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"{library} has no network {name!r} among its {len(known)}{hint}")

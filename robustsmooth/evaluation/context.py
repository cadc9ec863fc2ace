"""What a callback asks of the trainer it runs in: the network, its images, the other ranks."""

import hashlib
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from robustsmooth.models import is_random
from robustsmooth.smoothing import generator

__all__ = [
    "answers_of",
    "data_settings",
    "fingerprint",
    "gather",
    "image_names",
    "image_shape",
    "images_here",
    "network_of",
    "precision_settings",
]


def network_of(module: pl.LightningModule) -> nn.Module:
    """The network of a module: its attribute ``network``, or the module itself."""
    network = getattr(module, "network", module)
    return network if isinstance(network, nn.Module) else module


_FREE = {"root", "batch_size", "num_workers", "download", "augmentation", "val_images", "extra", "seed"}
"""Of a data config: what test images do not depend on."""


def data_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a data set's config that says which images are evaluated, as plain values."""
    free = _FREE - {"val_images"} if (config.get("subset") or {}).get("split", "test") != "test" else _FREE
    return {
        str(key): data_settings(value) if hasattr(value, "items") else _plain(value)
        for key, value in config.items()
        if key not in free
    }


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else list(value)


def fingerprint(network: nn.Module) -> str:
    """A short hash of all weights and buffers: tells classifiers apart wherever their files lie."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def answers_of(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> dict[str, list[float]]:
    """The logits on two fixed images: tells networks apart that differ in their code, not in their weights.

    Args:
        network: Maps images in [0, 1] to logits.
        shape: ``(C, H, W)`` of the images.
        device: Where it is.

    Returns:
        The numbers under a name that says with which others they compare: those of a network that is random
        inside only with numbers of the same kind of device, whose generator is the same.
    """
    images = torch.rand((2, *shape), generator=generator(0, "answers")).to(device)
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        logits = network(images).flatten()[:_MOST_LOGITS].tolist()
    name = f"random on {device.type}" if is_random(network) else "logits"
    return {name: [float(f"{value:.5g}") for value in logits]}


_MOST_LOGITS = 20


def image_names(images: Tensor) -> list[str]:
    """A name for each image that depends on its pixels only, wherever the image lies.

    Args:
        images: ``(B, C, H, W)`` float in [0, 1]; steps of 1/65535 are told apart.

    Returns:
        A hash of each image, 16 letters.
    """
    pixels = (images.detach().float() * 65535).round().nan_to_num().to(torch.int32).cpu().contiguous().numpy()
    return [hashlib.blake2b(each.tobytes(), digest_size=8).hexdigest() for each in pixels]


def precision_settings(trainer: pl.Trainer) -> dict[str, Any]:
    """The trainer's precision as a setting that rows depend on; none at its default, which needs no name."""
    return {} if trainer.precision == "32-true" else {"precision": str(trainer.precision)}


def image_shape(trainer: pl.Trainer) -> tuple[int, ...]:
    """``(C, H, W)`` of the test images."""
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None and hasattr(datamodule, "image_shape"):
        return tuple(datamodule.image_shape)
    return tuple(next(iter(_loader(trainer))).images.shape[1:])


def _loader(trainer: pl.Trainer) -> Any:
    loaders = trainer.test_dataloaders
    if isinstance(loaders, list | tuple):
        if len(loaders) != 1:
            raise ValueError(f"one test loader is evaluated at a time, got {len(loaders)}")
        return loaders[0]
    return loaders


def images_here(trainer: pl.Trainer) -> int:
    """How many images this rank will see."""
    loader = _loader(trainer)
    batches = trainer.num_test_batches[0]
    return int(min(len(loader.sampler), batches * (loader.batch_size or 1)))


def gather(indices: list[int]) -> list[int]:
    """The indices that all ranks have seen."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return indices
    parts: list[list[int]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, indices)
    return [index for part in parts for index in part]

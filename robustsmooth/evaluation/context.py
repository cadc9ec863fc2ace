"""What a callback asks of the trainer it runs in: the network, its images, the other ranks."""

import hashlib
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

__all__ = [
    "data_settings",
    "fingerprint",
    "gather",
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

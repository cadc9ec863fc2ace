"""What an evaluation needs from its trainer: the network, the images, the other ranks, the vote engine."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from robustsmooth.models import is_random, load_file
from robustsmooth.smoothing import (
    Noise,
    Numerics,
    Procedure,
    Tuning,
    VoteEngine,
    fingerprint,
    generator,
    tune,
)


def network_of(module: pl.LightningModule) -> nn.Module:
    """The network of a module: its attribute ``network``, or the module itself."""
    network = getattr(module, "network", module)
    return network if isinstance(network, nn.Module) else module


_FREE = {"root", "batch_size", "num_workers", "download", "augmentation", "val_images", "extra", "seed"}
"""Keys of a data config on which the test images do not depend."""


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


def fingerprint_in(checkpoint: Path) -> str | None:
    """The fingerprint of the network in a checkpoint of a training; None if it is missing or not readable."""
    try:
        weights = load_file(checkpoint)["state_dict"]
    except (ValueError, KeyError, TypeError):
        return None
    prefix = "network."
    return fingerprint({key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)})


def answers_of(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> dict[str, list[float]]:
    """The logits on two fixed images: they differ for networks with equal weights and different code.

    Args:
        network: Maps images in [0, 1] to logits.
        shape: ``(C, H, W)`` of the images.
        device: Where it is.

    Returns:
        The logits, under a name. Only logits of the same name are compared: a network that is random inside
        draws other numbers on another kind of device.
    """
    images = torch.rand((2, *shape), generator=generator(0, "answers")).to(device)
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        logits = network(images).flatten()[:_MOST_LOGITS].tolist()
    name = f"random on {device.type}" if is_random(network) else "logits"
    return {name: [float(f"{value:.5g}") for value in logits]}


_MOST_LOGITS = 20


def precision_settings(trainer: pl.Trainer) -> dict[str, Any]:
    """The trainer's precision as a setting that rows depend on; nothing for the default."""
    return {} if trainer.precision == "32-true" else {"precision": str(trainer.precision)}


def named(value: Any) -> dict[str, Any]:
    """A dataclass as plain values, with the name of its class."""
    return {"name": type(value).__name__, **asdict(value)}


def noise_levels(sigmas: Sequence[float]) -> list[float]:
    """The noise levels of a measurement.

    Raises:
        ValueError: If there is none, or one is not a finite number of at least 0.
    """
    if not sigmas or any(not 0 <= sigma < math.inf for sigma in sigmas):
        raise ValueError(f"`sigmas` must be one or more numbers of at least 0, got {list(sigmas)}")
    return [float(sigma) for sigma in sigmas]


def vote_engine(
    trainer: pl.Trainer,
    network: nn.Module,
    noise: Noise,
    procedure: Procedure,
    *,
    numerics: Numerics,
    seed: int,
    then: Mapping[str, Any],
    images: int,
) -> VoteEngine:
    """The engine of an evaluation. Rank 0 chooses batch size and memory format for all ranks.

    Args:
        trainer: The trainer, about to test.
        network: Maps images in [0, 1] to logits.
        noise: The smoothing noise.
        procedure: What is asked of each image.
        numerics: Precision, memory format, compilation.
        seed: Addresses all noise.
        then: The numerics of the rows that are there already; their choices are kept.
        images: How many images are about to be voted on here, to bound the search by.
    """
    tuning: Tuning | None = None
    if trainer.is_global_zero:
        batch_size = procedure.batch_size
        if batch_size == "auto":
            batch_size = then.get("batch_size", batch_size)
        if numerics.channels_last == "auto" and "channels_last" in then:
            numerics = replace(numerics, channels_last=then["channels_last"])
        tuning = tune(
            network,
            image_shape(trainer),
            trainer.strategy.root_device,
            batch_size,
            numerics,
            random_inside=is_random(network),
            votes=images * procedure.max_votes,
            images=images,
        )
    return VoteEngine(
        network,
        noise,
        procedure,
        seed=seed,
        random_inside=True if is_random(network) else None,
        tuning=trainer.strategy.broadcast(tuning),
    )


def numerics_settings(tuning: Tuning, device: torch.device) -> dict[str, Any]:
    """How votes are computed, as settings that rows depend on."""
    facts = tuning.numerics.described(device)
    return {**facts, "batch_size": tuning.batch_size, "torch": torch.__version__}


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
    """The indices of all ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return indices
    parts: list[list[int]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, indices)
    return [index for part in parts for index in part]

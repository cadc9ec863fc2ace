"""Reading state dicts from files, without executing anything in them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

from torch import Tensor, nn

from robustsmooth.models.storage import checksum, load_file
from robustsmooth.places import require_finished

_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "model_state", "params")


def checkpoint_file(place: str | Path | None) -> Path:
    """The checkpoint file of a run folder or a path.

    Args:
        place: A run folder (whose ``checkpoints/last.ckpt`` is used: the papers evaluate the last epoch,
            without selection), a folder that `export` wrote, or a checkpoint file.

    Raises:
        ValueError: If there is none, or if the training in the run folder has not ended.
    """
    if place is None:
        raise ValueError("`checkpoint` must be a run folder or a checkpoint file, got null")
    path = Path(place).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise ValueError(f"there is no checkpoint at `{path}`; give a run folder or a checkpoint file")
    require_finished(path)
    for file in (path / "checkpoints" / "last.ckpt", path / "model.safetensors"):
        if file.is_file():
            return file
    below = sorted(str(item.parent.parent.relative_to(path)) for item in path.glob("*/checkpoints/last.ckpt"))
    hint = f"; its runs are {', '.join(below)}" if below else ""
    raise ValueError(f"`{path}` is not a run folder: it has no checkpoints/last.ckpt{hint}")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and what the file says about them.

    Attributes:
        tensors: The state dict as it is in the file.
        place: Where it came from, for messages.
        config: The resolved training config, if this project wrote the file; otherwise empty.
        normalization: ``mean`` and ``std`` that the network expects, if the source states them outside of the
            tensors.
    """

    tensors: dict[str, Tensor]
    place: str
    config: dict[str, Any] = field(default_factory=dict)
    normalization: Mapping[str, Any] | None = None


LIBRARIES = ("torchvision:", "timm:")
"""The prefixes of the names of weights from a library."""


def read_checkpoint(place: str | Path, network: nn.Module | None = None) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed.

    Args:
        place: A folder, see `checkpoint_file`; a file of PyTorch or Lightning (state dict at the
            top or under a usual name such as ``state_dict``, ``model`` or ``net``); a ``.safetensors`` file;
            ``torchvision:ResNet50_Weights.IMAGENET1K_V2``; or ``timm:resnet50.a1_in1k``.
        network: The network to load into; for a network of torchvision, ``torchvision:IMAGENET1K_V2`` is
            enough.

    Raises:
        ValueError: If there is no checkpoint, it is damaged, it would execute code, or it holds no
            tensors; or as in `checkpoint_file`.
    """
    text = str(place)
    if text.startswith("torchvision:"):
        return _from_torchvision(text, network)
    if text.startswith("timm:"):
        return _from_timm(text)
    path = checkpoint_file(place)
    return _from_safetensors(path) if path.suffix == ".safetensors" else _from_torch(path)


def _from_torch(path: Path) -> Checkpoint:
    content = load_file(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"`{path}` holds a {type(content).__name__}, not a state dict")
    ours = content.get("robustsmooth")
    if isinstance(ours, Mapping):
        # From our own files only the network is used, not other modules or metrics of the method.
        tensors = _tensors(content["state_dict"])
        network = {key: value for key, value in tensors.items() if key.startswith("network.")}
        return Checkpoint(network, str(path), config=dict(ours["config"]))
    for name in _NESTED:
        if isinstance(content.get(name), Mapping) and _tensors(content[name]):
            return Checkpoint(_tensors(content[name]), str(path))
    tensors = _tensors(content)
    if not tensors:
        keys = ", ".join(str(key) for key in list(content)[:8])
        raise ValueError(f"`{path}` has no state dict; it holds {keys or 'nothing'}")
    return Checkpoint(tensors, str(path))


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _from_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
        text = metadata.get("robustsmooth", "{}")
        if "sha256" in metadata and metadata["sha256"] != checksum(tensors, text):
            raise ValueError("its checksum is wrong")
        config = json.loads(text)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"the checkpoint `{path}` is truncated or damaged; use another one") from error
    return Checkpoint(tensors, str(path), config=config)


def _from_torchvision(place: str, network: nn.Module | None) -> Checkpoint:
    from torchvision import models

    name = place.partition(":")[2]
    try:
        if "." in name:
            weights = models.get_weight(name)
        else:
            weights = models.get_model_weights(getattr(network, "torchvision_name", name))[name]
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"torchvision has no weights {place!r} for this network; write them as torchvision:IMAGENET1K_V2 "
            "with one of its networks, or in full as torchvision:ResNet50_Weights.IMAGENET1K_V2"
        ) from error
    transform: Any = weights.transforms()
    normalization = {"mean": list(transform.mean), "std": list(transform.std)}
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True)
    except URLError as error:
        raise ValueError(
            f"could not download {weights.url} ({error.reason}); fetch it by hand and set model.checkpoint "
            "to the file"
        ) from error
    return Checkpoint(_tensors(tensors), place, normalization=normalization)


def _from_timm(place: str) -> Checkpoint:
    import timm

    name = place.partition(":")[2]
    try:
        network = timm.create_model(name, pretrained=True)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"timm cannot provide {place!r} ({reason}); fetch its file by hand and set model.checkpoint to it"
        ) from error
    facts: Any = network.pretrained_cfg
    normalization = {"mean": list(facts["mean"]), "std": list(facts["std"])}
    return Checkpoint(_tensors(network.state_dict()), place, normalization=normalization)

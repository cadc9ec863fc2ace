"""Writing a classifier to files that other programs read."""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from robustsmooth.files import write_whole
from robustsmooth.models.ensemble import Ensemble
from robustsmooth.models.noise_layers import is_random
from robustsmooth.models.storage import checksum

_READING = {"__bool__", "__float__", "__index__", "__int__", "item", "numpy", "tolist"}


def save_safetensors(network: nn.Module, path: Path | str, config: Mapping[str, Any]) -> None:
    """Write the tensors, including the normalisation statistics, and the config that rebuilds the network.

    Args:
        network: A classifier; see `robustsmooth.models.build_classifier`.
        path: The file; its folder is created.
        config: The resolved config with ``model`` and ``data``, stored as JSON under ``robustsmooth``, with a
            checksum (SHA-256) of it and of the tensors.

    Raises:
        ValueError: If the network is an ensemble, whose config names the files of its members.
    """
    from safetensors.torch import save

    if isinstance(network, Ensemble):
        raise ValueError(
            "an ensemble cannot be exported as safetensors: export each of its networks by itself, and give "
            "the folders as `checkpoint` and `model.members`; or use format=onnx"
        )

    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    text = json.dumps(config)
    metadata = {"format": "pt", "robustsmooth": text, "sha256": checksum(tensors, text)}
    write_whole(path, save(tensors, metadata))


def save_onnx(network: nn.Module, image_shape: Sequence[int], path: Path | str) -> None:
    """Write a network as ONNX: ``images`` ``(N, C, H, W)`` in [0, 1] to ``logits`` ``(N, K)``, any N.

    It is the base network, without smoothing: the program that runs it adds the noise and counts the votes.

    Args:
        network: A classifier, moved to the CPU.
        image_shape: ``(C, H, W)``.
        path: The file; its folder is created.

    Raises:
        ValueError: If the network is random, since ONNX would draw other random numbers; or if its code
            reads values of its tensors, since ONNX would hold the branch that one batch takes.
    """
    if is_random(network):
        raise ValueError("a network with noise layers cannot be exported to ONNX; use format=safetensors")
    example = torch.zeros(2, *image_shape)
    network.cpu().eval()
    # An ensemble reads values too, to save time, but not while tracing.
    with torch.no_grad(), _WithoutReading():
        for part in network.members if isinstance(network, Ensemble) else [network]:
            part(example)
    content: Any = io.BytesIO()
    with warnings.catch_warnings():
        # The tracing exporter is enough for feed-forward networks and needs no other packages.
        warnings.simplefilter("ignore", DeprecationWarning)
        # What is left are comparisons of sizes, such as those of torch's GroupNorm.
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean", torch.jit.TracerWarning)
        torch.onnx.export(
            network,
            (example,),
            content,
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        )
    write_whole(path, content.getvalue())


class _WithoutReading(TorchFunctionMode):
    """Refuses code that reads values of tensors, such as an ``if``. Sizes are no tensors here."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _READING:
            raise ValueError(
                "the network's code depends on values of its tensors (`if`, `while`, `.item()`), which ONNX "
                "does not hold; use operations such as torch.where there, or format=safetensors"
            )
        return func(*args, **(kwargs or {}))

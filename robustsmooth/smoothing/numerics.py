"""How the network is computed: precision, memory layout, compilation.

Rounding decides a vote whose two largest logits are nearly equal, so the numerics are part of the classifier
that is certified. They are fixed for a run and saved with its results.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Numerics:
    """How a network is computed.

    Args:
        precision: ``32-true``, or ``bf16-mixed`` or ``16-mixed`` for autocast, as for the trainer. A network
            in lower precision is a slightly different classifier.
        channels_last: Use the memory format channels last, which is faster for most convolutions; ``"auto"``
            tries both.
        compile: Compile the network once (tens of seconds), with its weights as constants and BatchNorm
            folded into the convolutions, which rounds differently.
    """

    precision: Precision = "32-true"
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise ValueError(f"`precision` must be one of {known}, got {self.precision!r}")
        if self.channels_last not in (True, False, "auto"):
            raise ValueError(f"`channels_last` must be true, false or auto, got {self.channels_last!r}")

    def described(self, device: torch.device) -> dict[str, Any]:
        """Plain values that identify the numerics, including the device's own settings."""
        facts: dict[str, Any] = asdict(self) | {"device": device.type}
        if device.type == "cuda":
            facts["tf32"] = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        return facts


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a network is computed in a precision."""
    dtype = _AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Switch off gradients, and inference mode too, in which compiled graphs fail."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class _PerThread(threading.local):
    """A copy of a network's modules for each thread, with shared weights.

    Modules may store values during a pass, which two threads must not share.

    Args:
        network: The network that is copied.
    """

    def __init__(self, network: nn.Module) -> None:
        weights = {id(item): item for item in (*network.parameters(), *network.buffers())}
        self.network = copy.deepcopy(network, weights)


def _copied(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except RuntimeError as error:
        raise ValueError(
            "the network cannot be copied (copy.deepcopy), which protects it from changes while it is "
            f"certified: {str(error).splitlines()[0]} Detach tensors that it keeps from an earlier pass, and "
            "replace torch.nn.utils.weight_norm by torch.nn.utils.parametrizations.weight_norm"
        ) from None


class Forward:
    """A frozen copy of a network with fixed numerics; maps images ``(B, C, H, W)`` to logits ``(B, K)``.

    It is a copy, so that eval mode, memory format and frozen constants do not change the network itself,
    which may be in training, and so that the classifier cannot change while it is certified.

    Args:
        network: Maps images in [0, 1] to logits.
        numerics: With `channels_last` decided.
        device: Where the network is.
    """

    def __init__(self, network: nn.Module, numerics: Numerics, device: torch.device) -> None:
        self.numerics, self.device = numerics, device
        self.memory_format = torch.channels_last if numerics.channels_last else torch.contiguous_format
        with plain_tensors():
            frozen = _copied(network).eval()
            for weight in (*frozen.parameters(), *frozen.buffers()):
                weight.requires_grad_(False)
                if weight.dim() == 4:  # `Module.to` would fail at the factors of CPNI, which have five
                    weight.data = weight.data.contiguous(memory_format=self.memory_format)
        for module in frozen.modules():  # for a network that sets the memory format of its input
            if hasattr(module, "memory_format"):
                module.memory_format = self.memory_format  # type: ignore[assignment]
        own = _PerThread(frozen)
        self._call: Callable[[Tensor], Tensor] = lambda batch: own.network(batch)
        if numerics.compile:
            from torch._inductor import config

            # Frozen graphs of earlier networks keep their weights in memory and count as recompilations, and
            # torch allows only a few. As an option of `torch.compile`, freezing would treat the weights as
            # inputs.
            torch.compiler.reset()
            self._call = config.patch(freezing=True)(torch.compile(frozen, dynamic=False))

    def __call__(self, batch: Tensor) -> Tensor:
        """Logits, float32, of a batch that is already in the right memory format."""
        with plain_tensors(), autocast(self.numerics.precision, self.device):
            logits = self._call(batch)
            if not isinstance(logits, Tensor):
                raise TypeError(f"the network must return logits (B, K), got {type(logits).__name__}")
            return logits.float()

"""The network compiled while it trains."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

_VARIANTS = 64  # modes, shapes and frozen weights of one network; torch gives up at 8
# A BatchNorm's variance by two sums rather than by Welford's updates, which wait for each other, and products
# and sums in one instruction: faster on a CPU, and results are the same within rounding.
_CPU = {"cpp.use_two_step_variance_threshold": 2**40, "cpp.enable_floating_point_contract_flag": "fast"}


def compile_network(network: nn.Module, backend: str = "inductor") -> None:
    """Compile a network in place; compilation itself happens in the first passes.

    Args:
        network: Its weights keep their names; copies of it are not compiled.
        backend: Of `torch.compile`.
    """
    from torch._dynamo import config as tracing
    from torch._inductor import config as code

    tracing.recompile_limit = max(tracing.recompile_limit, _VARIANTS)
    code.fallback_random = True  # noise layers and dropout draw the same numbers as uncompiled
    network.compile(backend=backend, options=dict(_CPU) if backend == "inductor" else None)


class CompiledTraining(Callback):
    """Compile the module's ``network`` for training: its passes in the loss, in attacks and per sample.

    Results are those of the uncompiled network up to rounding. Checkpoints are the same: the network is
    compiled in place, so that its weights keep their names and a run may be resumed with or without.
    Validation is not compiled: its last batch has a shape of its own.

    The first steps take longer, some tens of seconds for each input shape. The gain depends on the processor;
    docs/benchmarks.md has measurements.

    Args:
        enabled: Whether to compile.
        backend: Of `torch.compile`.

    Raises:
        ValueError: If `enabled` is not true or false.
    """

    def __init__(self, enabled: bool = True, backend: str = "inductor") -> None:
        if not isinstance(enabled, bool):
            raise ValueError(f"`compile` must be true or false, got {enabled!r}")
        self.enabled, self.backend = enabled, backend

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare compilation, which happens in the first passes."""
        network = getattr(pl_module, "network", pl_module)
        if self.enabled and isinstance(network, nn.Module):
            compile_network(network, self.backend)

    def on_validation_start(self, *args: Any) -> None:
        """Leave validation uncompiled."""
        if self.enabled:
            torch.compiler.set_stance("force_eager")

    def on_validation_end(self, *args: Any) -> None:
        """Use the compiled network again."""
        if self.enabled:
            torch.compiler.set_stance("default")

    def on_exception(self, *args: Any) -> None:
        """Restore the process's settings."""
        self.on_validation_end()

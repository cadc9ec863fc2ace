"""The time of training: `robustsmooth.train` itself, divided into the parts of its steps.

    python benchmarks/profile_training.py --data-root data/cifar10                 # or no root: random pixels
    python benchmarks/profile_training.py --method smoothadv --steps 8 method.copies=2 attack.steps=2

Processor time of each part, without other parts that it calls, after the first two steps. (A
profiler of every call, such as cProfile, adds its own time to what is Python.) Writes Markdown.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import wraps
from io import StringIO
from pathlib import Path
from typing import Any

from robustsmooth.train import train  # before Lightning, see robustsmooth/_torchvision.py

WARM_UP = 2  # steps


class Parts:
    """Exclusive processor time by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.total: dict[str, float] = {}  # of the finished epoch
        self.steps = 0
        self._stack = ["Lightning's loops"]
        self._since = time.process_time()

    def _count(self) -> None:
        now = time.process_time()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def restart(self) -> None:
        """Reset the measurement."""
        self._since = time.process_time()
        self.seconds.clear()

    def measure(self, owner: Any, names: str, part: str) -> None:
        """Count the calls of some of an object's functions as a part."""
        for name in names.split():
            setattr(owner, name, self._wrapped(getattr(owner, name), part))

    def _wrapped(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._count()
            self._stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._count()
                self._stack.pop()

        return call


def watch(parts: Parts) -> None:
    """Assign functions to parts."""
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.loops.fetchers import _PrefetchDataFetcher
    from pytorch_lightning.trainer import call
    from pytorch_lightning.trainer.connectors.logger_connector import _LoggerConnector

    from robustsmooth.data import ImageDataModule
    from robustsmooth.methods import ClassificationModule
    from robustsmooth.models import Classifier

    logging = "metrics and logging"
    parts.measure(Classifier, "forward", "network, forward")
    parts.measure(torch.autograd, "grad", "network, backward")
    parts.measure(torch.Tensor, "backward", "network, backward")
    parts.measure(torch.optim.SGD, "step zero_grad", "optimiser")
    parts.measure(ClassificationModule, "noises", "noise")
    parts.measure(ClassificationModule, "training_step", logging)
    parts.measure(pl.LightningModule, "log log_dict", logging)
    parts.measure(_LoggerConnector, "on_batch_start on_batch_end update_train_step_metrics", logging)
    parts.measure(_PrefetchDataFetcher, "__next__", "images and augmentation")
    parts.measure(ImageDataModule, "on_after_batch_transfer", "images and augmentation")
    parts.measure(call, "_call_callback_hooks", "callbacks")
    for kind in ClassificationModule.__subclasses__():
        parts.measure(kind, "training_loss", "loss, attack")
    began = 0
    before = ClassificationModule.on_train_batch_start

    def on_train_batch_start(self: Any, batch: Any, batch_idx: int) -> None:
        nonlocal began
        if began == WARM_UP:
            parts.restart()
        began += 1
        before(self, batch, batch_idx)

    ClassificationModule.on_train_batch_start = on_train_batch_start  # type: ignore[method-assign]
    after = pl.LightningModule.on_train_epoch_end

    def on_train_epoch_end(self: Any) -> None:
        parts.steps, parts.total = began - WARM_UP, dict(parts.seconds)
        after(self)

    pl.LightningModule.on_train_epoch_end = on_train_epoch_end  # type: ignore[method-assign]


def main() -> None:
    """Train for a few steps, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="gaussian")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--data-root", help="CIFAR-10; random pixels if left out")
    options, overrides = parser.parse_known_args()
    root = options.data_root
    if root is None:
        from data import random_cifar10

        root = random_cifar10(Path(tempfile.mkdtemp()))
    parts = Parts()
    watch(parts)
    words = [f"method={options.method}", "data=cifar10", f"data.root={root}", "model=cifar_resnet20"]
    words += ["data.batch_size=128", "trainer=cpu", "trainer.max_epochs=1", "trainer.limit_val_batches=1"]
    words += [f"trainer.limit_train_batches={options.steps + WARM_UP}", f"hydra.run.dir={tempfile.mkdtemp()}"]
    sys.argv = ["train", *words, *overrides]
    with redirect_stdout(StringIO()):
        train()
    total = sum(parts.total.values())
    print(f"{options.method} {' '.join(overrides)}: {parts.steps} steps of {total / parts.steps:.3f} s\n")
    print("| part | share |\n| --- | ---: |")
    for name, seconds in sorted(parts.total.items(), key=lambda item: -item[1]):
        print(f"| {name} | {100 * seconds / total:.1f} % |")


if __name__ == "__main__":
    main()

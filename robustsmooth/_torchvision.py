"""Let torchvision be imported beside a CPU-only build of torch.

The torchvision wheel on the package index is built against the CUDA build of torch. Beside a
CPU-only torch its compiled operators do not load, and the import ends with "operator
torchvision::nms does not exist"; pytorch_lightning, torchmetrics and timm fail with it. Nothing
here uses those operators, so in such an installation, and in no other, their schemas are declared
just before torchvision is imported.
"""

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Any = None  # kept alive: the schemas vanish with it


def _differ() -> bool:
    """Whether torch is a CPU-only build and torchvision is not built for one."""
    try:
        return version("torch").endswith("+cpu") and not version("torchvision").endswith("+cpu")
    except PackageNotFoundError:
        return False


def _declare_missing(folder: Path) -> None:
    """Declare the operators, unless the compiled ones of torchvision in `folder` can be loaded."""
    import torch

    global _library
    try:
        torch.ops.load_library(next(folder.glob("_C*.so")))
    except (OSError, StopIteration):
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            _library.define(schema)


class _Announcer(importlib.abc.MetaPathFinder):
    """Finds no module; notices the import of torchvision once, and removes itself."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            spec = PathFinder.find_spec(name, path, target)
            if spec is not None and spec.origin is not None:
                _declare_missing(Path(spec.origin).parent)
        return None


def install() -> None:
    """Prepare the import of torchvision, if it would fail."""
    waiting = any(isinstance(finder, _Announcer) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not waiting and _differ():
        sys.meta_path.insert(0, _Announcer())

"""Let torchvision be imported beside a CPU-only build of torch.

The torchvision wheel on the package index is built against the CUDA build of torch. Beside a
CPU-only torch its compiled operators do not load, and the import ends with "operator
torchvision::nms does not exist"; pytorch_lightning, torchmetrics and timm fail with it. Nothing
here uses those operators, so on exactly that failure their schemas are declared and the import is
repeated. On a healthy installation nothing happens, and torchvision is not imported any sooner.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

__all__ = ["install"]

_MISSING = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Any = None  # kept alive: once it is collected, the schemas are gone


def _declare_schemas() -> None:
    import torch

    global _library
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)


class _Loader(importlib.abc.Loader):
    """Executes torchvision; declares the missing schemas and executes it again if it must."""

    def __init__(self, inner: importlib.abc.Loader) -> None:
        self.inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self.inner.exec_module(module)
        except RuntimeError as error:
            if _MISSING not in str(error):
                raise
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]
            _declare_schemas()
            self.inner.exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds only the package torchvision, with a loader that knows the cure."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def install() -> None:
    """Watch for the import of torchvision (once per process; costs nothing until then)."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())

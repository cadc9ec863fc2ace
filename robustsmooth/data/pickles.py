"""Reading the pickles that data sets are published in, without executing anything in them."""

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

__all__ = ["load_arrays"]


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds plain values and NumPy arrays; anything else in the file is refused."""

    _ALLOWED: ClassVar = {
        ("_codecs", "encode"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def load_arrays(path: Path) -> dict[str, Any]:
    """A pickled dict of NumPy arrays and plain values.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged, or would execute code.
    """
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"`{path}` is damaged or no data file ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"`{path}` is no data file: it holds a {type(content).__name__}; fetch it again")
    return {
        str(key): np.asarray(value) if isinstance(value, list) else value for key, value in content.items()
    }

"""Reading the pickles that data sets are published in, without executing anything in them."""

import math
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class _Dtype:
    """A number type as a pickle describes it; checked, since NumPy crashes on an invalid description."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = {"|": "="}.get(state[1], state[1])

    def real(self) -> np.dtype:
        dtype = np.dtype(self.code)
        if dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"it holds values of type {dtype}")
        return dtype.newbyteorder(self.order)  # type: ignore[arg-type]


class _Array:
    """An array as a pickle describes it; `real` makes it when everything has been read."""

    def __init__(self, *_: Any) -> None:
        self.raw: Any = b""
        self.dtype = _Dtype("u1")
        self.shape: tuple[int, ...] = (0,)
        self.order: Any = "C"

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, fortran, self.raw = state
        self.order = "F" if fortran else "C"

    @classmethod
    def from_buffer(cls, raw: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> "_Array":
        made = cls()
        made.raw, made.dtype, made.shape, made.order = raw, dtype, shape, order
        return made

    def real(self) -> np.ndarray:
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else bytes(self.raw)
        flat = np.frombuffer(raw, self.dtype.real(), math.prod(self.shape))
        return flat.reshape(self.shape, order=self.order).copy()


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds plain values and descriptions of NumPy arrays; anything else in the file is refused."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy.core.numeric", "_frombuffer"): _Array.from_buffer,
        ("numpy._core.numeric", "_frombuffer"): _Array.from_buffer,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return self._ALLOWED[module, name]


def load_arrays(path: Path) -> dict[str, Any]:
    """A pickled dict of NumPy arrays of numbers and plain values.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged, or would execute code.
    """
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
        arrays = {key: _real(value) for key, value in content.items()} if isinstance(content, dict) else None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise nearly any exception
        raise ValueError(f"`{path}` is damaged or not a data file ({error}); fetch it again") from error
    if arrays is None:
        raise ValueError(f"`{path}` is not a data file: it holds a {type(content).__name__}; fetch it again")
    return {str(key): value for key, value in arrays.items()}


def _real(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.real()
    return np.asarray(value) if isinstance(value, list) else value

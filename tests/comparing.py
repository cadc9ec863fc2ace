"""Records are compared as text: in dataclasses NaN equals NaN up to Python 3.12, but not in 3.13."""

from typing import Any

__all__ = ["written"]


def written(value: Any) -> Any:
    """The value with its records as text, floats in full precision."""
    if isinstance(value, dict):
        return {key: written(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [written(part) for part in value]
    return repr(value)

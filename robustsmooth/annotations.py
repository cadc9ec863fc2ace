"""Checks config values against type annotations, with pydantic and with messages in words.

A config's values come from YAML and the command line, where a slip changes a type silently: ``no`` is a text
there, ``1e3`` a float. So values are checked strictly: booleans are ``true`` and ``false`` only, floats are
not integers, numbers are finite and are not texts. One addition: where a float is expected, a fraction such
as ``8/255`` is read as a number.
"""

import inspect
import math
import re
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, Field, PlainValidator, TypeAdapter, ValidationError

_FRACTION = re.compile(r"\s*([-+]?\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*")
_LISTS = (list, set, frozenset, abc.Sequence, abc.Iterable, abc.Collection)
_PLAIN = (bool, int, float, str, list, dict, type(None))


def read_fraction(value: Any) -> Any:
    """``"8/255"`` as a number; anything else unchanged."""
    found = _FRACTION.fullmatch(value) if isinstance(value, str) else None
    return float(found[1]) / float(found[2]) if found and float(found[2]) else value


def _built(value: Any) -> Any:
    """An object, or a placeholder for one that a ``_target_`` will make."""
    if isinstance(value, _PLAIN):
        raise ValueError("no object")
    return value


Built = Annotated[Any, PlainValidator(_built)]
"""Any object that a ``_target_`` makes."""

OR_INFINITE = "or infinite"
"""In ``Annotated[float, "or infinite"]``: a number that may be infinite, ``.inf`` in a config."""

_STRICT: dict[Any, Any] = {
    bool: Annotated[bool, Field(strict=True)],
    int: Annotated[int, Field(strict=True)],
    float: Annotated[float, BeforeValidator(read_fraction), Field(strict=True, allow_inf_nan=False)],
    str: Annotated[str, Field(strict=True)],
    Path: Annotated[str, Field(strict=True)],
}
_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "true or false"),
    int: ("an integer", "integers"),
    float: ("a finite number", "finite numbers"),
    str: ("a text", "texts"),
    Path: ("a path", "paths"),
    type(None): ("null", "nulls"),
}
_OBJECT = ("an object {_target_: ...}", "objects {_target_: ...}")


def _strict(annotation: Any) -> Any:
    """The same annotation for pydantic, without conversions, and with any object accepted."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (Any, None, type(None)) or origin is Literal or annotation is Built:
        return annotation
    if annotation in _STRICT:
        return _STRICT[annotation]
    if origin is Annotated and OR_INFINITE in arguments:
        return Annotated[float, BeforeValidator(read_fraction), Field(strict=True, gt=-math.inf)]  # no NaN
    if origin is Annotated:
        return Annotated[(_strict(arguments[0]), *arguments[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(_strict(part) for part in arguments)]  # noqa: UP007 (as many as there are)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return tuple[tuple(_strict(part) for part in arguments)]  # type: ignore[misc]
    if origin in (*_LISTS, tuple) or annotation in (*_LISTS, tuple):
        return list[_strict(arguments[0]) if arguments else Any]  # type: ignore[misc]
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return dict[Any, _strict(arguments[1]) if arguments else Any]  # type: ignore[misc]
    return Built


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_strict(annotation))


def check(value: Any, annotation: Any) -> Any:
    """The value, with fractions read as numbers.

    Args:
        value: A plain value, or one with objects (finished, or placeholders) in it.
        annotation: A type annotation.

    Raises:
        ValueError: If the annotation does not allow the value.
    """
    try:
        checked = _adapter(annotation).validate_python(value)
    except ValidationError:
        raise ValueError(
            f"must be {words(annotation)}, got {_shown(value)}{_hint(value, annotation)}"
        ) from None
    return checked if _has_fraction(value) else value


def _has_fraction(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_fraction(part) for part in value.values())
    if isinstance(value, list):
        return any(_has_fraction(part) for part in value)
    return isinstance(value, str) and _FRACTION.fullmatch(value) is not None


def words(annotation: Any, several: bool = False) -> str:
    """What an annotation allows, such as ``an integer of at least 1 or null``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation][several]
    if annotation is None:
        return "null"
    if origin is Literal:
        return ", ".join(str(choice) for choice in arguments)
    if origin is Annotated and annotation is not Built:
        return words(arguments[0], several) + "".join(_range(limit) for limit in arguments[1:])
    if origin in (Union, types.UnionType):
        parts = list(dict.fromkeys(words(part, several) for part in arguments))
        if {*parts} - {
            _OBJECT[several],
            "null",
        }:  # if numbers or tensors are allowed, a config can only have numbers
            parts = [part for part in parts if part != _OBJECT[several]]
        return " or ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} values"
    if origin in (*_LISTS, tuple) and arguments:
        return f"{'lists' if several else 'a list'} of {words(arguments[0], several=True)}"
    if annotation in (*_LISTS, tuple):
        return "a list"
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return "a mapping {name: value}"
    return _OBJECT[several]


def _range(limit: Any) -> str:
    if isinstance(limit, str):
        return f" {limit}"
    for name, meaning in {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}.items():
        if hasattr(limit, name):
            return f" {meaning} {getattr(limit, name)}"
    return ""


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(_shown(part) for part in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(part)}" for key, part in value.items()) + "}"
    return repr(value)


def _hint(value: Any, annotation: Any) -> str:
    """A hint that a number that is meant as text needs quotes."""
    wants_text = str in (annotation, *get_args(annotation))
    number = isinstance(value, int | float)
    return "; put a text that looks otherwise in quotes: 'key=\"1\"'" if wants_text and number else ""


# ------------------------------------------------------------------------------------- signatures


@dataclass(frozen=True)
class Signature:
    """The arguments that a config may give to a function or a class.

    Attributes:
        annotations: The type of each named parameter; Any if there is none or it cannot be resolved.
        required: The parameters without a default. Those of a base class count if it is of the same package
            or of this one: to another package's base class, the class may pass them itself.
        is_open: Whether other names are accepted too.
    """

    annotations: Mapping[str, Any]
    required: frozenset[str]
    is_open: bool


@cache
def signature(target: Callable[..., Any]) -> Signature:
    """The parameters of a function or class, including those that ``**kwargs`` passes to its base classes."""
    layers = [target]
    if inspect.isclass(target):
        layers = [vars(base)["__init__"] for base in target.__mro__[:-1] if "__init__" in vars(base)]
    annotations: dict[str, Any] = {}
    required: set[str] = set()
    for layer in layers:
        try:
            declared = inspect.signature(layer).parameters
        except (TypeError, ValueError):  # written in C
            break
        rest: Any = None
        for name, item in declared.items():
            annotation = _annotation(item.annotation, layer)
            if item.kind is item.VAR_KEYWORD:
                rest = annotation
            elif item.kind is not item.VAR_POSITIONAL and name not in {"self", *annotations}:
                annotations[name] = annotation
                known = layer is layers[0] or _package(layer) in (_package(target), "robustsmooth")
                required |= {name} if known and item.default is item.empty else set()
        if get_origin(rest) is typing.Unpack:  # ``**settings: Unpack[Settings]``
            hints = typing.get_type_hints(get_args(rest)[0])
            annotations = {**hints, **annotations}
            rest = None
        if rest is None:
            return Signature(annotations, frozenset(required), is_open=False)
    return Signature(annotations, frozenset(required), is_open=True)


def _package(owner: Any) -> str:
    return str(owner.__module__).partition(".")[0]


def _annotation(annotation: Any, owner: Any) -> Any:
    """An annotation as an object; Any if it is missing, or names what its module has not imported."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    names = {**vars(typing), **vars(abc), **getattr(inspect.unwrap(owner), "__globals__", {})}
    try:
        return eval(annotation, names)
    except Exception:  # such as a name that is imported for type checkers only
        return Any

"""Building the objects that a config describes, with a check of all arguments."""

import difflib
import re
from collections.abc import Callable, Container, Mapping
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from robustsmooth.annotations import Signature, check, signature


def instantiate(config: Any, **kwargs: Any) -> Any:
    """Build what a config describes: every ``_target_`` in it is called with the keys beside it.

    Args:
        config: A config or a dict with ``_target_``, ``_partial_``, ``_convert_`` as in Hydra; None
            stays None.
        **kwargs: Arguments that are added to those of the config, or replace them.

    Raises:
        ValueError: If a key is not an argument of its constructor, a required one is missing, or a value is
            not allowed by its annotation; or from the constructor, with the config's keys in its message.
        hydra.errors.InstantiationException: If a constructor fails otherwise; the cause is its error.
    """
    from hydra.utils import instantiate as build

    if config is None:
        return None
    place = config._get_full_key(None) if OmegaConf.is_config(config) else ""
    plain = check_parts(config, place, frozenset(kwargs))
    try:
        return build(plain, **kwargs)
    except InstantiationException as error:
        cause = error.__cause__
        if type(cause) is not ValueError:
            raise
        inner = re.search(r"\nfull_key: (.*)\Z", str(error))
        keys = OmegaConf.select(OmegaConf.create(plain), inner[1]) if inner else plain
        place = _given_at(config, place, inner[1]) if inner else place
        raise ValueError(_with_keys(str(cause), place, keys or ())) from cause


def check_parts(
    config: Any, place: str = "", given: frozenset[str] = frozenset(), complete: bool = True
) -> Any:
    """Check the arguments of every ``_target_`` in a config, before anything is built.

    Args:
        config: A config, or a part of one.
        place: Its key, for messages.
        given: Arguments that the outermost constructor gets from elsewhere.
        complete: Whether all required arguments must be there, and not null.

    Returns:
        The config as plain values, interpolations resolved and fractions read.

    Raises:
        ValueError: As in `instantiate`.
    """
    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    return _checked(plain, place, complete, given)


def takes(config: Mapping[str, Any], argument: str, place: str) -> bool:
    """Whether the constructor that a config names has an argument.

    Args:
        config: A config with ``_target_``.
        argument: The argument's name.
        place: The config's key, for messages.

    Raises:
        ValueError: If the constructor cannot be imported.
    """
    known = signature(_locate(config["_target_"], _key(place, "_target_")))
    return known.is_open or argument in known.annotations


def _checked(node: Any, place: str, complete: bool, given: frozenset[str] = frozenset()) -> Any:
    if isinstance(node, list):
        return [_checked(part, f"{place}[{at}]", complete) for at, part in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    parts = {str(key): _checked(part, _key(place, key), complete) for key, part in node.items()}
    if "_target_" not in parts:
        return parts
    target = _locate(parts["_target_"], _key(place, "_target_"))
    known = signature(target)
    keys = [key for key in parts if not key.startswith("_")]
    _check_names(keys, known, place, target)
    is_partial = parts.get("_partial_") or "_partial_" in given
    if is_partial or not complete:  # required arguments that are null here are given later
        given = given | {key for key in keys if key in known.required and parts[key] is None}
    for key in keys:
        if key in known.annotations and key not in given:
            parts[key] = check_argument(parts[key], known.annotations[key], _key(place, key))
    missing = sorted(known.required - {*keys, *given})
    if complete and missing and not is_partial and "_args_" not in parts:
        raise ValueError(f"`{_key(place, missing[0])}` must be given: {_name(target)} needs it")
    return parts


def _given_at(config: Any, place: str, inner: str) -> str:
    """The key at which a part was given: ``model`` for ``method.network``, which is ``${model}``."""
    raw = OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
    for name in inner.split("."):
        raw = raw.get(name) if isinstance(raw, Mapping) else None
        link = re.fullmatch(r"\$\{(\w[\w.]*)\}", raw) if isinstance(raw, str) else None
        place = link[1] if link else _key(place, name)
    return place


def _key(place: str, name: object) -> str:
    return f"{place}.{name}" if place else str(name)


def _locate(name: str, key: str) -> Callable[..., Any]:
    from hydra.utils import get_object

    try:
        found = get_object(name)
    except Exception as error:  # the import of a module may raise anything
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"`{key}` names {name}, which cannot be imported ({reason})") from error
    if not callable(found):
        raise ValueError(f"`{key}` must name a class or a function, got {name}")
    return found


def _name(target: Callable[..., Any]) -> str:
    return getattr(target, "__qualname__", str(target))


def _check_names(keys: list[str], known: Signature, place: str, target: Callable[..., Any]) -> None:
    unknown = [] if known.is_open else [key for key in keys if key not in known.annotations]
    for key in unknown:
        close = difflib.get_close_matches(key, known.annotations, n=1)
        guess = f"; did you mean {_key(place, close[0])}?" if close else ""
        listed = ", ".join(known.annotations)
        raise ValueError(f"there is no setting `{_key(place, key)}`{guess} ({_name(target)} has {listed})")


class _Planned:
    """A placeholder for an object that a nested ``_target_`` will make."""


def check_argument(value: Any, annotation: Any, key: str) -> Any:
    """Check a plain value of a config; fractions become numbers.

    Args:
        value: May contain nested ``_target_``s, which are not checked.
        annotation: The type that it must have; see `robustsmooth.annotations`.
        key: Its key, for the message.

    Raises:
        ValueError: If the annotation does not allow it.
    """
    planned = _with_planned(value)
    if value == "???" or isinstance(planned, _Planned):
        return value
    try:
        checked = check(planned, annotation)
    except ValueError as error:
        raise ValueError(f"`{key}` {error}") from None
    return checked if planned == value else value  # a value with objects in it contains no fraction


def _with_planned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return (
            _Planned() if "_target_" in value else {key: _with_planned(part) for key, part in value.items()}
        )
    return [_with_planned(part) for part in value] if isinstance(value, list) else value


def _with_keys(sentence: str, place: str, keys: Container[str]) -> str:
    """A constructor's message about `n` or `subset.split`, with the key that the user typed."""

    def key(found: re.Match[str]) -> str:
        outer, _, last = found[1].rpartition(".")
        ends_so = not outer or f".{place}".endswith(f".{outer}")
        return f"`{_key(place, last)}`" if last in keys and ends_so else found[0]

    return re.sub(r"`([a-z_][a-z0-9_.]*)`", key, sentence)

"""From a config to the objects that it describes."""

from typing import Any

__all__ = ["instantiate"]


def instantiate(config: Any, **kwargs: Any) -> Any:
    """Build what a config describes: every ``_target_`` in it is called with the keys beside it.

    Args:
        config: A config or a dict with ``_target_``, ``_partial_``, ``_convert_`` as in Hydra; None
            stays None.
        **kwargs: Arguments that are added to those of the config, or replace them.

    Raises:
        hydra.errors.InstantiationException: If a constructor refuses its arguments; the cause is its error.
    """
    from hydra.utils import instantiate as build

    return build(config, **kwargs)

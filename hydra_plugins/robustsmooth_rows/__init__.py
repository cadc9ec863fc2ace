"""Hydra finds its plugins in the namespace package ``hydra_plugins``; this is ours."""

from hydra_plugins.robustsmooth_rows.rows import RowsSweeper

__all__ = ["RowsSweeper"]

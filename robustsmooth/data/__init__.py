"""Data sets as LightningDataModules."""

from robustsmooth.data.batch import Batch

__all__ = ["Batch"]

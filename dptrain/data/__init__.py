"""Data sets: the registry, their readers, and the split into pool, population and test."""

from dptrain.data.splits import Dataset, Examples, Source

__all__ = ["Dataset", "Examples", "Source"]

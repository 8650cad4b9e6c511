"""Zarr hierarchies in directories of the local file system.

The package builds on ``filesystem`` and ``zarr.array``, and imports nothing of ``object_store``.
"""

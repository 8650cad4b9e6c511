"""Zarr hierarchies at URLs: S3, memory:// and every other store that fsspec opens.

The package builds on fsspec and ``zarr.array``, and imports nothing of ``local``.
"""

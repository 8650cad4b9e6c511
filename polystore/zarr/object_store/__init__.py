"""Zarr hierarchies behind URLs: S3, memory:// and whatever else fsspec opens.

It builds on fsspec and ``zarr.array``, and imports nothing of ``local``.
"""

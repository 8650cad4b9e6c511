"""Shared parts of the adapters for fsspec, zarr, Ray Data and Dask.

These are files for values, glob patterns, and batches of concurrent requests. The package imports
the registry and ``client``. The modules for other libraries, and ``cli``, import it.
"""

"""Shared parts of the adapters for fsspec, zarr, Ray Data and Dask.

These are files for values, JSON for any value, glob patterns, and batches of concurrent requests.
The package imports the registry and ``client``. The modules for other libraries, ``ui`` and
``cli`` import it.
"""

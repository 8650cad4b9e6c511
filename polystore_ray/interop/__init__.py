"""What fsspec, zarr, Ray Data and Dask share: files for values, globs, and batches of coroutines.

It builds on the registry and on ``client``; the modules that users import build on it.
"""

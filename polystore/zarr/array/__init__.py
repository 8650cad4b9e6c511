"""One zarr array in any store: create, open, read, update and lock it, and check its chunks.

The package does not know paths or directories. ``local`` and ``object_store`` import it.
"""

"""One zarr array in any store: create, open, read, update and lock it, and check its chunks.

Nothing here knows of paths or directories. ``local`` and ``object_store`` import it.
"""

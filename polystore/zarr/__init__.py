"""The zarr backend: arrays as zarr arrays, in directories and in object stores.

``array`` works on one array in any store, ``local`` on hierarchies in directories, and
``object_store`` on hierarchies at URLs. ``backend`` chooses between the last two.
"""

from polystore.zarr.backend import ZarrBackend

__all__ = ["ZarrBackend"]

ZarrStorageBackend = ZarrBackend  # its name in polystore 0.x, as others in polystore.compat

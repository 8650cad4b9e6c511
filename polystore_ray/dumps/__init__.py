"""Dumps: a store's whole memory as files, restorable in another store.

``dumping`` writes a dump, ``restoring`` reads it, ``files`` is the directory or the URL that holds
it, ``manifest`` the list of its files with their checksums, ``objects`` the file of many values.
No value is opened at any time. ``cli`` imports this package, which imports ``registry`` and
everything below.
"""

from polystore_ray.dumps.dumping import dump
from polystore_ray.dumps.manifest import Manifest
from polystore_ray.dumps.restoring import restore, verify

__all__ = ["Manifest", "dump", "restore", "verify"]

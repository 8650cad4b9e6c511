"""The local file system: the only package that opens, renames, locks or deletes files.

Every file is reached through an open directory, component by component, so that no link that
somebody swaps in leads out of a root. ``tree`` is the tree of a backend: it resolves paths, lists
them, and publishes and deletes what lies there. An object of ``values`` tells it what a value is:
a file of one of the ``formats``, or for the zarr backend also a directory that holds an array.
"""

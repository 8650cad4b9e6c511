"""The local file system: the only package that opens, renames, locks or deletes files.

Every file is reached through open directories, one path component at a time, so that replacing a
directory by a link cannot lead out of a root. ``tree`` is the tree of a backend: it resolves and
lists paths, and publishes and deletes what lies there. An object of ``values`` tells it what a
value is: a file of one of the ``formats``, or for the zarr backend also a directory that holds an
array. ``disk``, ``zarr`` and ``atomic`` import the package.
"""

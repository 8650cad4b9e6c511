"""The local file system: the only package that opens, renames, locks or deletes files.

Every file is reached through open directories, one path component at a time, so that replacing a
directory by a link cannot lead out of a root. The package does not know formats or arrays.
``disk``, ``zarr`` and ``atomic`` import it.
"""

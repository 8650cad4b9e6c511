"""The local file system: the only package that opens, renames, locks or deletes files.

Every file is reached through an open directory, component by component, so that no link that
somebody swaps in leads out of a root. The package knows nothing of formats or arrays; the disk
backend and the zarr backend build on it.
"""

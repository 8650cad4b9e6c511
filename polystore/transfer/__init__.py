"""Move values between two backends within one process: copies in batches, and stacks of arrays.

The package imports only ``exceptions`` and ``progress``. The default ``copy_to`` and ``stack`` of
the contract in ``base`` use it, and so do the file manager and the zarr backend.
"""

"""Move values between two backends within one process: copies in batches, and stacks of arrays.

The package imports only ``exceptions`` and ``progress``. The contract in ``base`` builds its
default ``copy_to`` and ``stack`` on it, and the cluster memory does the same.
"""

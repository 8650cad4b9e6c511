"""What runs on each node, as plain classes: the volume that pins objects, and hosts of backends.

It imports ``wire`` and ``config``; ``actors`` and the local transport wrap it.
"""

"""How requests reach a store: one interface, on a Ray cluster or within the process.

``base`` is the interface, ``on_ray`` and ``in_process`` are its implementations, ``connect``
finds or starts a store, and ``failover`` finds its next controller. ``client`` builds on it.
"""

"""How requests reach a store: one interface, for a Ray cluster and for local mode.

``base`` is the interface; ``on_ray`` and ``in_process`` implement it. ``connect`` finds or starts a
store, and ``failover`` finds its next controller. ``client`` builds on this package.
"""

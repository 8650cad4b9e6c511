"""The controller of a store as plain classes: the tree, the ledger of objects, the journal.

It runs in a Ray actor, or in the process in local mode. The package imports ``wire``, and
``rayapi`` to start hosts. ``replication``, ``actors`` and ``transport`` import it.
"""

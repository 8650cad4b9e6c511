"""The controller of a store as plain classes: the tree, the ledger of objects, the journal.

It runs in a Ray actor or, in local mode, within the process. It imports ``wire`` and, to make
hosts, ``rayapi``; ``replication`` and ``actors`` build on it.
"""

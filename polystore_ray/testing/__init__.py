"""The fault kit: inject faults into a cluster, record what clients see, and check it.

`chaos` combines the parts, and ``make chaos`` runs it: `faults` injects faults, `clients` uses the
store, `history` records, `linearizability` checks. `nodes` and `redis` start a cluster on one
machine; `network`, `network_nodes` and `switch` start one in network namespaces. Only tests and
``make`` use this package.
"""

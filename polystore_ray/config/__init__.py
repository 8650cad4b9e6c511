"""Options of a store and of the backends that it hosts, and the names of nodes.

They are plain data, which is checked where the user gives it. The package imports only ``errors``.
"""

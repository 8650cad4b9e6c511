"""Options: of a store, of the backends that it hosts, and the names of its nodes.

They are plain data that is checked where it is given. The package imports errors alone.
"""

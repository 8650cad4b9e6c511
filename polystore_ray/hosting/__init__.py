"""The parts of a store on each node, as plain classes: the volume that pins objects, and hosts.

The package imports ``wire`` and ``config``. ``actors`` turns the classes into Ray actors;
``transport`` uses them directly in local mode.
"""

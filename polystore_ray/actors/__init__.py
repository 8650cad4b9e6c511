"""Ray actors for the controller, the volume and the host, which are plain classes.

The package imports ``controller``, ``replication`` and ``hosting``. Only ``transport`` imports it.
"""

from polystore_ray.actors.base import StoreOf, reach_controller
from polystore_ray.actors.controller import controller_of

__all__ = ["StoreOf", "controller_of", "reach_controller"]

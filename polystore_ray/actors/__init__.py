"""Where controller, volume and host, which are plain classes, become Ray actors."""

from polystore_ray.actors.base import StoreOf, reach_controller
from polystore_ray.actors.controller import controller_of

__all__ = ["StoreOf", "controller_of", "reach_controller"]

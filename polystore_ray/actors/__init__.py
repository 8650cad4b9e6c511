"""Where controller, volume and host, which are plain classes, become Ray actors."""

from polystore_ray.actors.controller import controller_of
from polystore_ray.actors.hosting import StoreOf

__all__ = ["StoreOf", "controller_of"]

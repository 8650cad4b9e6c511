"""Ray is an extra: say how to install it where it is missing and needed."""

from __future__ import annotations

from polystore.exceptions import missing_dependency

__all__ = ["needs_ray"]


class needs_ray:  # noqa: N801 - used as a function
    """Run a block that imports Ray; where Ray is missing, raise `MissingDependencyError`.

    Parameters
    ----------
    what : str
        What needs Ray, for the error.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str = "a store on a cluster (without local=True)") -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "ray":
            raise missing_dependency(self._what, error, "ray") from None

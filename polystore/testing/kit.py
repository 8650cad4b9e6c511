"""What all suites of the kit share: the backend, where to work in it, and declared deviations."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.testing
import pytest

__all__ = ["BackendKit"]


class BackendKit:
    """The base of every suite.

    Attributes
    ----------
    deviations : dict of str to str
        Names of tests that the backend is known not to pass, each with the reason. Such a test is
        expected to fail; if it passes, that is a failure too.
    suffix : str
        What every stored name ends with, so that a backend that chooses by it chooses arrays.
    """

    deviations: ClassVar[dict[str, str]] = {}
    suffix: ClassVar[str] = ".npy"

    @pytest.fixture
    def backend(self) -> Any:
        """Return the backend under test; every author overrides this."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture 'backend'")

    @pytest.fixture
    def root(self, backend: Any) -> str:
        """Return an empty directory of the backend, without a slash at its end."""
        return ""

    @pytest.fixture(autouse=True)
    def _tolerate_declared_deviations(self, request: pytest.FixtureRequest) -> None:
        reason = self.deviations.get(request.node.originalname)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    def value(self, seed: int = 0) -> Any:
        """Return a value the backend can hold; another for another seed."""
        return np.arange(12, dtype=np.int32).reshape(3, 4) + seed

    def same(self, loaded: Any, saved: Any) -> None:
        """Assert that what was loaded is what was saved."""
        numpy.testing.assert_array_equal(loaded, saved)

    def path(self, root: str, name: str) -> str:
        """Return the path of a value below the directory under test."""
        return f"{root}/{name}{self.suffix}"

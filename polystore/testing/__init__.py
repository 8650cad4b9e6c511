"""The conformance kit: what every backend promises, as tests that its author subclasses.

Each suite is one capability and each test one promise. A backend's tests subclass the suites of
what the backend can do, and give it as the fixture ``backend``::

    class TestMine(Readable, Writable, Directories, Batches):
        @pytest.fixture
        def backend(self):
            return MyBackend()

This package needs pytest.
"""

from polystore.testing.batches import AtomicBatches, Batches
from polystore.testing.directories import Directories
from polystore.testing.kit import BackendKit
from polystore.testing.links import Links
from polystore.testing.objects import Objects
from polystore.testing.reading import Readable, VirtualPaths
from polystore.testing.regions import Regions
from polystore.testing.transfers import Transfers
from polystore.testing.writing import Writable

__all__ = [
    "AtomicBatches",
    "BackendKit",
    "Batches",
    "Directories",
    "Links",
    "Objects",
    "Readable",
    "Regions",
    "Transfers",
    "VirtualPaths",
    "Writable",
]

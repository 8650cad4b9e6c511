"""The conformance kit: the promises of every backend, as tests that its author subclasses.

Each suite is one capability and each test one promise. The tests of a backend derive from the
suites of its capabilities, in any order, and return it from the fixture ``backend``::

    class TestMine(Readable, Writable, Directories, Batches, Concurrency):
        @pytest.fixture
        def backend(self):
            return MyBackend()

A promise that takes two capabilities is tested in classes that derive from both suites. Declare in
``deviations``, with the reason, the tests that a backend is known to fail.

`check_format` checks a format of files.

This package needs pytest. `polystore.testing.stateful`, which needs hypothesis too, is not
imported with it.
"""

from polystore.testing.batches import AtomicBatches, Batches
from polystore.testing.concurrency import AtomicMoves, Concurrency
from polystore.testing.directories import Directories
from polystore.testing.flow import Awaited, Claimed, Evicting, Expiring
from polystore.testing.formats import check_format
from polystore.testing.growing import Growing
from polystore.testing.kit import BackendKit
from polystore.testing.links import Links
from polystore.testing.objects import Objects
from polystore.testing.raw import FileAccess, RawAccess
from polystore.testing.read_only import ReadOnly
from polystore.testing.reading import Described, Readable
from polystore.testing.regions import Regions
from polystore.testing.stored import Damage, Traces
from polystore.testing.transfers import Transfers
from polystore.testing.virtual import VirtualPaths
from polystore.testing.watched import Watched
from polystore.testing.writing import Deletable, Writable, WriteOnce

__all__ = [
    "AtomicBatches",
    "AtomicMoves",
    "Awaited",
    "BackendKit",
    "Batches",
    "Claimed",
    "Concurrency",
    "Damage",
    "Deletable",
    "Described",
    "Directories",
    "Evicting",
    "Expiring",
    "FileAccess",
    "Growing",
    "Links",
    "Objects",
    "RawAccess",
    "ReadOnly",
    "Readable",
    "Regions",
    "Traces",
    "Transfers",
    "VirtualPaths",
    "Watched",
    "Writable",
    "WriteOnce",
    "check_format",
]

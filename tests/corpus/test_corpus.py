"""Files of other writers are loaded as they were meant, saved again, and changed in part.

The writers that are installed take part; with ``POLYSTORE_CORPUS=all``, all of them have to.
"""

from __future__ import annotations

import os
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from writers import WRITERS, Writer

from polystore import DiskBackend, ImageSaveError

WANTED = [w for w in WRITERS if os.environ.get("POLYSTORE_CORPUS") == "all" or w.is_installed()]


@pytest.mark.parametrize("writer", WANTED, ids=lambda writer: writer.name)
def test_files_of_a_writer_are_what_it_meant(writer: Writer, tmp_path: Path) -> None:
    disk = DiskBackend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the writers
        cases = list(writer.write(tmp_path))
    for case in cases:
        loaded = disk.load(case.name, **case.options)
        meant = case.meant
        assert (loaded.shape, loaded.dtype) == (meant.shape, meant.dtype), case.name
        worst = np.abs(loaded.astype(complex) - meant.astype(complex)).max()
        assert worst <= case.near, case.name
        region = (..., slice(3, None, 2), slice(10, 2, -1))
        part = disk.load(case.name, region=region, **case.options)
        assert np.array_equal(part, loaded[region]), case.name
        with suppress(ImageSaveError) if loaded.dtype == bool else nullcontext():  # no .tif has it
            disk.save(loaded, f"again-{case.name}")
            again = disk.load(f"again-{case.name}")
            if not case.name.endswith(".jpg"):
                assert np.array_equal(again, loaded), case.name
        check_changed_in_part(disk, tmp_path / case.name, loaded)


def check_changed_in_part(disk: DiskBackend, path: Path, loaded: np.ndarray[Any, Any]) -> None:
    """Check that a save into a region changes that alone, or is refused and changes nothing."""
    before = path.read_bytes()
    value = loaded.dtype.type(1)
    place = (0,) * loaded.ndim
    try:
        disk.save(value, path.name, region=place)
    except ImageSaveError:
        assert path.read_bytes() == before, path.name
    else:
        expected = loaded.copy()
        expected[place] = value
        assert np.array_equal(disk.load(path.name), expected), path.name

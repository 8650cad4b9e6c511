"""Tables of other writers are loaded as they were meant, saved again, and read by pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polystore import DiskBackend

NAMES = ["well", "n", "area", "ok"]
ROWS: list[list[Any]] = [
    ["A01", 1, 1.5, True],
    ["007", -2, 1e-05, False],
    ['a "quoted", cell', 10**12, 1e22, True],
    ["two\nlines é", 0, 0.1, False],
]


def _of_pandas(**options: Any) -> str:
    return str(pd.DataFrame(ROWS, columns=NAMES).to_csv(index=False, **options))


def _of_csv(dialect: str) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, dialect=dialect).writerows([NAMES, *ROWS])
    return text.getvalue()


def _of_r() -> str:
    """As ``write.csv(table, row.names = FALSE)`` writes it."""

    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).upper()
        return '"' + value.replace('"', '""') + '"' if isinstance(value, str) else repr(value)

    lines = [",".join(f'"{name}"' for name in NAMES), *(",".join(map(cell, row)) for row in ROWS)]
    return "\n".join(lines) + "\n"


WRITERS: dict[str, Callable[[], str]] = {
    "pandas": _of_pandas,
    "pandas, text quoted": lambda: _of_pandas(quoting=csv.QUOTE_NONNUMERIC),
    "pandas, with CR LF": lambda: _of_pandas(lineterminator="\r\n"),
    "a spreadsheet": lambda: "\ufeff" + _of_csv("excel"),
    "csv": lambda: _of_csv("excel"),
    "R": _of_r,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_table_is_what_its_writer_meant(writer: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(WRITERS[writer]().encode())
    disk = DiskBackend(tmp_path)
    loaded = disk.load("a.csv")
    if isinstance(loaded[0], dict):
        assert [list(row) for row in loaded] == [NAMES] * len(ROWS)
        rows = [list(row.values()) for row in loaded]
    else:
        assert loaded[0] == NAMES
        rows = loaded[1:]
    assert rows == ROWS
    disk.save(loaded, "b.csv")
    assert disk.load("b.csv") == loaded
    again = pd.read_csv(tmp_path / "b.csv", dtype={"well": str})
    assert again.to_numpy(dtype=object).tolist() == ROWS


def test_missing_cells_of_pandas_and_r_are_none(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1.5, np.nan], "b": ["x", None]})
    for options in ({}, {"na_rep": "NA"}):
        table.to_csv(tmp_path / "a.csv", index=False, **options)
        loaded = DiskBackend(tmp_path).load("a.csv")
        assert loaded == [["a", "b"], [1.5, "x"], [None, None]]

"""CSV as others write it, and what is not saved as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polystore import CorruptDataError, DiskBackend, UnsupportedFormatError

INF = float("inf")
# What R, pandas and spreadsheets write, and what each of them reads of it.
OF_OTHERS: dict[str, tuple[str, Any]] = {
    "R's row names": ('"","x"\n"1",1e+05\n"2",NA\n', [{"": "1", "x": 1e5}, {"": "2", "x": None}]),
    "names that repeat": ('"a","a","a.1"\n1,2,3\n', [{"a": 1, "a.2": 2, "a.1": 3}]),
    "R's logicals": ('"ok"\nTRUE\nFALSE\n', [{"ok": True}, {"ok": False}]),
    "R's limits": ('"x"\nInf\n-Inf\n', [{"x": INF}, {"x": -INF}]),
    "a spreadsheet's decimals": ("a,b\r\n1.50,1E+05\r\n", [["a", "b"], [1.5, 1e5]]),
    "a missing lookup": ("a\r\n#N/A\r\n", [["a"], [None]]),
    "codes": ("007,1e3,2310009E13,1_0\n", [["007", "1e3", "2310009E13", "1_0"]]),
    "quoted numbers": ('1,"1.50","NA"\n', [[1, "1.50", "NA"]]),
    "a longer integer than Python converts": ("1" * 4400 + "\n", [["1" * 4400]]),
}


@pytest.mark.parametrize("case", OF_OTHERS)
def test_a_file_of_others_is_read_as_they_read_it(tmp_path: Path, case: str) -> None:
    text, expected = OF_OTHERS[case]
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert DiskBackend(tmp_path).load("a.csv") == expected


def test_a_table_of_pandas_has_the_numbers_that_pandas_reads(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"n": [1, -2], "x": [1.5e-7, 1e22], "ok": [True, False], "s": ["a,b", 'q"']}
    )
    table.to_csv(tmp_path / "a.csv", index=False)
    header, *rows = DiskBackend(tmp_path).load("a.csv")
    assert header == list(table.columns)
    assert rows == pd.read_csv(tmp_path / "a.csv").to_numpy(dtype=object).tolist()


@pytest.mark.parametrize(
    "text", ["NA", "TRUE", "1.50", "1e+05", "Inf", "-Inf", "NaN", "", "007", "1e3", "#N/A"]
)
def test_text_that_others_take_for_another_value_stays_text(tmp_path: Path, text: str) -> None:
    disk = DiskBackend(tmp_path)
    disk.save([{"a": text}], "a.csv")
    assert disk.load("a.csv") == [{"a": text}]


@pytest.mark.parametrize(
    "cell",
    [
        np.datetime64("2024-01-01", "s"),
        np.datetime64("2024-01-01", "ns"),
        np.timedelta64(5, "ns"),
        np.datetime64("NaT", "s"),
        pd.NaT,
        pd.Timestamp("2024-01-01"),
        pd.NA,
        np.ma.masked,
        b"bytes",
        1j,
    ],
    ids=repr,
)
def test_a_cell_that_is_no_text_or_number_is_refused(tmp_path: Path, cell: Any) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"str\(value\)"):
        DiskBackend(tmp_path).save([{"a": cell}], "a.csv")


def test_an_unclosed_quote_takes_no_memory_for_each_character(tmp_path: Path) -> None:
    # The way back through two million pairs of quotes once took 300 MB.
    (tmp_path / "a.csv").write_text('"' + '""' * 2_000_000)
    resource = pytest.importorskip("resource", reason="limits are the system's")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptDataError, match="quote"):
        DiskBackend(tmp_path).load("a.csv")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB

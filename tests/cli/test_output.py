"""What is printed: nothing that a terminal obeys, JSON that is JSON, and no traceback."""

from __future__ import annotations

import datetime as dt
import io
import json
import math
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polystore import FileManager
from polystore_ray.cli.doctor import Finding, doctor
from polystore_ray.cli.output import aligned, fields, human_bytes, moment, print_value, say
from polystore_ray.interop.json_text import json_pieces
from tests.cli.commands import run_locally, says_one_line

ESC = "\x1b[31mred"


def json_of(value: Any, indent: int | None = None) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads("".join(json_pieces(value, indent)), parse_constant=refuse)


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


PLAIN: list[Any] = [None, True, 1, 1.5, "é\x1b", [], {}, [[], {}], {"a": [1, {"b": None}]}, -0.0]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_what_json_can_say_is_said_as_python_says_it(value: Any) -> None:
    assert "".join(json_pieces(value)) == json.dumps(value)
    assert "".join(json_pieces(value, 2)) == json.dumps(value, indent=2)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, None),
        ([math.inf, -math.inf], [None, None]),
        (np.array([1, math.nan], "f4"), {"shape": [2], "dtype": "float32", "values": [1, None]}),
        (np.zeros((1, 2), "u1"), {"shape": [1, 2], "dtype": "uint8", "values": [[0, 0]]}),
        (np.array(3), {"shape": [], "dtype": "int64", "values": 3}),
        (np.zeros((2**40, 0), "u1"), {"shape": [2**40, 0], "dtype": "uint8", "values": []}),
        (np.array([0], "M8[ns]"), ["1970-01-01T00:00:00.000000000"]),
        (np.array([(1, "2020")], "i4,M8[Y]"), [[1, "2020"]]),
        (np.longdouble(2), 2),
        (np.datetime64("NaT", "s"), "NaT"),
        (1j, "1j"),
        (dt.date(2020, 1, 2), "2020-01-02"),
        (range(10**12), "range(0, 1000000000000)"),
        (b"\xff\x1b", "\xff\x1b"),
        ("\udcff", "\udcff"),
        ({(1, 2): 3, b"a": 1, None: 2, 5: 6, ESC: ESC}, None),
        (10**5000, hex(10**5000)),
        ({1}, [1]),
    ],
    ids=lambda value: str(type(value)),
)
def test_what_json_cannot_say_is_said_in_text_or_as_null(value: Any, said: Any) -> None:
    found = json_of(value)
    if isinstance(value, dict):
        said = {"(1, 2)": 3, "a": 1, "null": 2, "5": 6, ESC: ESC}
    elif isinstance(value, np.ndarray) and isinstance(said, list):
        found = found["values"]
    assert found == said


def test_values_may_be_nested_as_deep_as_they_like() -> None:
    for indent in (None, 1):
        text = "".join(json_pieces(deep(5000), indent))
        assert text.count("[") == text.count("]") == 5001


def test_a_value_whose_text_has_no_end_takes_no_memory() -> None:
    value: Any = [1]
    for _ in range(50):
        value = [value] * 10
    assert len(list(islice(json_pieces(value), 10_000))) == 10_000


def test_a_value_that_contains_itself_fails_in_one_line(fm: FileManager) -> None:
    value: list[Any] = []
    value.append(value)
    fm.save(value, "/cycle", backend="memory")
    done = run_locally("cat", "memory:/cycle")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "contains itself" in done.err
    shared = [1]
    assert json_of([shared, shared]) == [[1], [1]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10**5000, hex(10**5000)),
        ({(1, 2): 3}, "(1, 2)"),
        (deep(400), "[]"),
        (np.zeros(2, [(ESC, "f4")]), "\\x1b[31mred"),
        (np.array([ESC]), "\\x1b[31mred"),
        ("\udcff", "\\udcff"),
        (np.array(["NaT"], "M8[s]"), "NaT"),
    ],
    ids=["huge", "keys", "deep", "name of a field", "texts", "surrogate", "NaT"],
)
def test_cat_prints_odd_values(fm: FileManager, value: Any, text: str) -> None:
    fm.save(value, "/odd", backend="memory")
    done = run_locally("cat", "memory:/odd")
    assert (done.code, done.err) == (0, "")
    assert text in done.out
    assert "\x1b" not in done.out
    assert run_locally("--json", "cat", "memory:/odd").code == 0


def test_a_text_that_numpy_cannot_show_fails_in_one_line(fm: FileManager) -> None:
    fm.save(np.frombuffer(b"\xff" * 4, "<U1"), "/broken", backend="memory")
    assert says_one_line(run_locally("cat", "memory:/broken")).startswith(
        "polystore: the value cannot be printed"
    )


@pytest.mark.parametrize("seconds", [1e12, -1e20, 1e300, math.nan, math.inf, "odd"])
def test_a_time_that_is_in_no_calendar_is_a_number(seconds: Any) -> None:
    assert moment(seconds) == f"{seconds} s after 1970"


def test_a_file_of_the_year_20000_is_listed(tmp_path: Path) -> None:
    import os

    (tmp_path / "a.txt").write_text("a")
    os.utime(tmp_path / "a.txt", (0, 9e11))
    for arguments in (("ls", "-l"), ("stat",), ("--json", "ls")):
        done = run_locally(*arguments, f"disk:{tmp_path}")
        assert (done.code, done.err) == (0, "")


def test_whatever_a_backend_says_of_a_file_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    fields({"dtype": ESC, "size": ESC, "bytes": None, "modified": ESC, "nodes": (ESC, 1)})
    aligned([(ESC, human_bytes(ESC), moment(1.0), ESC), ("a", "b", "c", "d")])  # type: ignore[arg-type]
    say(f"{ESC}\r\n")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\r" not in out
    assert len(out.splitlines()) == 8


def test_doctor_shows_names_that_others_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "polystore_ray.cli.doctor._check_here", lambda: [Finding(ESC, "ok", ESC, ESC)]
    )
    done = run_locally("doctor")
    assert done.code == 0
    assert "\x1b" not in done.out
    assert doctor.name == "doctor"


def test_a_terminal_gets_text_without_what_it_would_obey(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_value(ESC + "\n", as_json=False)
    assert capsys.readouterr().out == ESC + "\n"  # a pipe gets it as it is
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_value(ESC + "\n\t", as_json=False)
    print_value(ESC.encode() + b"\xff", as_json=False)
    assert capsys.readouterr().out == "\\x1b[31mred\n\t\\x1b[31mred\\xff"


def test_an_encoding_that_lacks_a_character_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from polystore_ray.cli.__main__ import polystore_command

    (tmp_path / "日.txt").write_text("a")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    with pytest.raises(SystemExit) as ended:
        polystore_command.main(["--local", "ls", f"disk:{tmp_path}"])
    assert ended.value.code == 0
    sys.stdout.flush()
    assert raw.getvalue() == b"\\u65e5.txt\n"

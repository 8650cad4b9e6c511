"""The conformance kit catches what it is for: each broken backend fails the test of its promise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import broken_backends
import numpy as np
import pytest

import polystore.testing
from polystore import DiskBackend, ZarrBackend
from polystore.formats import Format, format_of
from polystore.testing import (
    BackendKit,
    Batches,
    Concurrency,
    Directories,
    Links,
    Readable,
    Writable,
    WriteOnce,
    check_format,
)

pytest_plugins = ["pytester"]

Run = Callable[..., dict[str, list[str]]]

MEMORY = (
    "Readable, Writable, Directories, Links, Batches, AtomicBatches, Regions, Transfers, "
    "VirtualPaths, Concurrency, AtomicMoves"
)
DISK = (
    "Readable, Writable, Directories, Links, Batches, Regions, Transfers, VirtualPaths, Damage, "
    "Traces, Watched, Concurrency"
)

KIT = """
from broken_backends import *
from typing import ClassVar

import pytest

from polystore import *
from polystore.testing import *


class TestIt({suites}):
    suffix: ClassVar[str] = ".npy"
    deviations: ClassVar[dict[str, str]] = {deviations}

    @pytest.fixture
    def backend(self, tmp_path):
        return {backend}
"""
RAW = """
    @pytest.fixture
    def raw(self, tmp_path):
        return FileAccess(tmp_path)
"""


def kit(backend: str, suites: str, deviations: object = None) -> str:
    """Return a file of tests as the author of a backend writes it."""
    on_disk = issubclass(vars(broken_backends)[backend], (DiskBackend, ZarrBackend))
    made = f"{backend}(tmp_path)" if on_disk else f"{backend}()"
    text = KIT.format(backend=made, suites=suites, deviations=deviations or {})
    return text + RAW if on_disk else text


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Return what runs suites of the kit against a backend, and tells names by outcome."""

    def run(*arguments: Any) -> dict[str, list[str]]:
        pytester.makepyfile(kit(*arguments))
        record = pytester.inline_run("-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error")
        outcomes = zip(("passed", "skipped", "failed"), record.listoutcomes(), strict=True)
        return {
            outcome: sorted({report.nodeid.rpartition("::")[2] for report in reports})
            for outcome, reports in outcomes
        }

    return run


WRITING = (
    *("copy", "create_symlink", "delete", "delete_all"),
    *("ensure_directory", "move", "save", "save_batch"),
)

# Each with the suites it is run against, and the tests that catch it.
BROKEN: list[tuple[str, str, list[str]]] = [
    ("OverwritesSilently", "Readable, Writable", ["test_an_existing_path_is_kept"]),
    (
        "SharesWhatIsSaved",
        "Writable",
        [
            "test_copy_makes_a_second_value",
            "test_what_is_loaded_changes_nothing_stored",
            "test_what_is_saved_is_a_snapshot",
        ],
    ),
    (
        "LosesRegions",
        "Growing",
        [
            "test_regions_and_appends_do_not_disturb_each_other",
            "test_regions_that_race_lose_nothing",
        ],
    ),
    ("ShowsWhatWasCutOff", "Growing", ["test_resize_cuts_off_and_fills_up"]),
    (
        "AppendsWhereOthersDo",
        "Growing",
        [
            "test_appends_that_race_get_places_of_their_own",
            "test_regions_and_appends_do_not_disturb_each_other",
            "test_what_does_not_fit_changes_nothing",
        ],
    ),
    (
        "WatchesLate",
        "Directories, Watched",
        [
            "test_a_watch_begins_with_the_call",
            "test_a_watch_of_one_level_leaves_others_out",
            "test_a_watch_tells_what_happens_to_a_value",
        ],
    ),
    ("Tears", "Writable, Concurrency", ["test_a_reader_sees_the_old_value_or_the_new_one"]),
    ("ListsTemporaries", "Writable, Concurrency", ["test_a_listing_shows_whole_values_only"]),
    (
        "LeavesTemporaries",
        "Writable, Traces",
        [
            "test_a_save_that_fails_leaves_nothing",
            "test_a_save_that_is_refused_leaves_nothing",
            "test_an_overwrite_that_fails_leaves_nothing",
        ],
    ),
    (
        "SavesWithTheNextCall",
        "Readable, Traces",
        [
            "test_a_save_is_stored_when_it_returns",
            "test_a_save_that_fails_leaves_nothing",
            "test_a_save_that_is_refused_leaves_nothing",
        ],
    ),
    (
        "RaisesFromExists",
        "Readable",
        [
            "test_a_path_through_a_file_does_not_exist",
            "test_questions_tell_files_directories_and_nothing",
        ],
    ),
    (
        "AnswersInNumbers",
        "Readable",
        [
            "test_a_path_through_a_file_does_not_exist",
            "test_paths_may_be_path_objects",
            "test_questions_tell_files_directories_and_nothing",
        ],
    ),
    (
        "ListsInNoOrder",
        "Readable",
        ["test_list_dir_gives_names_in_plain_order", "test_paths_may_be_path_objects"],
    ),
    ("LosesARace", "Writable, Concurrency", ["test_of_many_savers_one_wins"]),
    (
        "MovesInTwoSteps",
        "Writable, Directories, Transfers, Concurrency",
        ["test_of_many_movers_of_one_file_one_wins"],
    ),
    ("MovesInTwoSteps", "Transfers, AtomicMoves", ["test_a_tree_is_at_one_place_whole"]),
    (
        "LinksInTwoSteps",
        "Writable, Links, Concurrency",
        ["test_a_link_leads_to_the_old_source_or_the_new_one"],
    ),
    (
        "PublishesOneByOne",
        "Batches, AtomicBatches, Writable, Concurrency",
        [
            "test_a_batch_appears_all_at_once",
            "test_a_batch_that_fails_replaces_nothing",
            "test_a_value_that_cannot_be_stored_keeps_all_out",
            "test_of_many_batches_that_meet_one_wins",
        ],
    ),
    (
        "LoadsDamage",
        "Damage",
        ["test_a_batch_names_what_is_damaged", "test_a_damaged_value_is_told"],
    ),
    (
        "DoesNotSayWhatIsDamaged",
        "Damage",
        ["test_a_batch_names_what_is_damaged", "test_a_damaged_value_is_told"],
    ),
    (
        "MemoryBackend",
        "ReadOnly",
        [f"test_writing_is_refused_and_changes_nothing[{operation}]" for operation in WRITING],
    ),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case[0]}: {case[2][0]}")
def test_a_broken_backend_is_caught(case: tuple[str, str, list[str]], run: Run) -> None:
    backend, suites, caught_by = case
    outcomes = run(backend, suites)
    assert outcomes["failed"] == caught_by
    assert outcomes["passed"]


@pytest.mark.parametrize(("backend", "suites"), [("MemoryBackend", MEMORY), ("DiskBackend", DISK)])
def test_a_correct_backend_passes_everything(backend: str, suites: str, run: Run) -> None:
    outcomes = run(backend, suites)
    assert outcomes["failed"] == outcomes["skipped"] == []
    assert len(outcomes["passed"]) > 100


# Deviations


def test_a_declared_deviation_is_tolerated_and_no_other(run: Run) -> None:
    declared = {"test_an_overwrite_replaces": "it saves for good"}
    outcomes = run("IgnoresOverwrite", "Writable, Links", declared)
    assert outcomes["skipped"] == ["test_an_overwrite_replaces"]
    assert outcomes["failed"] == ["test_load_and_save_act_on_the_target"]


def test_a_declared_deviation_that_passes_is_a_failure(run: Run) -> None:
    outcomes = run("MemoryBackend", "Writable", {"test_save_returns_nothing": "or so"})
    assert outcomes["failed"] == ["test_save_returns_nothing"]


@pytest.mark.parametrize(
    ("deviations", "words"),
    [
        ({"test_an_existing_path_is_keptt": "why"}, "test_an_existing_path_is_keptt.*no test"),
        ({"value": "why"}, "'value', which is no test"),
        ({"test_of_many_links_one_wins": "why"}, "no test of it"),
        ({"test_an_existing_path_is_kept": ""}, "without saying why"),
        ({"test_an_existing_path_is_kept": " "}, "without saying why"),
        ({"test_an_existing_path_is_kept": None}, "without saying why"),
    ],
)
def test_a_deviation_from_nothing_or_for_no_reason_is_an_error(
    deviations: dict[str, str], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        type("TestIt", (Writable, Concurrency), {"deviations": deviations})


@pytest.mark.parametrize("member", [None, lambda self: None])
def test_a_test_cannot_be_overridden_or_hidden(member: object) -> None:
    with pytest.raises(TypeError, match="more than one test_an_existing_path_is_kept"):
        type("TestIt", (Writable,), {"test_an_existing_path_is_kept": member})
    mixin = type("Mixin", (), {"test_an_existing_path_is_kept": member})
    with pytest.raises(TypeError, match="more than one test_an_existing_path_is_kept"):
        type("TestIt", (mixin, Writable), {})


# Composition


def suites() -> list[type[BackendKit]]:
    exported = [getattr(polystore.testing, name) for name in polystore.testing.__all__]
    classes = [cls for cls in exported if isinstance(cls, type)]
    return [cls for cls in classes if issubclass(cls, BackendKit) and cls is not BackendKit]


def promises(cls: type) -> set[str]:
    return {n for n in dir(cls) if n.startswith("test") and getattr(cls, n) is not None}


def test_suites_combine_in_any_order() -> None:
    for one, other in combinations(suites(), 2):
        forth: Any = type("TestForth", (one, other), {})
        back: Any = type("TestBack", (other, one), {})
        assert promises(forth) == promises(back) >= promises(one) | promises(other)
    everything = type("TestEverything", tuple(suites()), {})
    assert promises(everything) == promises(type("TestIt", tuple(suites()[::-1]), {}))


def test_no_two_suites_have_a_fixture_of_one_name() -> None:
    shared = set(dir(BackendKit))
    owners: dict[str, str] = {}
    for suite in suites():
        for base in suite.__mro__:
            for name in set(vars(base)) - shared:
                if not name.startswith(("__", "test")):
                    assert owners.setdefault(name, base.__qualname__) == base.__qualname__, name


def test_what_takes_two_capabilities_is_tested_where_both_are_claimed() -> None:
    race = "test_a_link_leads_to_the_old_source_or_the_new_one"
    one = type("TestOne", (Readable, Writable, Concurrency), {})
    assert race not in promises(one)
    assert race in promises(type("TestMore", (one, Directories, Links), {}))
    batch = "test_a_batch_replaces_when_told"
    assert batch in promises(type("TestIt", (Writable, Batches), {}))
    assert batch not in promises(type("TestIt", (WriteOnce, Batches), {}))
    assert promises(Directories) < promises(type("TestIt", (Directories, Writable), {}))


# What an author forgets


def said(pytester: pytest.Pytester, text: str) -> str:
    pytester.makepyfile(text)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:asyncio")
    assert "passed" not in result.parseoutcomes()
    return result.stdout.str()


@pytest.mark.parametrize("suite", ["Damage", "Traces"])
def test_raw_access_that_is_missing_is_an_error(pytester: pytest.Pytester, suite: str) -> None:
    assert "TestIt needs a fixture 'raw'; leave" in said(pytester, kit("MemoryBackend", suite))


def test_a_read_only_backend_without_raw_access_is_told_what_it_needs(
    pytester: pytest.Pytester,
) -> None:
    told = said(pytester, kit("CannotBeWritten", "ReadOnly"))
    assert "a backend that cannot be written needs the fixture 'raw' or 'plant'" in told


def test_a_suite_without_a_backend_says_so(pytester: pytest.Pytester) -> None:
    told = said(pytester, "from polystore.testing import *\nclass TestIt(Readable): pass")
    assert "TestIt needs a fixture 'backend'" in told


def _write_npy(file: Any, value: Any) -> None:
    np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)


def _read_npy(path: str) -> Any:
    with open(path, "rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _write_and_read(file: Any, value: Any) -> None:
    _write_npy(file, value)
    file.seek(0)
    file.read()


BROKEN_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "a scalar for an array": ("comes back as", {"read": lambda path: _read_npy(path)[()]}),
    "any value is written": ("must refuse", {}),
    "the whole for a part": ("comes back as", {"read_region": lambda path, _: _read_npy(path)}),
    "a part of other values": (
        "Arrays are not equal",
        {"read_region": lambda path, index: _read_npy(path)[::-1][index]},
    ),
    "another shape": ("describe returns", {"describe": lambda _: {"shape": (), "dtype": "f8"}}),
    "a file that is read": ("not readable|read", {"write": _write_and_read}),
}


@pytest.mark.parametrize("kind", BROKEN_FORMATS)
def test_the_check_of_a_format_names_the_broken_promise(kind: str) -> None:
    message, parts = BROKEN_FORMATS[kind]
    whole: dict[str, Any] = {"write": _write_npy, "read": _read_npy, **parts}
    arrays = [np.arange(6.0).reshape(2, 3), np.array(2.5)]
    with pytest.raises((AssertionError, OSError), match=message):
        check_format(Format("broken", (".broken",), **whole), arrays, refused=[[1, 2]])


@pytest.mark.parametrize(
    ("name", "values", "refused"),
    [
        ("a.npy", [np.arange(6).reshape(2, 3), np.array("x")], [{1}]),
        ("a.npz", [{"a": np.ones(2), "b": np.array(1)}], [np.ones(2)]),
        ("a.json", [{"a": [1, None]}, "x"], [{1}, np.ones(2)]),
        ("a.csv", [[{"a": 1, "b": None}], [["x", 2.5]], []], [{"a": 1}]),
        ("a.txt", ["Zürich\r\n", ""], [b"x"]),
        ("a.bin", [b"", b"\0"], ["x"]),
        ("a.tif", [np.arange(30, dtype=np.uint16).reshape(5, 6)], [np.ones((4, 4)) > 0]),
        ("a.png", [np.arange(30, dtype=np.uint8).reshape(5, 6)], [np.ones((4, 4))]),
    ],
)
def test_the_formats_of_polystore_pass_their_check(name: str, values: Any, refused: Any) -> None:
    check_format(format_of(name), values, refused)

"""The page to look at a store, asked as a browser would: what it answers, and whom."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype

from polystore import BackendRegistry, DiskBackend, FileManager, MemoryBackend
from polystore.exceptions import MissingDependencyError, StorageResolutionError, VFSTypeError
from polystore.formats import format_of
from polystore_ray import RayBackendRegistry
from polystore_ray.ui import listing, values
from polystore_ray.ui.access import Keys
from polystore_ray.ui.app import application
from polystore_ray.ui.counters import Counters
from polystore_ray.ui.pictures import Look, picture
from polystore_ray.wire.messages import Loss
from polystore_ray.zarr import ClusterStore

KEYS = Keys()
HOST = "http://127.0.0.1"
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "'\"><script src=data:,alert(1)>",
    "new\nline\ttab\x1b[31m",
    "\u202etxt.exe",
    "%2e%2e%2f?#&",
    "ünï 細胞",
]


class Page:
    """A page that is asked without a server."""

    def __init__(self, registry: Mapping[str, Any]) -> None:
        self._transport = httpx.ASGITransport(application(registry, KEYS, ["127.0.0.1"]))
        self.fm = FileManager(registry)

    def request(self, method: str, address: str, **options: Any) -> httpx.Response:
        async def answer() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url=HOST) as client:
                return await client.request(method, address, **options)

        return asyncio.run(answer())

    def ask(self, what: str, backend: str = "", path: str = "", **parameters: object) -> Any:
        answer = self.get(what, backend, path, **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, what: str, backend: str = "", path: str = "", **parameters: Any) -> Any:
        place = json.dumps([backend, path])
        return self.request(
            "GET", f"/{KEYS.page}/api/{what}", params={"place": place, **parameters}
        )

    def names(self, backend: str, path: str, **parameters: object) -> list[str]:
        found = self.ask("list", backend, path, **({"start": 0, "count": 100} | parameters))
        return [entry["name"] for entry in found["entries"]]

    def shown(self, backend: str, path: str) -> Any:
        return self.ask("value", backend, path)["shown"]

    def pixels(self, path: str, **parameters: object) -> Any:
        png = base64.b64decode(self.ask("picture", "memory", path, **parameters)["png"])
        return decoded(png)

    def key(self, backend: str, path: str, key: str, method: str = "GET", **headers: str) -> Any:
        """Ask for a key as a viewer that was given the address of a path."""
        quoted = quote(key).replace("..", "%2e%2e")  # a client would resolve it
        return self.request(method, f"{viewers(backend, path)}/{quoted}", headers=headers)


def viewers(backend: str, path: str) -> str:
    return f"/{KEYS.signed(json.dumps([backend, path]))}"


def decoded(png: bytes) -> Any:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(png)
        file.flush()
        return format_of(".png").load(file.name)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    roots = {key: {"root": str(tmp_path / key)} for key in ("disk", "zarr")}
    registry = RayBackendRegistry("ui", local=True, backends=roots)
    yield Page(registry)
    registry.shutdown()


# Who may ask


def test_without_its_token_nothing_is_answered(page: Page) -> None:
    page.fm.save(np.zeros((3, 3)), "/a", backend="memory")
    signed = viewers("memory", "/a")
    mac, _, place = signed.rpartition(".")
    for address in (
        "/",
        "/wrong/",
        "/wrong/api/overview",
        f"{signed}/api/overview",
        f"{signed}/page.js",
        f"{mac}.{place[:-2]}/zarr.json",
        f"/{'0' * 64}.{place}/zarr.json",
        f"/{KEYS.page}.{place}/zarr.json",
        f"/{KEYS.page[:-1]}/api/overview",
    ):
        assert page.request("GET", address).status_code == 404
    assert page.request("GET", f"{signed}/zarr.json").is_success


def test_the_address_for_a_viewer_opens_one_place(page: Page, tmp_path: Path) -> None:
    page.fm.save(np.zeros((3, 3)), "/image/0.npy", backend="disk")
    page.fm.save("secret", "/secret.txt", backend="disk")
    assert page.key("disk", "/image", "0.npy/zarr.json").is_success
    for key in ("../secret.txt", "x/../../secret.txt", "/secret.txt", "0.npy//zarr.json"):
        assert page.key("disk", "/image", key).status_code == 404


def test_another_host_name_is_refused(page: Page) -> None:
    for address in (f"/{KEYS.page}/", f"/{KEYS.page}/api/overview", f"{viewers('memory', '/a')}/"):
        assert page.request("GET", address, headers={"Host": "rebound.example"}).status_code == 400


def test_nothing_can_be_changed(page: Page) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for address in ("api/list", "page.js"):
            assert page.request(method, f"/{KEYS.page}/{address}").status_code == 405
        assert page.key("memory", "/a", "zarr.json", method).status_code == 405


@pytest.mark.parametrize("address", ["", "api/overview", "none"])
def test_every_answer_keeps_other_sites_out(page: Page, address: str) -> None:
    address = f"/{KEYS.page}/{address}"
    headers = page.request("GET", address, headers={"Origin": "https://viewer.example"}).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "set-cookie" not in headers
    assert not [name for name in headers if name.startswith("access-control")]


def test_only_viewers_with_their_token_may_ask_from_another_site(page: Page) -> None:
    page.fm.save(np.zeros((2, 2)), "/a", backend="memory")
    other = {"Origin": "https://viewer.example"}
    answer = page.key("memory", "/a", "zarr.json", **other)
    assert answer.headers["access-control-allow-origin"] == "*"
    before = other | {"Access-Control-Request-Method": "GET"}
    preflight = {**before, "Access-Control-Request-Headers": "range"}
    assert page.key("memory", "/a", "c/0/0", "OPTIONS", **preflight).is_success
    for address in ("/wrong/zarr.json", f"/{KEYS.page}/api/overview"):
        answer = page.request("OPTIONS", address, headers=preflight)
        assert "access-control-allow-origin" not in answer.headers


def test_the_files_of_the_page_name_no_other_site() -> None:
    assets = Path(values.__file__).parent / "assets"
    files = {file.name: file.read_text("utf-8") for file in assets.iterdir()}
    assert files.keys() == {"index.html", "page.css", "page.js"}
    for text in files.values():
        assert "://" not in text.replace("http://www.w3.org/2000/svg", "")
    script = files["page.js"]
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert sink not in script


# Names


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("backend", ["memory", "disk"])
def test_any_name_is_listed_and_opened(page: Page, name: str, backend: str) -> None:
    path = f"/{name}/{name}.txt"
    page.fm.save("content", path, backend=backend)
    assert page.names(backend, "/") == [name]
    assert page.names(backend, f"/{name}") == [f"{name}.txt"]
    answer = page.get("value", backend, path)
    assert answer.json()["shown"] == {"text": "content"}
    assert answer.text.isascii()
    assert answer.headers["content-type"] == "application/json"


def test_a_name_that_is_not_utf8_is_listed_and_opened(page: Page, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.txt")
    (tmp_path / "disk").mkdir(exist_ok=True)
    (tmp_path / "disk" / name).write_text("content")
    assert page.names("disk", "/") == [name]
    assert page.shown("disk", f"/{name}") == {"text": "content"}


def test_no_path_leads_out_of_a_root(page: Page) -> None:
    for path in ("/../../etc/passwd", "../../etc/passwd"):
        assert page.get("value", "disk", path).status_code in (400, 404)
    assert page.key("disk", "/../..", "etc/passwd").status_code in (400, 404)


@pytest.mark.parametrize("place", ["", "[]", "[1, 2]", "{}", '["memory"]', "[[]]"])
def test_a_place_that_is_none_is_an_error_of_the_asker(page: Page, place: str) -> None:
    answer = page.request("GET", f"/{KEYS.page}/api/value", params={"place": place})
    assert answer.status_code == 400
    assert "error" in answer.json()
    assert page.request("GET", f"/{KEYS.page}/api/value").status_code == 400


def test_what_is_missing_is_said(page: Page) -> None:
    for what in ("value", "picture"):
        assert page.get(what, "memory", "/none").status_code == 404
    assert page.get("list", "none", "/", start=0, count=1).status_code == 404


# Nothing is unpickled


class Trap:
    """A value whose opening leaves a mark."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (self.mark, "w")


@pytest.mark.parametrize("is_ray", [True, False])
def test_no_value_is_unpickled(page: Page, tmp_path: Path, is_ray: bool) -> None:
    if not is_ray:
        page = Page({"memory": MemoryBackend()})
    mark = tmp_path / "mark"
    page.fm.save(Trap(str(mark)), "/trap", backend="memory")
    page.fm.save({"cells": 3}, "/plain", backend="memory")
    assert "not plain data" in page.shown("memory", "/trap")["note"]
    assert page.get("picture", "memory", "/trap").status_code == 404
    assert page.key("memory", "/", "trap").status_code == 404
    assert not mark.exists()
    assert page.shown("memory", "/plain") == {"text": '{\n  "cells": 3\n}'}


def test_files_of_torch_are_not_opened(page: Page, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(exist_ok=True)
    (tmp_path / "disk" / "model.pt").write_bytes(b"pickled")
    assert "pickles" in page.shown("disk", "/model.pt")["note"]


# Directories


def test_a_listing_has_facts_and_comes_in_windows(page: Page) -> None:
    page.fm.save_batch(
        [np.zeros(i, np.uint8) for i in range(30)],
        [f"/d/a{i}" for i in range(30)],
        backend="memory",
    )
    page.fm.ensure_directory("/d/z", backend="memory")
    found = page.ask("list", "memory", "/d", start=9, count=2)
    assert (found["total"], found["start"]) == (31, 9)
    assert [entry["name"] for entry in found["entries"]] == ["a9", "a10"]
    assert [(entry["size"], entry["shape"]) for entry in found["entries"]] == [(9, [9]), (10, [10])]
    assert [entry["opens"] for entry in found["entries"]] == [False, False]
    assert page.ask("list", "memory", "/d", start=30, count=9)["entries"][0]["opens"]


def test_only_the_facts_of_a_window_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryBackend()
    page = Page({"memory": memory})
    memory.save_batch([0] * 2000, [f"/{i}" for i in range(2000)])
    counts = Counter[str]()

    def count(name: str) -> None:
        real = getattr(MemoryBackend, name)

        def counted(*given: Any) -> Any:
            counts[name] += 1
            return real(*given)

        monkeypatch.setattr(MemoryBackend, name, counted)

    count("stat")
    count("list_dir")
    for start in range(0, 2000, 500):
        page.ask("list", "memory", "/", start=start, count=50)
    assert counts == {"stat": 200, "list_dir": 1}


def test_entries_are_sorted_by_name_size_and_time(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("b2", 3), ("b10", 1), ("a", 2)):
        page.fm.save(np.zeros(size, np.uint8), f"/{name}", backend="memory")
    assert page.names("memory", "/") == ["a", "b2", "b10"]
    assert page.names("memory", "/", reverse=1) == ["b10", "b2", "a"]
    assert page.names("memory", "/", sort="size") == ["b10", "a", "b2"]
    assert page.names("memory", "/", sort="modified", reverse=1) == ["a", "b10", "b2"]
    monkeypatch.setattr(listing, "MOST_SORTED", 2)
    answer = page.get("list", "memory", "/", start=0, count=9, sort="size")
    assert answer.status_code == 400
    assert "search" in answer.json()["error"]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("well", ["Well1", "well2"]),
        ("1", ["Well1"]),
        ("w*2", ["well2"]),
        ("[x]", []),
        ("ß", ["straße"]),
    ],
)
def test_names_are_searched_in_any_case_or_by_a_glob(
    page: Page, search: str, found: list[str]
) -> None:
    for name in ("Well1", "well2", "straße"):
        page.fm.save(0, f"/{name}", backend="memory")
    assert page.names("memory", "/", search=search) == found


def test_a_search_finds_files_in_all_directories_below(page: Page) -> None:
    for path in ("/d/A.npy", "/d/e/f/a.npy", "/d/e/b.npy", "/a.npy"):
        page.fm.save(0, path, backend="memory")
    assert page.names("memory", "/d", search="a.", below=1) == ["A.npy", "e/f/a.npy"]


def test_a_link_to_a_directory_is_opened_as_one(page: Page) -> None:
    page.fm.ensure_directory("/d", backend="memory")
    page.fm.create_symlink("/d", "/link", backend="memory")
    [_, link] = page.ask("list", "memory", "/", start=0, count=9)["entries"]
    assert (link["type"], link["opens"]) == ("symlink", True)


def test_browsing_begins_at_the_root_or_in_the_working_directory(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = {"start": 0, "count": 1}
    assert page.ask("list", "memory", "", **start)["path"] == "/"
    assert page.ask("list", "disk", "", **start)["path"] in ("/", ".")
    monkeypatch.chdir(tmp_path)
    plain = Page({"disk": DiskBackend(), "rooted": DiskBackend(tmp_path)})
    assert plain.ask("list", "disk", "", **start)["path"] == str(tmp_path)
    assert plain.ask("list", "rooted", "", **start)["path"] == "/"


# Values


def test_the_facts_of_an_array_are_told(page: Page) -> None:
    page.fm.save(np.zeros((400, 300), "u2"), "/a", backend="memory")
    facts = page.ask("value", "memory", "/a")["facts"]
    assert (facts["shape"], facts["dtype"], facts["nodes"]) == ([400, 300], "uint16", ["local"])
    assert facts["version"] >= 1
    options: Any = {"chunks": (10, 20), "attributes": {"unit": "um"}}
    page.fm.save(np.zeros((40, 30)), "/a", backend="zarr", **options)
    facts = page.ask("value", "zarr", "/a")["facts"]
    assert (facts["chunks"], facts["attributes"]) == ([10, 20], {"unit": "um"})


@pytest.mark.parametrize(
    ("value", "names", "rows"),
    [
        ([{"well": "A1", "cells": 3}, {"well": None}], ["well", "cells"], [["A1", "3"], ["", ""]]),
        ([[1, 2.5], ["x", True]], None, [["1", "2.5"], ["x", "true"]]),
        (np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]), ["a", "b"], [["1", "2.5"]]),
        (np.arange(3), None, [["0"], ["1"], ["2"]]),
        (np.array([["a", "<b>"]]), None, [["a", "<b>"]]),
    ],
)
def test_tables_are_shown_as_tables(page: Page, value: Any, names: Any, rows: Any) -> None:
    page.fm.save(value, "/table", backend="memory")
    assert page.shown("memory", "/table")["table"] == {"names": names, "rows": rows}


def test_of_a_large_table_the_first_rows_are_read(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "_MOST_TEXT", 2000)
    page.fm.save([{"n": i, "é": "x"} for i in range(5000)], "/t.csv", backend="disk")
    table = page.shown("disk", "/t.csv")["table"]
    assert table["names"] == ["n", "é"]
    assert table["rows"][:2] == [["0", "x"], ["1", "x"]]
    assert len(table["rows"]) == 100
    page.fm.save('a,"b\nc' * 2000, "/odd.txt", backend="disk")
    page.fm.move("/odd.txt", "/odd.csv", backend="disk")
    assert page.shown("disk", "/odd.csv")["text"].startswith('a,"b')


def test_text_json_and_bytes_are_shown_as_text(page: Page) -> None:
    page.fm.save("é\n" * 10, "/a.txt", backend="disk")
    page.fm.save({"a": [1]}, "/a.json", backend="disk")
    page.fm.save(b"\x00\x01" * 500, "/a.bin", backend="disk")
    assert page.shown("disk", "/a.txt") == {"text": "é\n" * 10}
    assert json.loads(page.shown("disk", "/a.json")["text"]) == {"a": [1]}
    assert page.shown("disk", "/a.bin")["text"].startswith("00 01 00 01")
    page.fm.save({"x": float("nan"), "y": {1}}, "/plain", backend="memory")
    assert json.loads(page.shown("memory", "/plain")["text"]) == {"x": None, "y": [1]}
    page.fm.save({"a": np.zeros((2, 3))}, "/a.npz", backend="disk")
    assert page.shown("disk", "/a.npz")["table"]["rows"] == [["a", "[2, 3]", "float64"]]


def test_of_a_long_text_only_the_beginning_is_read(page: Page, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(exist_ok=True)
    with open(tmp_path / "disk" / "long.txt", "wb") as file:
        file.write("é".encode() * 100_000)
        file.truncate(2**34)  # a hole, which would not fit into memory
    shown = page.shown("disk", "/long.txt")
    assert (shown["text"], shown["note"]) == ("é" * 2**15, "Only the beginning is shown")
    page.fm.save("x" * 100_000, "/long", backend="memory")
    assert page.shown("memory", "/long")["note"] == "Only the beginning is shown"


# Pictures


def test_an_image_is_scaled_between_its_percentiles(page: Page) -> None:
    image = np.arange(100, dtype="u2").reshape(10, 10)
    page.fm.save(image, "/a", backend="memory")
    assert page.shown("memory", "/a") == {
        "image": {"shape": [10, 10], "colour": False, "labels": False}
    }
    pixels = page.pixels("/a", low=0, high=100)
    np.testing.assert_allclose(pixels, image / 99 * 255, atol=1)
    assert (page.pixels("/a", low=50, high=50.5) == 0).sum() == 50
    found = page.ask("picture", "memory", "/a")
    assert (sum(found["histogram"]), found["between"]) == (100, [0, 99])
    assert (found["rows"], found["columns"], found["step"]) == ([0, 10], [0, 10], 1)


def test_an_index_chooses_along_further_axes(page: Page) -> None:
    stack = np.zeros((2, 3, 4, 5), "f4")
    stack[1, 2, 0] = 1
    page.fm.save(stack, "/a", backend="memory")
    assert page.pixels("/a", index="1,2", high=100).max(axis=1).tolist() == [255, 0, 0, 0]
    assert page.pixels("/a", index="0,0").max() == 0
    for wrong in ("1", "1,2,3", "5,0", "x"):
        assert page.get("picture", "memory", "/a", index=wrong).status_code == 400


def test_colours_stay_as_they_are(page: Page) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    page.fm.save(colours, "/a", backend="memory")
    np.testing.assert_array_equal(page.pixels("/a"), colours)


def test_labels_have_colours_of_their_own(page: Page) -> None:
    labels = np.arange(200, dtype="i4").reshape(10, 20)
    page.fm.save(labels, "/a", backend="memory")
    assert page.shown("memory", "/a")["image"]["labels"]
    colours = page.pixels("/a", labels=1)
    assert colours[0, 0].tolist() == [0, 0, 0]
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) > 190


@pytest.mark.parametrize(
    "image",
    [
        np.array([[True, False]]),
        np.array([[1j, 2]]),
        np.array([[np.nan, np.inf], [-np.inf, 1]]),
        np.full((2, 2), np.nan),
        np.array([[-1e308, 1e308], [0, 1]]),
        np.array([[0, 2**64 - 1]], "u8"),
        np.arange(4, dtype=">f4").reshape(2, 2),
        np.zeros((3, 3)),
        np.arange(6).reshape(2, 3)[:, ::-1].T,
    ],
)
@pytest.mark.parametrize("labels", [0, 1])
def test_any_numbers_have_a_picture(page: Page, image: Any, labels: int) -> None:
    page.fm.save(image, "/a", backend="memory")
    assert page.pixels("/a", labels=labels).shape[:2] == image.shape


def test_never_more_than_a_part_of_a_large_array_is_read() -> None:
    asked = []

    def load(region: Any) -> Any:
        asked.append(region)
        return np.broadcast_to(np.uint16(7), (10**6, 10**6))[region]

    found = picture(load, (10**6, 10**6), "uint16", Look())
    [(rows, columns)] = asked
    assert (rows.stop - rows.start) * (columns.stop - columns.start) * 2 <= 2**26
    assert decoded(base64.b64decode(found["png"])).shape == (1024, 1024)
    found = picture(load, (10**6, 10**6), "uint16", Look(top=999_990, left=5, full=True))
    assert (found["rows"], found["columns"]) == ([999_990, 10**6], [5, 1029])
    with pytest.raises(VFSTypeError, match="1000000 rows"):
        picture(load, (10**6, 10**6), "uint16", Look(top=10**6))
    with pytest.raises(VFSTypeError, match="needs 1 positions"):
        picture(load, (9, 10**6, 10**6), "uint16", Look())
    assert len(asked) == 2


# zarr for other viewers


def opened(page: Page, backend: str, path: str) -> Any:
    """Open with zarr what the page serves, key by key."""
    keys = ["zarr.json"]
    metadata = page.key(backend, path, "zarr.json").json()
    if metadata["node_type"] == "array":
        shape, chunks = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
        counts = [range(-(-side // chunk)) for side, chunk in zip(shape, chunks, strict=True)]
        keys += ["/".join(["c", *map(str, at)]) for at in product(*counts)]
    buffer = default_buffer_prototype().buffer
    store: dict[str, Any] = {}
    for key in keys:
        answer = page.key(backend, path, key)
        if answer.status_code == 200:
            store[key] = buffer.from_bytes(answer.content)
    return zarr.open(store, mode="r")


@pytest.mark.parametrize(
    ("backend", "path", "array", "options"),
    [
        ("memory", "/a", np.arange(1_000_000, dtype="u2").reshape(1000, 1000), {}),
        ("memory", "/a", np.arange(6, dtype=">f4").reshape(2, 3), {}),
        ("memory", "/a", np.array(5), {}),
        ("disk", "/a.npy", np.arange(6).reshape(2, 3), {}),
        ("zarr", "/a", np.arange(35, dtype="i2").reshape(5, 7), {"chunks": (2, 3)}),
        ("zarr", "/a", np.ones((3, 3), bool), {"zarr_format": 2}),
    ],
)
def test_any_array_is_served_as_zarr(
    page: Page, backend: str, path: str, array: Any, options: Any
) -> None:
    page.fm.save(array, path, backend=backend, **options)
    np.testing.assert_array_equal(opened(page, backend, path)[...], array)
    beyond = "/".join(["c", *["1000"] * array.ndim]) if array.ndim else "c/0"
    assert page.key(backend, path, beyond).status_code == 404


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_groups_keep_their_attributes(page: Page, tmp_path: Path, zarr_format: Any) -> None:
    attributes = {"multiscales": [{"version": "0.4", "datasets": [{"path": "0"}]}]}
    zarr.create_group(
        str(tmp_path / "zarr" / "image"), zarr_format=zarr_format, attributes=attributes
    )
    page.fm.save(np.ones((3, 3)), "/image/0", backend="zarr")
    assert dict(opened(page, "zarr", "/image").attrs) == attributes
    np.testing.assert_array_equal(opened(page, "zarr", "/image/0")[...], np.ones((3, 3)))


def test_what_is_stored_as_zarr_is_passed_on_as_it_is(page: Page, tmp_path: Path) -> None:
    array = np.arange(100).reshape(10, 10)
    stored: Any = {"data": array, "chunks": (5, 5), "shards": (10, 10), "attributes": {"a": 1}}
    registry: Any = page.fm.registry
    zarr.create_array(ClusterStore("/plate.zarr", registry), **stored)
    zarr.create_array(str(tmp_path / "disk" / "plate.zarr"), **stored)
    for backend in ("memory", "disk"):
        found = opened(page, backend, "/plate.zarr")
        assert found.metadata.codecs[0].to_dict()["name"] == "sharding_indexed"
        np.testing.assert_array_equal(found[...], array)


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [("bytes=2-5", 2, 6), ("bytes=90-", 90, 100), ("bytes=-7", 93, 100), ("bytes=95-200", 95, 100)],
)
@pytest.mark.parametrize("backend", ["memory", "disk"])
def test_a_range_of_a_key_is_served(
    page: Page, backend: str, wanted: str, start: int, stop: int
) -> None:
    data = np.arange(100, dtype=np.uint8)
    page.fm.save(data if backend == "memory" else data.tobytes(), "/key.bin", backend=backend)
    answer = page.key(backend, "/", "key.bin", Range=wanted)
    assert answer.status_code == 206
    assert answer.content == data[start:stop].tobytes()
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/100"


def test_other_ranges_are_refused_or_ignored(page: Page) -> None:
    page.fm.save(np.zeros(100, np.uint8), "/key", backend="memory")
    assert page.key("memory", "/", "key", "HEAD").headers["content-length"] == "100"
    assert page.key("memory", "/", "key", Range="bytes=100-").status_code == 416
    for ignored in ("bytes=-", "lines=1-2", "bytes=0-1,5-6"):
        assert page.key("memory", "/", "key", Range=ignored).status_code == 200


# Overview


def test_the_overview_has_the_status_of_the_store(page: Page) -> None:
    page.fm.save(np.zeros(10**6, np.uint8), "/a", backend="memory")
    for _ in range(3):
        page.fm.load("/a", backend="memory")
    found = page.ask("overview")
    assert found["status"]["files"] == 1
    assert found["status"]["nodes"][0]["pinned_bytes"] >= 10**6
    assert {"memory", "disk", "zarr"} <= set(found["backends"])
    assert sum(found["counters"]["reads"].values()) >= 3
    assert found["lost"] == []


def test_lost_values_are_told_with_their_reason(page: Page) -> None:
    page.fm.save(np.zeros((300, 300)), "/d/gone", backend="memory")
    registry: Any = page.fm.registry
    controller = registry._connect()._controller
    [pin] = registry._connect().ask("read", ["/d/gone"]).pins
    controller.note("volume_lost", "local")
    controller.note("lost", [pin.id], Loss("1f0c2a9b77", "one", 1_700_000_000.0, "why"))
    [lost] = page.ask("overview")["lost"]
    assert (lost["path"], lost["host"], lost["time"]) == ("/d/gone", "one", 1_700_000_000.0)
    assert "one 1f0c2a9b" in page.ask("list", "memory", "/d")["entries"][0]["lost"]
    assert page.shown("memory", "/d/gone")["note"].startswith("The value is lost: the last copy")


def test_a_registry_of_this_process_has_backends_and_no_store(tmp_path: Path) -> None:
    page = Page(BackendRegistry.isolated({"disk": {"root": tmp_path}, "zarr": {"root": tmp_path}}))
    page.fm.save(np.zeros((2, 2)), "/a.npy", backend="disk")
    page.fm.save("text", "/a", backend="memory")
    found = page.ask("overview")
    assert found["status"] is None
    assert found["backends"][:3] == ["memory", "disk", "zarr"]
    assert page.names("disk", "/") == ["a.npy"]
    assert page.shown("memory", "/a") == {"text": "text"}
    np.testing.assert_array_equal(opened(page, "disk", "/a.npy")[...], np.zeros((2, 2)))


METRICS = b"""\
# HELP ray_polystore_errors_total Operations that raised
ray_polystore_operation_seconds_count{backend="memory",operation="load",pid="1",store="s"} 5.0
ray_polystore_operation_seconds_count{backend="disk",operation="load",pid="2",store="s"} 2.0
ray_polystore_operation_seconds_count{backend="memory",operation="load",store="other"} 9.0
ray_polystore_operation_seconds_bucket{backend="memory",operation="load",le="1",store="s"} 5.0
ray_polystore_errors_total{error="Data\\"Lost",store="s"} 1.0
ray_polystore_leased_reads_total{how="kept",store="s"} 8.0
ray_polystore_leased_reads_total{how="asked",store="s"} 2.0
"""


def test_counters_of_all_nodes_are_summed() -> None:
    class Agent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(METRICS)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Agent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        node = {"NodeManagerAddress": "127.0.0.1", "MetricsExportPort": server.server_port}
        silent = {"NodeManagerAddress": "127.0.0.1", "MetricsExportPort": 1}
        found = Counters().of("s", [node, silent, node])
        server.shutdown()
        thread.join()
    assert found == {
        "operations": {"load": 14.0},
        "errors": {'Data\\"Lost': 2.0},
        "reads": {"kept": 16.0, "asked": 4.0},
    }
    assert Counters().of("s", [silent]) is None


# How it is started


def test_the_page_is_served_and_stopped(page: Page) -> None:
    registry: Any = page.fm.registry
    with registry.ui() as served:
        assert served.url.startswith("http://127.0.0.1:")
        assert len(served.url.split("/")[3]) > 30
        assert f'href="{served.url}"' in served._repr_html_()
        with urllib.request.urlopen(f"{served.url}api/overview", timeout=30) as answer:
            assert "server" not in answer.headers
            assert json.load(answer)["status"]["store"] == "ui"
        with urllib.request.urlopen(served.url, timeout=30) as answer:
            assert b"page.js" in answer.read()
        port = int(served.url.split(":")[2].split("/")[0])
        with pytest.raises(StorageResolutionError, match=f"port {port}"):
            registry.ui(port=port)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(served.url, timeout=30)


def test_without_the_extra_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "polystore_ray.ui.server", raising=False)
    with pytest.raises(MissingDependencyError, match=r"\.\[ui\]"):
        RayBackendRegistry(local=True).ui()


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("content")
    command = [sys.executable, "-m", "polystore_ray.cli", "--local", "--json", "ui"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONUNBUFFERED": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        url = json.loads(running.stdout.readline())["url"]
        place = quote(json.dumps(["disk", ""]))
        with urllib.request.urlopen(
            f"{url}api/list?place={place}&start=0&count=9", timeout=30
        ) as answer:
            assert [entry["name"] for entry in json.load(answer)["entries"]] == ["a.txt"]
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert (running.returncode, said.strip()) == (130, "polystore: interrupted")


# In notebooks


def test_notebooks_show_registries_and_the_tree_of_a_file_manager(page: Page) -> None:
    name = "<script>alert(1)</script>"
    page.fm.save(0, f"/d/{name}/e/f/deep", backend="memory")
    page.fm.save_batch([0] * 30, [f"/many/{i}" for i in range(30)], backend="memory")
    shown = page.fm._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "and 10 more" in shown
    assert "deep" not in shown
    assert "<bdi>19</bdi>" in shown
    registry: Any = page.fm.registry
    assert "<td><bdi>files</bdi></td><td><bdi>31</bdi></td>" in registry._repr_html_()
    assert registry.status()._repr_html_() != ""


def test_notebooks_start_nothing() -> None:
    registry = BackendRegistry.isolated()
    assert registry.in_use() == []
    assert "in use" not in registry._repr_html_()
    assert "<ul>" not in FileManager(registry)._repr_html_()
    assert registry.in_use() == []
    registry["memory"].save("x", "/a")
    assert "in use" in registry._repr_html_()
    assert "<bdi>a</bdi>" in FileManager(registry)._repr_html_()
    assert "<bdi>a</bdi>" in FileManager({"memory": registry["memory"]})._repr_html_()

"""How classes of backends travel: whole where they cannot be imported, and known by their code."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from polystore import DiskBackend, StorageBackend
from polystore.exceptions import StorageResolutionError
from polystore.registration import _REGISTRY
from polystore_ray.wire.classes import class_from_bytes, class_to_bytes, is_newer, opened
from polystore_ray.wire.fingerprint import fingerprint_of

SOURCE = """
from __future__ import annotations
from functools import cache, partialmethod
from polystore import StorageBackend

FACTOR = 2

def helper(value):
    return [value * FACTOR for _ in range(1)]

class Mixin:
    def shout(self):
        return "!"

class Mine(Mixin, StorageBackend):
    _backend_type = "shipping_mine"
    limits = {"a": 1, "b": {2, 3}}
    things = {object(), print}

    later = partialmethod(lambda self, value: 8, 1)

    @staticmethod
    def twice(value, times=2):
        return helper(value)[0]

    def load(self, path): return self.twice(1)
    def save(self, data, path): pass
    def is_file(self, path): return True
    def is_dir(self, path): return False
    def list_dir(self, path): return []
"""

# What functools.cache makes of a method goes by its name.
CACHED = SOURCE.replace(
    "    def is_file", "    @cache\n    def remembered(self):\n        return 7\n\n    def is_file"
)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    _REGISTRY.pop("shipping_mine", None)
    for name in [name for name in sys.modules if name.startswith("shipped_")]:
        del sys.modules[name]


def defined(source: str = SOURCE, name: str = "shipped_module") -> Any:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, f"<{id(module)}>", "exec"), module.__dict__)
    return module.__dict__["Mine"]


def test_the_same_code_has_the_same_fingerprint_wherever_it_was_defined() -> None:
    assert fingerprint_of(defined()) == fingerprint_of(defined())
    assert fingerprint_of(defined("\n\n" + SOURCE)) == fingerprint_of(defined())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return self.twice(1)", "return self.twice(3)"),
        ("times=2", "times=3"),
        ("{2, 3}", "{2, 4}"),
        ("return 7", "return 8"),
        ("value: 8", "value: 9"),
        ("FACTOR = 2", "FACTOR = 3"),
        ("value * FACTOR", "value + FACTOR"),
        ('return "!"', 'return "?"'),
        ("    @staticmethod\n    def twice(", "    @classmethod\n    def twice(cls, "),
        ("    def is_dir(self, path): return False", "    def is_dir(self, p): return not p"),
    ],
)
def test_other_code_has_another_fingerprint(old: str, new: str) -> None:
    assert old in CACHED
    assert fingerprint_of(defined(CACHED)) != fingerprint_of(defined(CACHED.replace(old, new)))


def test_a_class_is_used_in_a_process_that_cannot_import_it(tmp_path: Path) -> None:
    shipped = class_to_bytes(defined())
    (tmp_path / "shipped").write_bytes(shipped)
    code = f"""
        from pathlib import Path
        from polystore import BackendRegistry
        from polystore_ray.wire.fingerprint import fingerprint_of
        from polystore_ray.wire.classes import class_from_bytes, class_to_bytes
        shipped = Path({str(tmp_path / "shipped")!r}).read_bytes()
        cls = class_from_bytes(shipped)
        assert class_to_bytes(cls) == shipped
        print(BackendRegistry()["shipping_mine"].load("x"), fingerprint_of(cls))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", opened(shipped).fingerprint]


def test_a_class_that_cannot_travel_whole_says_why_where_it_is_missing() -> None:
    source = SOURCE.replace("FACTOR = 2", "import threading\nFACTOR = threading.Lock()")
    shipped = class_to_bytes(defined(source, "shipped_stuck"))
    assert "lock" in opened(shipped).why_not
    del sys.modules["shipped_stuck"]
    with pytest.raises(StorageResolutionError, match=r"shipped_stuck.*lock.*runtime_env"):
        class_from_bytes(shipped)


def test_a_class_of_which_a_part_goes_by_name_says_so_where_that_is_missing() -> None:
    shipped = class_to_bytes(defined(CACHED, "shipped_part"))
    assert class_from_bytes(shipped).__name__ == "Mine"
    del sys.modules["shipped_part"]
    with pytest.raises(StorageResolutionError, match=r"by name.*shipped_part.*every node"):
        class_from_bytes(shipped)


def test_a_later_version_is_told_from_an_earlier_and_from_the_same() -> None:
    first = class_to_bytes(defined())
    arrived = class_from_bytes(first)
    again = class_to_bytes(defined())
    later = class_to_bytes(defined(SOURCE.replace("FACTOR = 2", "FACTOR = 5")))
    assert opened(later).sequence > opened(first).sequence
    sent = class_from_bytes(first)
    assert sent is arrived or sent.__qualname__ == arrived.__qualname__
    assert is_newer(later, sent)
    assert not is_newer(again, sent)
    assert not is_newer(first, sent)
    assert not is_newer(first, class_from_bytes(later))


def test_what_every_node_has_travels_by_its_name() -> None:
    shipped = opened(class_to_bytes(DiskBackend))
    assert shipped.whole == b""
    assert shipped.fingerprint == ""
    assert len(shipped.code) < 100


def test_a_class_that_was_changed_in_place_is_shipped_again() -> None:
    # As %autoreload changes one: the class stays the same object.
    module = ModuleType("edited_in_place")
    sys.modules[module.__name__] = module
    source = (
        "from polystore import StorageBackend\n"
        "def helper(): return 1\n"
        "class Edited(StorageBackend):\n"
        "    _backend_type = 'edited_in_place'\n"
        "    def load(self, path): return helper()\n"
        "    def save(self, data, path): pass\n"
        "    def is_file(self, path): return True\n"
        "    def is_dir(self, path): return False\n"
        "    def list_dir(self, path): return []\n"
    )
    exec(source, vars(module))
    cls = module.Edited

    def renewed(change: Callable[[], Any]) -> bool:
        before = class_to_bytes(cls)
        assert class_to_bytes(cls) is before
        change()
        after = class_to_bytes(cls)
        assert class_to_bytes(cls) is after
        if after is not before:
            assert opened(after).fingerprint != opened(before).fingerprint
            assert opened(after).sequence > opened(before).sequence
        return after is not before

    def code(text: str) -> Any:
        scope: dict[str, Any] = {}
        exec(text, scope)
        return scope["new"].__code__

    assert renewed(lambda: setattr(module.helper, "__code__", code("def new(): return 3")))
    assert renewed(lambda: setattr(cls, "added", lambda self: 4))
    assert renewed(lambda: setattr(cls, "number", 5))
    assert not renewed(lambda: setattr(module, "other", 6))
    # The same code again, as after a reload without an edit.
    assert not renewed(lambda: setattr(module.helper, "__code__", code("def new(): return 3")))
    assert renewed(lambda: setattr(cls.load, "__code__", code("def new(self, path): return 2")))
    del sys.modules[module.__name__]


def test_a_class_that_came_here_travels_on_as_it_came() -> None:
    shipped = class_to_bytes(Arriving)
    cls = class_from_bytes(shipped)
    cls.seen = 1  # as a host may count in it
    assert class_to_bytes(cls) is shipped


class Arriving(StorageBackend):
    _backend_type = "arriving"

    def load(self, path: Any) -> Any:
        return 1

    def save(self, data: Any, path: Any) -> None: ...

    def is_file(self, path: Any) -> bool:
        return True

    def is_dir(self, path: Any) -> bool:
        return False

    def list_dir(self, path: Any) -> list[str]:
        return []

"""``watch``: what happens below a path, line by line."""

from __future__ import annotations

import json

from polystore import FileManager
from tests.cli.commands import run_locally, says_one_line


def test_watch_prints_each_change(fm: FileManager) -> None:
    fm.save(b"1" * 2000, "/watched/a", backend="memory")
    fm.registry["memory"].move("/watched/a", "/watched/b")
    fm.delete_all("/watched", backend="memory")
    done = run_locally("watch", "memory:/watched", "--since", 0, "--timeout", 0)
    assert (done.code, done.err) == (0, "")
    created, saved, moved, deleted = done.out.splitlines()
    assert created == "created   /watched  (directory)"
    assert saved.startswith("created   /watched/a  (file, 2.0 KiB")
    assert moved.startswith("moved     /watched/a -> /watched/b  (file")
    assert deleted == "deleted   /watched  (directory and all below it)"
    here = run_locally("watch", "--here", "--since", 0, "--timeout", 0)
    assert [line.split()[1] for line in here.out.splitlines()] == ["/watched", "/watched"]


def test_watch_prints_json_and_no_control_characters(fm: FileManager) -> None:
    fm.save(1, "/a\x1b[31m", backend="memory")
    done = run_locally("watch", "--json", "--since", 0, "--timeout", 0)
    [event] = map(json.loads, done.out.splitlines())
    assert (event["kind"], event["path"], event["number"]) == ("created", "/a\x1b[31m", 1)
    assert "\x1b" not in run_locally("watch", "--since", 0, "--timeout", 0).out


def test_watch_is_of_the_memory(fm: FileManager) -> None:
    assert "only the memory" in says_one_line(run_locally("watch", "disk:."))

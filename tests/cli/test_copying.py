"""``cp``, ``put`` and ``get``: what goes on, what is left out, replaced, and copied as it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from polystore import DiskBackend, FileManager
from polystore.exceptions import StorageFullError
from polystore_ray.cli import copying
from polystore_ray.cli.copying import Copier
from polystore_ray.cli.places import Place
from tests.cli.commands import Done, run_locally, says_one_line


@pytest.fixture
def plate(fm: FileManager) -> FileManager:
    for number in range(3):
        fm.save(np.full(10, number), f"/plate/A{number}.npy", backend="memory")
    fm.save("two\nlines\n", "/plate/notes", backend="memory")
    fm.save(b"\x00\xff", "/plate/raw/blob.xyz", backend="memory")
    fm.save({"a": [1, 2]}, "/plate/raw/facts", backend="memory")
    return fm


def test_paths_without_a_known_suffix_are_copied_as_they_are(
    plate: FileManager, tmp_path: Path
) -> None:
    plate.save(np.arange(3), "/plate/raw/array", backend="memory")
    assert run_locally("cp", "memory:/plate", f"disk:{tmp_path}/out") == Done(0, "", "")
    out = tmp_path / "out"
    assert (out / "notes").read_bytes() == b"two\nlines\n"
    assert (out / "raw/blob.xyz").read_bytes() == b"\x00\xff"
    assert json.loads((out / "raw/facts").read_text()) == {"a": [1, 2]}
    assert np.load(out / "raw/array").tolist() == [0, 1, 2]
    assert np.load(out / "A2.npy")[0] == 2
    assert run_locally("cp", f"disk:{out}", "memory:/back") == Done(0, "", "")
    assert plate.load("/back/notes", backend="memory") == b"two\nlines\n"
    assert plate.load("/back/raw/blob.xyz", backend="memory") == b"\x00\xff"
    assert run_locally("cp", f"disk:{out}", f"this-machine:{tmp_path}/again") == Done(0, "", "")
    assert (tmp_path / "again/raw/blob.xyz").read_bytes() == b"\x00\xff"


def test_what_cannot_be_copied_is_reported_and_the_rest_goes_on(
    plate: FileManager, tmp_path: Path
) -> None:
    plate.save({1, 2}, "/plate/set", backend="memory")
    plate.save({1, 2}, "/plate/A1.json", backend="memory")
    plate.create_symlink("/plate/raw", "/plate/linked", backend="memory")
    first = run_locally("cp", "memory:/plate", f"disk:{tmp_path}/one")
    assert first.code == 1
    assert "only files, links to files, and directories" in says_one_line(first)
    assert "--keep-going skips what fails" in first.err
    assert not (tmp_path / "one").exists()
    done = run_locally("cp", "-k", "memory:/plate", f"disk:{tmp_path}/out")
    assert done.code == 1
    *each, last = done.err.splitlines()
    assert sorted(line.split(": ")[1] for line in each) == [
        "memory:/plate/A1.json",
        "memory:/plate/linked",
        "memory:/plate/set",
    ]
    assert all(line.count("/plate/") == 1 for line in each)  # the path is said once
    assert last == "polystore: 3 files were not copied; 6 files were copied, 0 were there"
    assert sorted(os.listdir(tmp_path / "out")) == ["A0.npy", "A1.npy", "A2.npy", "notes", "raw"]
    facts = run_locally("cp", "-k", "--json", "memory:/plate", f"disk:{tmp_path}/more")
    assert (facts.json["copied"], facts.json["skipped"]) == (6, 0)
    assert {entry["path"] for entry in facts.json["failed"]} == {
        "memory:/plate/A1.json",
        "memory:/plate/linked",
        "memory:/plate/set",
    }


def test_files_of_other_kinds_do_not_stop_the_rest(fm: FileManager, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in/pipe")
    (tmp_path / "in/dangling").symlink_to("nowhere")
    (tmp_path / "in/damaged.npy").write_bytes(b"no array")
    (tmp_path / "in/good.txt").write_text("good")
    done = run_locally("cp", "--keep-going", f"disk:{tmp_path}/in", "memory:/in")
    assert done.code == 1
    assert fm.list_dir("/in", backend="memory") == ["good.txt"]
    assert all(name in done.err for name in ("pipe", "dangling", "damaged.npy"))
    left_out = ("--exclude", "pipe", "--exclude", "d*")
    assert run_locally("cp", *left_out, f"disk:{tmp_path}/in", "memory:/more") == Done(0, "", "")


def test_names_and_paths_are_left_out(plate: FileManager, tmp_path: Path) -> None:
    def copied(*globs: str) -> list[str]:
        target = tmp_path / str(len(os.listdir(tmp_path)))
        options = [word for glob in globs for word in ("--exclude", glob)]
        assert run_locally("cp", *options, "memory:/plate", f"disk:{target}").code == 0
        return sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())

    everything = ["A0.npy", "A1.npy", "A2.npy", "notes", "raw/blob.xyz", "raw/facts"]
    assert copied() == everything
    assert copied("A[01]*", "facts") == ["A2.npy", "notes", "raw/blob.xyz"]
    assert copied("raw") == everything[:4]
    assert copied("raw/*.xyz", "*/nothing") == [*everything[:4], "raw/facts"]
    assert copied("**/f*") == everything[:5]


def test_existing_files_are_replaced_only_by_force(plate: FileManager, tmp_path: Path) -> None:
    target = f"disk:{tmp_path}/out"
    assert run_locally("cp", "memory:/plate", target).code == 0
    plate.save(np.full(10, 7), "/plate/A0.npy", backend="memory", overwrite=True)
    assert "exists" in says_one_line(run_locally("cp", "memory:/plate", target))
    assert np.load(tmp_path / "out/A0.npy")[0] == 0
    assert run_locally("cp", "-f", "memory:/plate", target) == Done(0, "", "")
    assert np.load(tmp_path / "out/A0.npy")[0] == 7
    assert run_locally("cp", "-f", "memory:/plate/A1.npy", f"{target}/A0.npy").code == 0
    assert np.load(tmp_path / "out/A0.npy")[0] == 1
    assert run_locally("cp", "memory:/plate", "memory:/copy").code == 0
    plate.save("other", "/plate/notes", backend="memory", overwrite=True)
    assert run_locally("cp", "memory:/plate", "memory:/copy").code == 1
    assert run_locally("cp", "-f", "memory:/plate", "memory:/copy").code == 0
    assert plate.load("/copy/notes", backend="memory") == "other"


def test_a_partial_copy_is_resumed(
    plate: FileManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"disk:{tmp_path}/out"
    plate.save({1, 2}, "/plate/A1.json", backend="memory")
    monkeypatch.setattr(copying, "_TOGETHER", 1)
    line = says_one_line(run_locally("cp", "memory:/plate", target))
    assert "/A1.json" in line
    assert "1 files were copied: --resume goes on" in line
    plate.delete("/plate/A1.json", backend="memory")
    monkeypatch.undo()
    before = (tmp_path / "out/A0.npy").stat().st_mtime_ns
    facts = run_locally("cp", "--resume", "--json", "memory:/plate", target).json
    assert (facts["copied"], facts["skipped"], facts["failed"]) == (5, 1, [])
    assert (tmp_path / "out/A0.npy").stat().st_mtime_ns == before
    os.utime(tmp_path / "out/A2.npy", (1, 1))
    older = run_locally("cp", "--resume", "-k", "memory:/plate", target)
    assert older.code == 1
    assert "older than the source; --force replaces it" in older.err
    facts = run_locally("cp", "--resume", "--force", "--json", "memory:/plate", target).json
    assert (facts["copied"], facts["skipped"]) == (1, 5)


def test_globs_choose_what_is_copied(plate: FileManager, tmp_path: Path) -> None:
    plate.save(np.zeros(1), "/plate/raw/deep/B1.npy", backend="memory")
    assert run_locally("cp", "memory:/plate/**/*.npy", f"disk:{tmp_path}/arrays").code == 0
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.npy"))
    assert found == [
        "arrays/A0.npy",
        "arrays/A1.npy",
        "arrays/A2.npy",
        "arrays/raw/deep/B1.npy",
    ]
    assert run_locally("cp", "memory:/pl*", f"disk:{tmp_path}/all").code == 0
    assert (tmp_path / "all/plate/raw/deep/B1.npy").exists()
    assert run_locally("cp", "memory:/pl*/**", f"disk:{tmp_path}/every").code == 0
    assert (tmp_path / "every/plate/raw/facts").exists()
    nothing = says_one_line(run_locally("cp", "memory:/*.tif", f"disk:{tmp_path}/none"))
    assert "nothing fits the pattern" in nothing
    plate.save(1, "/[odd]*", backend="memory")
    assert run_locally("cp", "memory:/[odd]*", "memory:/even").code == 0  # a path that exists
    assert run_locally("rm", "memory:/plate/A[0-9].npy") == Done(0, "", "")
    assert plate.list_dir("/plate", backend="memory") == ["notes", "raw"]


def test_put_and_get_copy_files_of_this_machine(
    plate: FileManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.arange(3))
    Path("b.txt").write_text("b")
    assert run_locally("put", "a.npy", "memory:/one.npy") == Done(0, "", "")
    assert plate.load("/one.npy", backend="memory").tolist() == [0, 1, 2]
    assert run_locally("put", "a.npy", "b.txt", "memory:/in") == Done(0, "", "")
    assert plate.list_dir("/in", backend="memory") == ["a.npy", "b.txt"]
    assert run_locally("get", "memory:/plate/A1.npy", "out.npy") == Done(0, "", "")
    assert np.load("out.npy")[0] == 1
    assert run_locally("get", "memory:/plate/A2.npy", ".") == Done(0, "", "")
    assert np.load("A2.npy")[0] == 2
    assert run_locally("get", "memory:/plate/*.npy", "plates/") == Done(0, "", "")
    assert sorted(os.listdir("plates")) == ["A0.npy", "A1.npy", "A2.npy"]
    assert "exists" in says_one_line(run_locally("get", "memory:/plate/A1.npy", "out.npy"))
    assert run_locally("put", "none.npy", "memory:/x").code == 2


def test_metadata_is_left_behind_only_on_request(fm: FileManager, tmp_path: Path) -> None:
    for name in ("a", "b"):
        fm.save(np.zeros(3), tmp_path / "in" / name, backend="zarr")
    zarr.open_array(tmp_path / "in/b").attrs["scale"] = 2
    source = f"zarr:{tmp_path}/in"
    assert "not keep" in says_one_line(run_locally("cp", source, "memory:/none"))
    assert not fm.exists("/none/a", backend="memory")
    done = run_locally("cp", "-k", source, "memory:/some")
    assert (done.code, "not keep" in done.err) == (1, True)
    assert fm.list_dir("/some", backend="memory") == ["a"]
    assert run_locally("cp", "--lossy", source, "memory:/all") == Done(0, "", "")
    assert fm.list_dir("/all", backend="memory") == ["a", "b"]


def test_links_within_a_backend_stay_links(plate: FileManager) -> None:
    plate.create_symlink("/plate/raw", "/plate/linked", backend="memory")
    plate.create_symlink("/plate/A0.npy", "/plate/first", backend="memory")
    assert run_locally("cp", "--exclude", "A1*", "memory:/plate", "memory:/copy").code == 0
    for name, target in (("linked", "/plate/raw"), ("first", "/plate/A0.npy")):
        assert plate.stat(f"/copy/{name}", backend="memory")["target"] == target
    assert "A1.npy" not in plate.list_dir("/copy", backend="memory")
    facts = run_locally("cp", "--resume", "--json", "memory:/plate", "memory:/copy").json
    assert (facts["copied"], facts["skipped"]) == (1, 7)
    again = run_locally("cp", "--resume", "--force", "memory:/plate", "memory:/copy")
    assert again == Done(0, "", "")
    assert plate.is_symlink("/copy/linked", backend="memory")


def test_an_error_of_the_destination_names_the_path_there(tmp_path: Path) -> None:
    class Small(DiskBackend):
        def save_batch(self, values: Any, paths: Any, /, *args: Any, **options: Any) -> None:
            raise StorageFullError("it can never fit", backend="small")

    (tmp_path / "a.txt").write_text("a")
    copier = Copier(FileManager({"disk": DiskBackend(tmp_path), "small": Small(tmp_path)}))
    with pytest.raises(StorageFullError, match=r"it can never fit: '/b\.txt' \(backend small\)"):
        copier.copy(Place("disk", "/a.txt"), Place("small", "/b.txt"))

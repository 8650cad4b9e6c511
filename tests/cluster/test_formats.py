"""Files and arrays with what they say of themselves, on their way between nodes and backends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, PngImagePlugin

from polystore import FileManager, UnsupportedFormatError, UnsupportedOperationError
from polystore_ray import RayBackendRegistry
from tests.cluster.nodes import Nodes

# Ray leaves a socket open when it looks for a free port for a node.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
]

STACK = np.arange(2 * 3 * 20 * 30, dtype=np.uint16).reshape(2, 3, 20, 30)
SHEET = 'name,"cells, all",area\r\n"a ""1""",3,0.5\r\nb,,\r\n'


@pytest.fixture
def fm(nodes: Nodes, request: pytest.FixtureRequest) -> Iterator[FileManager]:
    registry = RayBackendRegistry(re.sub(r"\W", "-", request.node.name)[:60])
    yield FileManager(registry)
    registry.shutdown()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Make files that say more than their values."""
    top = tmp_path / "made"
    (top / "deep").mkdir(parents=True)
    scale: Any = {"imagej": True, "resolution": (2.0, 2.0), "metadata": {"axes": "TZYX"}}
    tifffile.imwrite(top / "imagej.tif", STACK, **scale)
    tifffile.imwrite(top / "deep/a.ome.tif", STACK, ome=True, metadata={"axes": "TCYX"})
    with tifffile.TiffWriter(top / "series.tif") as file:
        file.write(STACK[0], photometric="minisblack")
        file.write(STACK[1, :, :5], photometric="minisblack", description="the second")
    note = PngImagePlugin.PngInfo()
    note.add_text("Scale", "0.5 um")
    Image.fromarray(STACK[0, 0]).save(top / "a.png", dpi=(300, 300), pnginfo=note)
    (top / "sheet.csv").write_bytes(SHEET.encode())
    return top


def contents(top: Path) -> dict[str, bytes]:
    files = (path for path in top.rglob("*") if path.is_file())
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("operation", ["copy", "move"])
def test_files_are_the_same_on_another_node(
    fm: FileManager, nodes: Nodes, made: Path, tmp_path: Path, operation: str
) -> None:
    before, target = contents(made), tmp_path / "there"
    one, two = f"disk@{nodes.one}", f"disk@{nodes.two}"
    getattr(fm, operation)(str(made), str(target), one, to_backend=two)
    assert contents(target) == before
    assert made.exists() == (operation == "copy")
    names = [str(target / name) for name in ("imagej.tif", "deep/a.ome.tif")]
    part = (1, slice(None), slice(5, 9), slice(20, 2, -3))
    for found in fm.load_batch(names, two, region=part):
        assert np.array_equal(found, STACK[part])
    assert fm.stat(str(target / "series.tif"), two)["series"] == 2
    found = fm.load(str(target / "series.tif"), two, series=1, region=(2, 4))
    assert np.array_equal(found, STACK[1, 2, 4])


def test_a_save_into_a_region_of_a_file_elsewhere_keeps_the_rest(
    fm: FileManager, nodes: Nodes, made: Path
) -> None:
    two = f"disk@{nodes.two}"
    fm.save(np.zeros((20, 30), np.uint16), str(made / "imagej.tif"), two, region=(1, 2))
    with tifffile.TiffFile(made / "imagej.tif") as file:
        assert file.pages[0].tags["XResolution"].value == (2, 1)  # type: ignore[union-attr]
        assert file.series[0].axes == "TZYX"
    expected = STACK.copy()
    expected[1, 2] = 0
    assert np.array_equal(fm.load(str(made / "imagej.tif"), two), expected)


@pytest.mark.parametrize("backend", ["memory", "zarr"])
def test_what_another_backend_would_not_keep_is_refused_before_anything_is_written(
    fm: FileManager, nodes: Nodes, made: Path, tmp_path: Path, backend: str
) -> None:
    disk, top = f"disk@{nodes.one}", str(tmp_path / "there")
    with pytest.raises(UnsupportedOperationError, match=r"not keep.*lossy=True"):
        fm.copy(str(made), top, disk, to_backend=backend)
    assert not fm.exists(top, backend)
    (made / "series.tif").unlink()
    fm.copy(str(made), top, disk, to_backend=backend, lossy=True)
    for name in ("imagej.tif", "deep/a.ome.tif"):
        assert np.array_equal(fm.load(f"{top}/{name}", backend), STACK)
    assert np.array_equal(fm.load(f"{top}/a.png", backend), STACK[0, 0])
    rows = fm.load(f"{top}/sheet.csv", backend)
    assert rows == fm.load(str(made / "sheet.csv"), disk)
    fm.move(top, str(tmp_path / "back"), backend, to_backend=f"disk@{nodes.two}", lossy=True)
    assert not fm.exists(top, backend)
    for name in ("imagej.tif", "deep/a.ome.tif"):
        assert np.array_equal(tifffile.imread(tmp_path / "back" / name), STACK)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "back/a.png")), STACK[0, 0])
    assert fm.load(str(tmp_path / "back/sheet.csv"), disk) == rows


def test_a_zarr_hierarchy_is_the_same_on_another_node(
    fm: FileManager, nodes: Nodes, tmp_path: Path
) -> None:
    source, one, two = str(tmp_path / "s.zarr"), f"zarr@{nodes.one}", f"zarr@{nodes.two}"
    scale = {"multiscales": [{"version": "0.4"}]}
    fm.save(STACK, f"{source}/0", one, zarr_format=2, attributes=scale, fill_value=7)
    group = zarr.open_group(source, mode="r+")
    group.attrs.update(scale)
    group.create_array("names", data=np.array(["a", "bb"]))
    fm.copy(source, str(tmp_path / "t.zarr"), one, to_backend=two)
    assert contents(tmp_path / "t.zarr") == contents(tmp_path / "s.zarr")
    fm.copy([f"{source}/0"], [str(tmp_path / "u.zarr/0")], one, to_backend=two)
    assert contents(tmp_path / "u.zarr/0") == contents(tmp_path / "s.zarr/0")
    for path in (f"{source}/0", source):
        with pytest.raises(UnsupportedOperationError, match="attributes"):
            fm.copy(path, "/taken", one, to_backend="memory")
    assert not fm.exists("/taken", "memory")
    fm.copy(f"{source}/0", "/taken", one, to_backend="memory", lossy=True)
    assert np.array_equal(fm.load("/taken", "memory"), STACK)


def test_options_of_a_hosted_zarr_array_are_kept_or_named(
    fm: FileManager, nodes: Nodes, tmp_path: Path
) -> None:
    two, path = f"zarr@{nodes.two}", str(tmp_path / "z/x")
    fm.save(STACK[0], path, two, zarr_format=2, chunks=(1, 20, 7), dimension_names=["z", "y", "x"])
    found: Any = zarr.open_array(path)
    assert (found.metadata.zarr_format, found.chunks) == (2, (1, 20, 7))
    assert json.loads((tmp_path / "z/x/.zattrs").read_text()) == {
        "_ARRAY_DIMENSIONS": ["z", "y", "x"]
    }
    for options in ({"shards": (1, 20, 14)}, {"fill_value": -1}, {"dimension_names": ["y"]}):
        with pytest.raises(UnsupportedFormatError, match=f"{next(iter(options))}="):
            fm.save(STACK[0], f"{path}2", two, **options)

"""Damaged files of every format: a value or one of our errors, within bounded memory and time."""

from __future__ import annotations

import json
import logging
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from limits import within
from zarr.codecs import BloscCodec, GzipCodec

from polystore import CorruptDataError, DiskBackend, ImageLoadError, StorageError, ZarrBackend

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 255, (24, 32), dtype=np.uint8)
SMOOTH = np.tile(np.arange(64, dtype=np.uint16), (64, 1))

EXAMPLES: dict[str, list[Any]] = {
    ".npy": [GRAY, np.asfortranarray(GRAY), np.zeros(5, [("a", "i4"), ("b", "M8[s]")])],
    ".npz": [{"image": GRAY, "of": SMOOTH}],
    ".json": [{"a": [1, 2.5, None, {"é": [[[]]]}]}],
    ".csv": [[{"well": "A01", "n": 3, "t": 'a,"b"\n'}], [["a", 1.5], [None, True]]],
    ".txt": ["Zürich\n日本"],
    ".bin": [b"\x00\xff" * 9],
    ".tif": [GRAY, RNG.random((3, 9, 9)), np.dstack([GRAY] * 3)],
    ".png": [GRAY, np.dstack([GRAY] * 4), SMOOTH, GRAY > 9],
    ".jpg": [GRAY, np.dstack([GRAY] * 3)],
}


class Files(dict[str, list[bytes]]):
    """Whole files of every format, by suffix."""

    def __repr__(self) -> str:
        return "the files"  # the report of a failure need not hold them all


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return whole files of every format: ours, and those of others that are compressed."""
    folder = tmp_path_factory.mktemp("whole")
    disk = DiskBackend(folder)
    found = Files()
    for suffix, values in EXAMPLES.items():
        for number, value in enumerate(values):
            disk.save(value, f"{number}{suffix}")
        found[suffix] = [(folder / f"{i}{suffix}").read_bytes() for i in range(len(values))]
    np.savez_compressed(folder / "c.npz", a=GRAY, b=SMOOTH)
    found[".npz"].append((folder / "c.npz").read_bytes())
    for options in ({"compression": "zlib", "tile": (16, 16)}, {"compression": "lzw"}):
        tifffile.imwrite(folder / "c.tif", SMOOTH, **options)
        found[".tif"].append((folder / "c.tif").read_bytes())
    return found


@pytest.fixture(autouse=True)
def _quiet_tifffile(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs each tag it cannot read


EXTREMES = [b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80", b"9999999", b"-1"]
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
        st.tuples(st.just("put"), st.floats(0, 1), st.sampled_from(EXTREMES)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("drop"), st.floats(0, 1), st.integers(1, 40)),
    ),
    min_size=1,
    max_size=6,
)


def damaged(data: bytes, edits: list[tuple[str, float, Any]]) -> bytes:
    found = bytearray(data)
    for kind, where, what in edits:
        # Headers are short and matter most, so that half of all places are in the first bytes.
        reach = len(found) if where > 0.5 else min(len(found), 64)
        at = int((where * 2 % 1) * reach)
        if kind == "flip" and at < len(found):
            found[at] ^= 1 << what
        elif kind == "cut":
            del found[at:]
        elif kind == "put":
            found[at : at + len(what)] = what
        elif kind == "insert":
            found[at:at] = what
        elif kind == "drop":
            del found[at : at + what]
    return bytes(found)


def load_all_ways(backend: Any, path: str) -> None:
    """Load a damaged file in every way; anything but a value and our errors fails the test."""
    uses: list[Callable[[], Any]] = [
        lambda: backend.load(path),
        lambda: backend.load(path, region=(slice(0, 2),)),
        lambda: backend.stat(path),
    ]
    for use in uses:
        with within(20), warnings.catch_warnings(), suppress(StorageError):
            warnings.simplefilter("ignore")  # of decoders, about what they could still read
            use()


@pytest.mark.parametrize("suffix", sorted(EXAMPLES))
@given(which=st.integers(0, 9), edits=EDITS)
def test_a_damaged_file_is_a_value_or_our_error(
    suffix: str,
    files: Files,
    tmp_path_factory: pytest.TempPathFactory,
    done: Counter[str],
    which: int,
    edits: list[tuple[str, float, Any]],
) -> None:
    done[f"damaged {suffix} files"] += 1
    broken = damaged(files[suffix][which % len(files[suffix])], edits)
    folder = tmp_path_factory.getbasetemp()
    path = folder / f"damaged{suffix}"
    path.write_bytes(broken)
    load_all_ways(DiskBackend(), str(path))


ARRAYS: dict[str, dict[str, Any]] = {
    "format 2": {"zarr_format": 2},
    "format 3": {},
    "sharded": {"chunks": (5, 20), "shards": (10, 20)},
    "blosc": {"compressors": BloscCodec()},
    "blosc, format 2": {"compressors": numcodecs.Blosc(), "zarr_format": 2},
    "blosc, sharded": {"compressors": BloscCodec(), "chunks": (5, 20), "shards": (10, 20)},
    "gzip": {"compressors": GzipCodec()},
    "strings": {"dtype": str},
    "strings, format 2": {"dtype": str, "zarr_format": 2},
}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Return the files of whole arrays, by their paths in the array."""
    folder = tmp_path_factory.mktemp("arrays")
    found = {}
    for kind, options in ARRAYS.items():
        top = folder / kind
        array = zarr.create_array(
            top, shape=(20, 20), **({"chunks": (10, 20), "dtype": "u2"} | options)
        )
        array[...] = SMOOTH[:20, :20].astype(array.dtype)
        parts = sorted(file for file in top.rglob("*") if file.is_file())
        found[kind] = {str(file.relative_to(top)): file.read_bytes() for file in parts}
    return found


@pytest.mark.parametrize("kind", ARRAYS)
@given(which=st.integers(0, 9), edits=EDITS)
def test_a_damaged_zarr_array_is_a_value_or_our_error(
    kind: str,
    arrays: dict[str, dict[str, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
    done: Counter[str],
    which: int,
    edits: list[tuple[str, float, Any]],
) -> None:
    done[f"damaged zarr arrays, {kind}"] += 1
    top = tmp_path_factory.getbasetemp() / f"damaged {kind}"
    parts = arrays[kind]
    target = list(parts)[which % len(parts)]
    for name, data in parts.items():
        file = top / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(damaged(data, edits) if name == target else data)
    load_all_ways(ZarrBackend(), str(top))


# Bombs and claims


def png(width: int, height: int, pixels: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_png_that_claims_a_huge_image_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(2**31 - 1, 2**31 - 1, zlib.compress(b"\x00" * 9)))
    with pytest.raises(CorruptDataError, match="declare"):
        DiskBackend(tmp_path).load("a.png")


def test_a_png_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is believed of any file is lowered, so that the bomb can be one of 32 MiB.
    monkeypatch.setattr("polystore.formats.limits.MOST_DECODED", 2**20)
    row = b"\x00" + bytes(8192)
    (tmp_path / "a.png").write_bytes(png(8192, 4096, zlib.compress(row * 4096, 9)))
    with pytest.raises(CorruptDataError, match="bomb"):
        DiskBackend(tmp_path).load("a.png")


def test_an_npz_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polystore.formats.limits.MOST_DECODED", 2**20)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(2**25, np.uint8))
    with pytest.raises(CorruptDataError, match="bomb"):
        DiskBackend(tmp_path).load("a.npz")


def test_an_npz_member_that_claims_more_than_it_has_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999,), }"
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(CorruptDataError, match="declares"):
        DiskBackend(tmp_path).load("a.npz")


def test_a_tiff_that_claims_more_than_it_has_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((16, 16), np.uint8))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages.first.tags[tag].overwrite(2**20)
        file.pages.first.tags["ImageDescription"].overwrite("")
    for region in (None, (0,)):
        with pytest.raises(CorruptDataError):
            DiskBackend(tmp_path).load("a.tif", region=region)


def test_a_tiff_that_claims_more_tiles_than_it_lists_is_refused(tmp_path: Path) -> None:
    """A region of it would be looked for in millions of them."""
    tifffile.imwrite(tmp_path / "a.tif", SMOOTH, compression="zlib", tile=(16, 16))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages.first.tags["ImageWidth"].overwrite(2**22)
        file.pages.first.tags["ImageDescription"].overwrite("")
    for region in (None, (slice(0, 2),)):
        with within(20), pytest.raises(ImageLoadError, match="tiles; 16 are listed"):
            DiskBackend(tmp_path).load("a.tif", region=region)


@pytest.mark.parametrize("pages", [1, 150])
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_whose_pages_go_round_is_refused(tmp_path: Path, pages: int, big: bool) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=big) as writer:
        for _ in range(pages):
            writer.write(GRAY, metadata=None)
    assert DiskBackend().load(path).shape[-2:] == GRAY.shape
    with tifffile.TiffFile(path) as file:
        last, form = file.pages[-1].aspage(), file.tiff
        next_page = last.offset + form.tagnosize + len(last.tags) * form.tagsize
        back = struct.pack(form.offsetformat, last.offset)
    with path.open("r+b") as opened:
        opened.seek(next_page)
        opened.write(back)
    for region in (None, (0,)):
        with within(20), pytest.raises(ImageLoadError, match="list of pages has a loop"):
            DiskBackend().load(path, region=region)
    with within(20):
        assert "shape" not in DiskBackend().stat(path)


def test_a_zarr_array_that_claims_a_huge_shape_is_refused(tmp_path: Path) -> None:
    store = ZarrBackend(tmp_path)
    store.save(SMOOTH, "a")
    metadata = json.loads((tmp_path / "a/zarr.json").read_text())
    metadata["shape"] = [2**40, 64]
    (tmp_path / "a/zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(CorruptDataError, match=r"claim|declare"):
        store.load("a")
    assert (store.load("a", region=(slice(0, 64),)) == SMOOTH).all()


def test_a_zarr_array_that_claims_millions_of_chunks_is_refused(tmp_path: Path) -> None:
    store = ZarrBackend(tmp_path)
    store.save(SMOOTH, "a", chunks=(1, 64))
    metadata = json.loads((tmp_path / "a/zarr.json").read_text())
    metadata["shape"] = [2**22, 64]
    (tmp_path / "a/zarr.json").write_text(json.dumps(metadata))
    for region in (None, (slice(None, None, -1), 0)):
        with within(20), pytest.raises(CorruptDataError, match="4194304 chunks"):
            store.load("a", region=region)
    for rows in (slice(0, 64), slice(63, None, -1)):
        assert (store.load("a", region=(rows,)) == SMOOTH[rows]).all()


def test_an_ome_tiff_that_names_other_files_reads_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    tifffile.imwrite(tmp_path / "secret.tif", np.full((4, 4), 42, np.uint8))
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels '
        'DimensionOrder="XYZCT" Type="uint8" SizeX="4" SizeY="4" SizeZ="2" SizeC="1" SizeT="1">'
        '<TiffData FirstZ="0" IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">urn:uuid:1</UUID>'
        '</TiffData><TiffData FirstZ="1" IFD="0" PlaneCount="1">'
        '<UUID FileName="../secret.tif">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
    )
    image = np.full((4, 4), 7, np.uint8)
    tifffile.imwrite(tmp_path / "root/a.ome.tif", image, description=xml, metadata=None)
    assert (DiskBackend(tmp_path / "root").load("a.ome.tif") == 7).all()

"""Arrays of zarr made by hand to crash who reads them, to take all memory, or to run code."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numcodecs
import numpy as np
import pytest
import zarr
from limits import within
from zarr.codecs import BloscCodec
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.registry import get_codec_class

from polystore import CorruptDataError, StorageError, ZarrBackend
from polystore.zarr.array.pipelines import Pipeline, pipeline_in_use

BackendAt = Callable[[Path], ZarrBackend]
PIPELINES: list[Pipeline] = ["zarr"] if pipeline_in_use() == "zarr" else ["zarr", "fused"]

SMOOTH = np.tile(np.arange(20, dtype=np.uint16), (20, 1))


@pytest.fixture(params=PIPELINES)
def backend_at(request: pytest.FixtureRequest) -> BackendAt:
    """Return what opens a backend at a path, with each pipeline whose chunks are guarded."""
    return partial(ZarrBackend, pipeline=request.param)


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def new(shape: Any = (4,), chunks: Any = (4,), **more: Any) -> dict[str, Any]:
    """Return metadata of format 3."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [BYTES],
        "attributes": {},
    } | more


def old(shape: Any = (4,), chunks: Any = (4,), **more: Any) -> dict[str, Any]:
    """Return metadata of format 2."""
    return {
        "zarr_format": 2,
        "shape": shape,
        "chunks": chunks,
        "dtype": "|u1",
        "compressor": None,
        "filters": None,
        "fill_value": 0,
        "order": "C",
    } | more


def put(top: Path, files: dict[str, Any]) -> None:
    """Write the files of an array, what is not bytes as JSON."""
    for name, content in files.items():
        file = top / "a" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def only_chunk(top: Path) -> Path:
    [chunk] = (file for file in (top / "a").rglob("*[0-9]") if file.is_file())
    return chunk


BLOSC: dict[str, dict[str, Any]] = {
    "format 3": {"compressors": BloscCodec()},
    "sharded": {"compressors": BloscCodec(), "chunks": (5, 20), "shards": (20, 20)},
    "of numcodecs": {"compressors": {"name": "numcodecs.blosc", "configuration": {"cname": "lz4"}}},
    "format 2": {"compressors": numcodecs.Blosc(), "zarr_format": 2},
    "format 2, a filter": {"filters": [numcodecs.Blosc()], "compressors": None, "zarr_format": 2},
}


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in")
@pytest.mark.parametrize("kind", BLOSC)
def test_a_blosc_chunk_that_claims_more_than_it_has_is_refused(
    backend_at: BackendAt, tmp_path: Path, kind: str
) -> None:
    """C-Blosc would read on behind its end, and end the process now and then."""
    array = zarr.create_array(
        tmp_path / "a", shape=(20, 20), dtype="u2", **({"chunks": (20, 20)} | BLOSC[kind])
    )
    array[...] = SMOOTH
    store = backend_at(tmp_path)
    assert (store.load("a") == SMOOTH).all()
    chunk = only_chunk(tmp_path)
    data = bytearray(chunk.read_bytes())
    data[12:16] = struct.pack("<I", 2**20)
    chunk.write_bytes(data)
    with pytest.raises(CorruptDataError, match=r"Blosc chunk .* claims to have 1048576"):
        store.load("a")
    opened = store.open("a")
    assert isinstance(opened, zarr.Array)
    with pytest.raises(ValueError, match="Blosc chunk"):
        opened[...]
    with pytest.raises(CorruptDataError, match=r"in part .*Blosc chunk"):
        store.save(SMOOTH[:1], "a", region=(slice(0, 1),))
    store.save(SMOOTH, "a", region=...)
    assert (store.load("a") == SMOOTH).all()
    chunk.write_bytes(data[:9])
    with pytest.raises(CorruptDataError):
        store.load("a")


def zstd_frame(blocks: int) -> bytes:
    """Return a frame that does not tell its size, of blocks of 128 KiB of one byte."""
    block = (1 << 1) | (2**17 << 3)
    parts = [struct.pack("<I", block | (i == blocks - 1))[:3] + b"\0" for i in range(blocks)]
    return struct.pack("<IBB", 0xFD2FB528, 0, 0x58) + b"".join(parts)


NONE = bytes(2**25)  # bytes, where there is room for few
BOMBS: dict[str, tuple[Any, Any, bytes]] = {  # the codecs of formats 2 and 3, and a chunk
    "bz2": (numcodecs.BZ2(), "numcodecs.bz2", bz2.compress(NONE)),
    "blosc": (numcodecs.Blosc(), "blosc", numcodecs.Blosc().encode(NONE)),
    "gzip": (numcodecs.GZip(), "gzip", gzip.compress(NONE)),
    "gzip, twice": (numcodecs.GZip(), "gzip", gzip.compress(NONE[:60_000]) * 9),
    "lz4": (numcodecs.LZ4(), "numcodecs.lz4", numcodecs.LZ4().encode(NONE)),
    "lzma": (numcodecs.LZMA(), "numcodecs.lzma", lzma.compress(NONE)),
    "zlib": (numcodecs.Zlib(), "numcodecs.zlib", zlib.compress(NONE)),
    "zstd": (numcodecs.Zstd(), "zstd", numcodecs.Zstd().encode(NONE)),
    "zstd, of no known size": (numcodecs.Zstd(), "zstd", zstd_frame(256)),
}


SYNCHRONOUS = [
    kind for kind, (_, name, _) in BOMBS.items() if hasattr(get_codec_class(name), "_decode_sync")
]


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in")
@pytest.mark.parametrize("of", [2, 3])
@pytest.mark.parametrize("kind", BOMBS)
def test_a_chunk_that_holds_more_than_its_array_is_not_decoded(
    backend_at: BackendAt, tmp_path: Path, kind: str, of: Literal[2, 3]
) -> None:
    old, new, bomb = BOMBS[kind]
    array = zarr.create_array(
        tmp_path / "a",
        shape=(20, 20),
        dtype="u2",
        zarr_format=of,
        compressors=old if of == 2 else {"name": new, "configuration": {}},
    )
    array[...] = SMOOTH
    store = backend_at(tmp_path)
    opened = pickle.loads(pickle.dumps(store.open("a")))
    for loaded in (store.load("a"), opened[...]):
        assert (loaded == SMOOTH).all()
    chunk = only_chunk(tmp_path)
    chunk.write_bytes(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptDataError, match=r"bomb|too small"):
            store.load("a")
        with pytest.raises((ValueError, RuntimeError), match=r"bomb|too small"):
            opened[...]
        # LZMA takes 16 MiB for itself.
        assert tracemalloc.get_traced_memory()[1] < 0.75 * len(NONE)
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in")
@pytest.mark.parametrize("kind", SYNCHRONOUS)
def test_a_pipeline_without_coroutines_meets_the_same_guards(tmp_path: Path, kind: str) -> None:
    """That of zarr 3.4, which `zarr.config` may choose for all arrays, calls another method."""
    _, codec, bomb = BOMBS[kind]
    options: Any = {"name": codec, "configuration": {}}
    zarr.create_array(tmp_path / "a", data=SMOOTH, compressors=options)
    opened: Any = ZarrBackend(tmp_path).open("a")
    guarded = opened.metadata.codecs[-1]
    prototype = default_buffer_prototype()
    config = ArrayConfig.from_dict({})
    spec = ArraySpec(SMOOTH.shape, opened.metadata.data_type, 0, config, prototype)
    with pytest.raises((ValueError, RuntimeError), match=r"bomb|too small"):
        guarded._decode_sync(prototype.buffer.from_bytes(bomb), spec)


FILTERS = [
    numcodecs.Delta("u2"),
    numcodecs.FixedScaleOffset(offset=0, scale=10, dtype="u2", astype="i4"),
    numcodecs.AsType(encode_dtype="f8", decode_dtype="u2"),
    numcodecs.Fletcher32(),
]


@pytest.mark.parametrize("kind", BOMBS)
def test_an_honest_array_is_read_whatever_it_holds_and_its_filters_do(
    backend_at: BackendAt, tmp_path: Path, kind: str
) -> None:
    store = backend_at(tmp_path)
    compressor = BOMBS[kind][0]
    words = np.array(["é" * 3000, ""] * 50)
    for i, filter_ in enumerate(FILTERS):
        array = zarr.create_array(
            tmp_path / f"{i}",
            shape=(20, 20),
            dtype="u2",
            zarr_format=2,
            filters=[filter_],
            compressors=compressor,
        )
        array[...] = SMOOTH
        assert (store.load(f"{i}") == SMOOTH).all()
    strings = zarr.create_array(
        tmp_path / "s", shape=(100,), dtype=str, zarr_format=2, compressors=compressor
    )
    strings[...] = words
    assert list(store.load("s")) == list(words)


@pytest.mark.parametrize("of", [2, 3])
def test_a_chunk_that_claims_a_billion_strings_is_not_decoded(
    backend_at: BackendAt, tmp_path: Path, of: Literal[2, 3]
) -> None:
    array = zarr.create_array(
        tmp_path / "a", shape=(3,), dtype=str, zarr_format=of, compressors=None
    )
    array[...] = np.array(["a", "bé", ""])
    store = backend_at(tmp_path)
    assert list(store.load("a")) == ["a", "bé", ""]
    chunk = only_chunk(tmp_path)
    chunk.write_bytes(struct.pack("<I", 2**30) + chunk.read_bytes()[4:])
    with within(20), pytest.raises(CorruptDataError, match="claims to hold 1073741824 objects"):
        store.load("a")


def test_an_array_whose_codec_is_pickle_is_refused(backend_at: BackendAt, tmp_path: Path) -> None:
    """Of format 2, where zarr asks numcodecs for any codec that the metadata names."""
    done = tmp_path / "done"
    metadata = old(
        dtype="|O", compressor={"id": "pickle"}, filters=[{"id": "vlen-utf8"}], fill_value=""
    )
    put(tmp_path, {".zarray": metadata, "0": pickle.dumps(Touch(str(done)))})
    with pytest.raises(CorruptDataError):
        backend_at(tmp_path).load("a")
    assert not done.exists()


class Touch:
    """What makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def sharded(inner: Any, index: Any = (BYTES, {"name": "crc32c"})) -> dict[str, Any]:
    configuration = {
        "chunk_shape": inner,
        "codecs": [BYTES],
        "index_codecs": index,
        "index_location": "end",
    }
    return {"name": "sharding_indexed", "configuration": configuration}


BLOSC_OF = {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "typesize": 8, "blocksize": 0}
BLOSC_INDEX = sharded((2, 2), [BYTES])
BLOSC_INDEX["configuration"]["codecs"] = [BYTES, {"name": "blosc", "configuration": BLOSC_OF}]
GIB_OF_ZSTD = zstd_frame(2**13)
ZSTD, BZ2, ZLIB = ({"id": id_, "level": 1} for id_ in ("zstd", "bz2", "zlib"))
WIDE = "|S2000000"
HOSTILE: dict[str, dict[str, Any]] = {  # the files of an array
    "an index of a shard that is sharded itself, with Blosc": {
        "zarr.json": new(codecs=[sharded((2,), [BLOSC_INDEX])]),
        "c/0": bytes([2, 1, 2, 8])
        + struct.pack("<III", 2**29, 65536, 2**29 + 16)
        + bytes(16)
        + struct.pack("<QQ", 0, 32),
    },
    "deep metadata": {"zarr.json": b"[" * 5000},
    "deep metadata of format 2": {".zarray": b"[" * 5000},
    "a side of no length that NumPy knows": {"zarr.json": new((2**70,))},
    "sides whose product is none": {"zarr.json": new((2**62, 2**62), (1, 1))},
    "a hundred axes": {"zarr.json": new((1,) * 100, (1,) * 100)},
    "chunks of nothing": {"zarr.json": new(chunks=(0,))},
    "chunks of nothing, format 2": {".zarray": old(chunks=(0,))},
    "metadata of both formats": {"zarr.json": new(), ".zarray": b"no JSON"},
    "metadata of both formats, a list": {"zarr.json": new(), ".zarray": []},
    "a row of terabytes": {"zarr.json": new((4, 10**13), (1, 1))},
    "a filter that makes long strings": {
        ".zarray": old(filters=[{"id": "astype", "encode_dtype": "|u1", "decode_dtype": WIDE}]),
        "0": bytes(4096),
    },
    "a scale that makes long strings": {
        ".zarray": old(
            filters=[
                {"id": "fixedscaleoffset", "scale": 1, "offset": 0, "dtype": WIDE, "astype": "|u1"}
            ]
        ),
        "0": bytes(4096),
    },
    "bits of a bomb": {
        ".zarray": old((1,), (1,), compressor=ZSTD, filters=[{"id": "packbits"}]),
        "0": GIB_OF_ZSTD,
    },
    "a bomb behind a filter": {
        ".zarray": old((1,), (1,), compressor=BZ2, filters=[{"id": "delta", "dtype": "|u1"}]),
        "0": bz2.compress(bytes(2**28)),
    },
    "a shape in MessagePack": {
        ".zarray": old(
            dtype="|O", filters=[{"id": "vlen-utf8"}, {"id": "msgpack2"}], fill_value=""
        ),
        "0": b"\x93\x01\xa3<f8\x91\xce" + struct.pack(">I", 700_000_000),
    },
    "a shape in JSON": {
        ".zarray": old(dtype="|O", filters=[{"id": "vlen-utf8"}, {"id": "json2"}], fill_value=""),
        "0": b'[1,"<f8",[700000000]]',
    },
    "a chunk of gigabytes that is not there": {"zarr.json": new(chunks=(4 * 10**9,))},
    "a shard of a hundred million chunks": {
        "zarr.json": new(chunks=(10**8,), codecs=[sharded((1,))])
    },
    "a million chunks and a file in the way": {
        "zarr.json": new((10**6,), (1,)),
        "other": bytes(10**6),
    },
    "very many streams": {
        ".zarray": old(compressor=ZLIB),
        "0": zlib.compress(b"") * 2**17,
    },
}
USES: dict[str, Callable[[ZarrBackend], Any]] = {
    "load": lambda store: store.load("a"),
    "load a part": lambda store: store.load("a", region=(slice(0, 2),)),
    "stat": lambda store: store.stat("a"),
    "list": lambda store: store.list_files("/", recursive=True),
    "save a part": lambda store: store.save(1, "a", region=(slice(0, 2),)),
    "append": lambda store: store.append(np.zeros(2, np.uint8), "a"),
    "resize": lambda store: store.resize("a", (5,)),
    "overwrite": lambda store: store.save(SMOOTH, "a", overwrite=True),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_array_is_a_value_or_our_error(
    backend_at: BackendAt, tmp_path: Path, what: str
) -> None:
    put(tmp_path, HOSTILE[what])
    for use in USES.values():
        with within(20):
            try:
                use(backend_at(tmp_path))
            except StorageError as error:
                cause: BaseException | None = error
                while cause is not None:
                    assert not isinstance(cause, MemoryError)
                    cause = cause.__cause__


def test_bombs_in_chunks_much_larger_than_the_array_are_not_decoded(
    backend_at: BackendAt, tmp_path: Path
) -> None:
    """Each by itself might be honest; ten of them at once would be 10 GiB."""
    chunks = {f"{i}.0": GIB_OF_ZSTD for i in range(16)}
    put(tmp_path, {".zarray": old((16, 1), (1, 2**30), compressor=ZSTD)} | chunks)
    with within(20), pytest.raises(CorruptDataError, match="bomb"):
        backend_at(tmp_path).load("a")


HUGE = 2**31 - 1
RAW = {"name": "raw_bytes", "configuration": {"length_bytes": HUGE}}
ELEMENTS: dict[str, dict[str, Any]] = {
    "raw bytes": {
        "zarr.json": new(
            (1,),
            (1,),
            fill_value="",
            data_type=RAW,
        )
    },
    "raw bits": {"zarr.json": new((1,), (1,), fill_value=[0], data_type=f"r{8 * HUGE}")},
    "text": {
        "zarr.json": new(
            (1,),
            (1,),
            fill_value="",
            data_type={"name": "fixed_length_utf32", "configuration": {"length_bytes": HUGE - 3}},
        )
    },
    "fields": {
        "zarr.json": new(
            (1,),
            (1,),
            fill_value="",
            data_type={
                "name": "structured",
                "configuration": {
                    "fields": [
                        ["x", {"name": "raw_bytes", "configuration": {"length_bytes": HUGE}}]
                    ]
                },
            },
        )
    },
    "old raw bytes": {".zarray": old((1,), (1,), dtype=f"|V{HUGE}", fill_value=None)},
    "old text": {".zarray": old((1,), (1,), dtype="<U536870911", fill_value=None)},
    "old fields": {".zarray": old((1,), (1,), dtype=[["x", "|u1", [HUGE]]], fill_value=None)},
    "long metadata": {"zarr.json": json.dumps(new(more="x" * 2**24)).encode()},
    "long attributes": {".zarray": old(), ".zattrs": json.dumps({"x": "x" * 2**24}).encode()},
}


@pytest.mark.parametrize("what", ELEMENTS)
def test_metadata_alone_take_no_memory(backend_at: BackendAt, tmp_path: Path, what: str) -> None:
    put(tmp_path, ELEMENTS[what])
    store = backend_at(tmp_path)
    tracemalloc.start()
    try:
        with within(20):
            assert "shape" not in store.stat("a")
            for use in ("load", "append", "save a part"):
                with pytest.raises(StorageError):
                    USES[use](store)
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("chunks", [(20_000,), (1,)])
def test_a_long_fill_value_is_counted_for_every_element(
    backend_at: BackendAt, tmp_path: Path, chunks: Any
) -> None:
    text = {"data_type": "string", "codecs": [{"name": "vlen-utf8"}], "fill_value": "x" * 2**20}
    put(tmp_path, {"zarr.json": new((20_000,), chunks, **text)})
    store = backend_at(tmp_path)
    with within(20):
        with pytest.raises(CorruptDataError, match=r"claim|declare"):
            store.load("a")
        if chunks == (1,):
            assert store.load("a", region=slice(0, 2)).tolist() == ["x" * 2**20] * 2
        else:
            with pytest.raises(StorageError):
                store.append(np.array(["a"]), "a")


def test_huge_chunks_of_what_is_replaced_are_not_kept(
    backend_at: BackendAt, tmp_path: Path
) -> None:
    put(tmp_path, {"zarr.json": new([10**18], [10**18])})
    backend = backend_at(tmp_path)
    backend.save(SMOOTH, "/a", overwrite=True)
    np.testing.assert_array_equal(backend.load("/a"), SMOOTH)

"""Images made to take memory and time far beyond their size: refused before they do."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from limits import within
from PIL import Image

from polystore import CorruptDataError, DiskBackend, ImageLoadError

TILE = np.zeros((16, 16), np.uint8)
REGION = (slice(0, 2), slice(0, 2))
SIDE = 6000  # of an image that would take much more than the tile it is in


@pytest.fixture(autouse=True)
def _quiet_tifffile(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def peak() -> int:
    """Return the most bytes of memory that this process has taken."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def check_refused(
    path: Path, *, most: int = 2**26, match: str = "Image|file|OME|tags|decoded"
) -> None:
    """Check that no use of a file takes much memory or time, and that the loads are refused."""
    disk = DiskBackend(path.parent)
    before = forget_peak()
    with within(30):
        for region in (None, REGION):
            with pytest.raises(ImageLoadError, match=match):
                disk.load(path.name, region=region)
        assert disk.stat(path.name)["exists"]
    assert peak() - before < most


def stuffed(path: Path, compression: int, data: bytes | bytearray) -> None:
    """Write an image of one tile whose data are those of a much larger image."""
    tifffile.imwrite(path, TILE, compression="zlib", tile=(16, 16), metadata=None)
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        places = {name: tags[name].valueoffset for name in ("TileOffsets", "TileByteCounts")}
        code = tags["Compression"].valueoffset
    struct.pack_into("<I", raw, places["TileOffsets"], len(raw))
    struct.pack_into("<I", raw, places["TileByteCounts"], len(data))
    struct.pack_into("<H", raw, code, compression)
    path.write_bytes(raw + data)


BIG = np.zeros((SIDE, SIDE), np.uint8)
INNER: dict[str, tuple[int, Callable[[], bytes | bytearray]]] = {
    "JPEG": (7, lambda: imagecodecs.jpeg_encode(BIG)),
    "JPEG 2000": (34712, lambda: imagecodecs.jpeg2k_encode(BIG, level=0, reversible=True)),
    "JPEG XL": (50002, lambda: imagecodecs.jpegxl_encode(BIG, effort=1)),
    "JPEG XR": (22610, lambda: imagecodecs.jpegxr_encode(BIG)),
    "PNG": (34933, lambda: imagecodecs.png_encode(BIG, level=9)),
    "WebP": (50001, lambda: imagecodecs.webp_encode(np.dstack([BIG] * 3), level=0)),
}


@pytest.mark.parametrize("codec", INNER)
def test_an_image_within_a_tile_is_no_larger_than_the_tile(tmp_path: Path, codec: str) -> None:
    compression, encode = INNER[codec]
    stuffed(tmp_path / "a.tif", compression, encode())
    check_refused(tmp_path / "a.tif", most=SIDE * SIDE // 2, match="of shape")


@pytest.mark.parametrize("side", [2**16, 2**18])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tile_far_larger_than_its_image_is_refused(
    tmp_path: Path, side: int, compression: str | None
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, TILE, compression=compression, tile=(16, 16), metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("TileWidth", "TileLength"):
            file.pages.first.tags[name].overwrite(side)
    check_refused(path, match=r"a strip or tile (of|declares)")


def test_a_tile_that_holds_more_than_it_may_is_cut_off_there(tmp_path: Path) -> None:
    stuffed(tmp_path / "a.tif", 8, zlib.compress(bytes(2**28), 9))
    before = forget_peak()
    with pytest.raises(ImageLoadError):
        DiskBackend(tmp_path).load("a.tif")
    assert peak() - before < 2**26


def ome(sizes: str, data: str = "<TiffData/>") -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="P" DimensionOrder="XYZCT" Type="uint8" SizeX="16" '
        f'SizeY="16" {sizes}>{data}</Pixels></Image></OME>'
    )


MODULO = (
    '<StructuredAnnotations><XMLAnnotation ID="A" Namespace="x/modulo"><Value><Modulo>'
    '<ModuloAlongZ Type="phase" Start="0" Step="1e-9" End="10"/></Modulo></Value></XMLAnnotation>'
    "</StructuredAnnotations></OME>"
)
CLAIMS = {
    "planes": ome('SizeZ="1000000000" SizeC="1" SizeT="1"'),
    "plane count": ome(
        'SizeZ="1" SizeC="1" SizeT="1"', '<TiffData IFD="0" PlaneCount="2000000000"/>'
    ),
    "many plane counts": ome(
        'SizeZ="100" SizeC="10" SizeT="100"', '<TiffData IFD="0" PlaneCount="90000"/>' * 2000
    ),
    "digits": ome(f'SizeZ="{"9" * 5000}" SizeC="1" SizeT="1"'),
    "labels": ome('SizeZ="1" SizeC="1" SizeT="1"').replace("</OME>", MODULO),
    "ImageJ": "ImageJ=1.53\nimages=2000000000\nframes=2000000000\nhyperstack=true\n",
    "shape": '{"shape": [4000000000, 16, 16]}',
}


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_that_metadata_claim_take_no_memory(
    tmp_path: Path, claim: str, compression: str | None
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        TILE,
        description=CLAIMS[claim],
        metadata=None,
        compression=compression,
    )
    check_refused(tmp_path / "a.tif")


def test_tags_that_share_one_large_value_are_not_read_again_and_again(tmp_path: Path) -> None:
    size = 2**20
    entries = b"".join(struct.pack("<HHII", 256 + n, 7, size, 8) for n in range(4000))
    at = 8 + size
    head = b"II*\0" + struct.pack("<I", at) + bytes(size)
    (tmp_path / "a.tif").write_bytes(head + struct.pack("<H", 4000) + entries + bytes(4))
    check_refused(tmp_path / "a.tif", match="the tags declare")


def test_a_claim_beyond_memory_is_damage(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", TILE, compression="zlib", tile=(16, 16), metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        for name in ("ImageWidth", "ImageLength", "TileWidth", "TileLength"):
            file.pages.first.tags[name].overwrite(2**24)
    with pytest.raises(CorruptDataError, match="max_decoded"):
        DiskBackend(tmp_path).load("a.tif")
    with pytest.raises(CorruptDataError):
        DiskBackend(tmp_path).load("a.tif", region=(0, 0))


def test_a_file_that_is_cut_off_while_it_is_read_kills_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read, not mapped: a page of a map that is gone would end the process by SIGBUS."""
    disk = DiskBackend(tmp_path)
    disk.save(np.zeros((64, 4096), np.uint16), "a.tif")
    from polystore.formats.tiff import segments as tiff_segments

    read_pixels = tiff_segments.read_pixels

    def cut_off(*arguments: Any, **options: Any) -> Any:
        with (tmp_path / "a.tif").open("r+b") as file:
            file.truncate(8192)
        return read_pixels(*arguments, **options)

    monkeypatch.setattr("polystore.formats.tiff.format.read_pixels", cut_off)
    for region in (None, (slice(50, 60), slice(None))):
        disk.save(np.zeros((64, 4096), np.uint16), "a.tif", overwrite=True)
        with pytest.raises(ImageLoadError, match="the file has 8192"):
            disk.load("a.tif", region=region)


def test_a_jpeg_of_very_many_scans_is_not_decoded(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("L", (4000, 4000)).save(image, "JPEG", progressive=True, quality=1)
    data = image.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "honest.jpg").write_bytes(data)
    (tmp_path / "hostile.jpg").write_bytes(data[:-2] + scan * 20_000 + data[-2:])
    backend = DiskBackend(tmp_path)
    assert backend.load("/honest.jpg").shape == (4000, 4000)
    with within(20), pytest.raises(ImageLoadError, match="scans"):
        backend.load("/hostile.jpg")

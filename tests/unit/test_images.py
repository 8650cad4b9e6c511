"""What image files hold: every image of them, every plane, and what lies beside the pixels."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from polystore import (
    CorruptDataError,
    DiskBackend,
    FileManager,
    ImageLoadError,
    ImageSaveError,
    MemoryBackend,
    UnsupportedFormatError,
    UnsupportedOperationError,
    VFSTypeError,
    ZarrBackend,
)

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 4096, (2, 3, 20, 30), dtype=np.uint16)


@pytest.fixture
def disk(tmp_path: Path) -> DiskBackend:
    return DiskBackend(tmp_path)


def two_series(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(np.zeros((10, 12), np.uint8), photometric="minisblack")
        file.write(STACK[0], photometric="minisblack")


# Every image


def test_a_file_of_several_images_says_so_and_gives_the_one_that_is_chosen(
    disk: DiskBackend, tmp_path: Path
) -> None:
    two_series(tmp_path / "a.tif")
    with pytest.raises(VFSTypeError, match=r"2 images.*series=0 to series=1.*'a\.tif'"):
        disk.load("a.tif")
    with pytest.raises(VFSTypeError, match="2 images"):
        disk.load("a.tif", region=0)
    assert disk.load("a.tif", series=0).shape == (10, 12)
    assert np.array_equal(disk.load("a.tif", series=1), STACK[0])
    assert np.array_equal(disk.load("a.tif", series=1, region=(1, ..., 5)), STACK[0, 1, :, 5])
    for wrong in (2, -1, True, "x"):
        with pytest.raises(VFSTypeError, match="series="):
            disk.load("a.tif", series=wrong)  # type: ignore[arg-type]
    assert disk.stat("a.tif")["series"] == 2
    assert "shape" not in disk.stat("a.tif")


def test_frames_of_a_png_are_several_images(disk: DiskBackend, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 5), value, np.uint8)) for value in (1, 2)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(VFSTypeError, match="2 images"):
        disk.load("a.png")
    assert [disk.load("a.png", series=k).max() for k in (0, 1)] == [1, 2]
    assert disk.stat("a.png")["series"] == 2


def test_an_option_that_a_format_lacks_is_refused(disk: DiskBackend) -> None:
    disk.save(np.zeros(3), "a.npy")
    with pytest.raises(VFSTypeError, match="no option 'series'"):
        disk.load("a.npy", series=0)


# Every plane


def ome(planes: int, data: str) -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="P" DimensionOrder="XYZCT" Type="uint16" SizeX="30" '
        f'SizeY="20" SizeZ="{planes}" SizeC="1" SizeT="1">{data}</Pixels></Image></OME>'
    )


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_that_the_metadata_name_and_the_file_lacks_are_named(
    disk: DiskBackend, tmp_path: Path, compression: str | None
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        STACK[0, :2],
        description=ome(4, '<TiffData IFD="0" FirstZ="0"/><TiffData IFD="1" FirstZ="2"/>'),
        metadata=None,
        compression=compression,
    )
    for region in (None, 0):
        with pytest.raises(ImageLoadError, match=r"lacks 2 of the 4 planes.*: Z=1, Z=3"):
            disk.load("a.tif", region=region)
    loaded = disk.load("a.tif", missing="zeros")
    assert np.array_equal(loaded[[0, 2]], STACK[0, :2])
    assert not loaded[[1, 3]].any()
    with pytest.raises(VFSTypeError, match="missing"):
        disk.load("a.tif", missing="ones")


@pytest.mark.parametrize("kind", ["imagej", "shaped"])
def test_a_stack_that_was_cut_off_is_damaged(disk: DiskBackend, tmp_path: Path, kind: str) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", STACK[0], imagej=kind == "imagej", photometric="minisblack"
    )
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: -STACK[0, 0].nbytes])
    with pytest.raises(ImageLoadError, match="planes"):
        disk.load("a.tif")


# Values that other writers store in fewer bits, or not at all


@pytest.mark.parametrize("bits", [1, 2, 4, 12, 14])
def test_few_bits_a_pixel_are_read(disk: DiskBackend, tmp_path: Path, bits: int) -> None:
    image = RNG.integers(0, 2**bits, (33, 50), dtype=np.uint8 if bits <= 8 else np.uint16)
    if bits == 1:
        tifffile.imwrite(tmp_path / "a.tif", image.astype(bool), photometric="minisblack")
    else:
        tifffile.imwrite(tmp_path / "a.tif", image, bitspersample=bits, photometric="minisblack")
    assert np.array_equal(disk.load("a.tif"), image)
    assert np.array_equal(disk.load("a.tif", region=(slice(30, 2, -3), 7)), image[30:2:-3, 7])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiles_that_are_not_stored_are_empty(
    disk: DiskBackend, tmp_path: Path, compression: str | None
) -> None:
    full = np.zeros((256, 256), np.uint8)
    full[:64, 192:] = 3

    def tiles() -> Iterator[bytes]:
        for y in range(0, 256, 64):
            for x in range(0, 256, 64):
                data = full[y : y + 64, x : x + 64]
                stored = data.tobytes() if compression is None else zlib.compress(data.tobytes())
                yield stored if data.any() else b""

    tifffile.imwrite(
        tmp_path / "a.tif",
        tiles(),
        shape=full.shape,
        dtype=full.dtype,
        tile=(64, 64),
        photometric="minisblack",
        compression=compression,
    )
    assert np.array_equal(disk.load("a.tif"), full)
    assert np.array_equal(disk.load("a.tif", region=slice(0, 70)), full[:70])


def test_a_large_well_compressed_mask_is_loaded_in_part_and_on_request_whole(
    disk: DiskBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polystore.formats.tiff.segments._BELIEVED", 2**20)
    tile = np.zeros((1024, 1024), np.uint8)
    tile[5, 7] = 1
    side = 1024 * 4
    tifffile.imwrite(
        tmp_path / "a.tif",
        (tile for _ in range(4 * 4)),
        shape=(side, side),
        dtype=tile.dtype,
        tile=tile.shape,
        photometric="minisblack",
        compression="zstd",
    )
    part = disk.load("a.tif", region=(slice(0, 10), slice(side - 1024, side, 7)))
    assert part.sum() == part[5, 1] == 1
    with pytest.raises(CorruptDataError, match=f"max_decoded={side**2}"):
        disk.load("a.tif")
    assert disk.load("a.tif", max_decoded=side**2).shape == (side, side)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_an_image_format_refuses_a_mask_that_it_would_drop(disk: DiskBackend, suffix: str) -> None:
    masked = np.ma.MaskedArray(np.zeros((3, 4), np.uint8), mask=np.eye(3, 4, dtype=bool))
    with pytest.raises(ImageSaveError, match=r"\.filled"):
        disk.save(masked, f"a{suffix}")


@pytest.mark.parametrize("channels", [None, 2, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_png_holds_16_bits_in_any_byte_order(
    disk: DiskBackend, channels: int | None, order: str
) -> None:
    shape = (5, 6) if channels is None else (5, 6, channels)
    image = RNG.integers(0, 2**16, shape).astype(f"{order}u2")
    disk.save(image, "a.png")
    loaded = disk.load("a.png")
    assert np.array_equal(loaded, image)
    assert loaded.dtype == np.uint16
    assert (disk.stat("a.png")["shape"], disk.stat("a.png")["dtype"]) == (shape, "uint16")
    assert np.array_equal(disk.load("a.png", region=(1, slice(2, 4))), image[1, 2:4])


def test_jpeg_of_cmyk_and_gray_are_read(disk: DiskBackend, tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert disk.load("a.jpg").shape == (8, 8, 3)
    Image.new("L", (8, 8), 7).save(tmp_path / "b.jpg")
    assert disk.load("b.jpg").shape == (8, 8)


# What lies beside the pixels


def file_with(path: Path, **options: Any) -> bytes:
    tifffile.imwrite(path, STACK, **{"photometric": "minisblack"} | options)
    return path.read_bytes()


BESIDE: dict[str, dict[str, Any]] = {
    "OME": {"ome": True, "metadata": {"axes": "TCYX", "PhysicalSizeX": 0.5}},
    "ImageJ": {"imagej": True, "resolution": (2, 2), "metadata": {"spacing": 3}},
    "scale": {"resolution": (300, 300), "resolutionunit": 2},
    "big-endian": {"byteorder": ">", "metadata": {"note": "its own"}},
    "description": {"photometric": "minisblack", "description": "0.5 um"},
    "ours": {"photometric": "minisblack"},
}


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("region", [(1, 2, slice(15, 2, -3), -1), (..., slice(3)), (0, 0, 4, 5)])
def test_a_save_into_a_region_changes_the_pixels_alone(
    disk: DiskBackend, tmp_path: Path, kind: str, region: Any
) -> None:
    before = file_with(tmp_path / "a.tif", **BESIDE[kind])
    expected = disk.load("a.tif").copy()
    expected[region] = 7
    disk.save(np.uint16(7), "a.tif", region=region)
    assert np.array_equal(disk.load("a.tif"), expected)
    after = (tmp_path / "a.tif").read_bytes()
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    assert changed <= 2 * expected[region].size


def test_a_save_into_a_region_that_would_lose_something_is_refused(
    disk: DiskBackend, tmp_path: Path
) -> None:
    two_series(tmp_path / "two.tif")
    with tifffile.TiffWriter(tmp_path / "levels.tif") as file:
        for side in (64, 32, 16):
            file.write(np.full((side, side), side, np.uint8), metadata=None)
    file_with(tmp_path / "ome.tif", compression="zlib", **BESIDE["OME"])
    Image.new("L", (8, 8)).save(tmp_path / "dpi.png", dpi=(300, 300))
    Image.new("P", (8, 8)).save(tmp_path / "palette.png")
    Image.new("L", (8, 8)).save(tmp_path / "a.jpg")
    for name, lost in {
        "two.tif": "2 images",
        "levels.tif": "3 levels of resolution",
        "ome.tif": "OME metadata",
        "dpi.png": "dpi",
        "palette.png": "palette",
        "a.jpg": "lossy",
    }.items():
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ImageSaveError, match=lost):
            disk.save(np.uint8(0), name, region=(0, 0))
        assert (tmp_path / name).read_bytes() == before


def test_a_compressed_file_of_nothing_but_pixels_takes_a_region(
    disk: DiskBackend, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0, 0], compression="zlib")
    disk.save(np.zeros((2, 2), np.uint16), "a.tif", region=(slice(2), slice(2)))
    assert not disk.load("a.tif")[:2, :2].any()
    assert np.array_equal(disk.load("a.tif")[2:], STACK[0, 0, 2:])


def test_a_part_that_does_not_fit_is_refused_and_changes_nothing(
    disk: DiskBackend, tmp_path: Path
) -> None:
    before = file_with(tmp_path / "a.tif")
    for region, data in {(0, 0): np.zeros((3, 3)), (0, 9): np.uint16(1)}.items():
        with pytest.raises((UnsupportedFormatError, VFSTypeError)):
            disk.save(data, "a.tif", region=region)
    assert (tmp_path / "a.tif").read_bytes() == before


@pytest.fixture
def fm(tmp_path: Path) -> FileManager:
    for name in ("disk", "other", "zarr"):
        (tmp_path / name).mkdir()
    return FileManager(
        {
            "disk": DiskBackend(tmp_path / "disk"),
            "other": DiskBackend(tmp_path / "other"),
            "zarr": ZarrBackend(tmp_path / "zarr"),
            "memory": MemoryBackend(),
        }
    )


def test_a_file_of_the_same_format_is_copied_byte_by_byte(fm: FileManager, tmp_path: Path) -> None:
    (tmp_path / "disk/t").mkdir()
    whole = file_with(tmp_path / "disk/t/a.ome.tif", compression="zlib", **BESIDE["OME"])
    two_series(tmp_path / "disk/t/two.tif")
    fm.copy("/t", "/t", "disk", to_backend="other")
    fm.move("/t/two.tif", "/t/three.tif", "disk", to_backend="other")
    assert (tmp_path / "other/t/a.ome.tif").read_bytes() == whole
    names = ["a.ome.tif", "three.tif", "two.tif"]
    assert sorted(path.name for path in (tmp_path / "other/t").iterdir()) == names
    assert fm.load("/t/three.tif", "other", series=1).shape == (3, 20, 30)


@pytest.mark.parametrize("operation", ["copy", "move"])
@pytest.mark.parametrize("target", ["memory", "zarr"])
@pytest.mark.parametrize("kind", [kind for kind in BESIDE if kind != "ours"])
def test_what_another_backend_cannot_keep_stays_where_it_is(
    fm: FileManager, tmp_path: Path, operation: str, target: str, kind: str
) -> None:
    (tmp_path / "disk/t").mkdir()
    file_with(tmp_path / "disk/t/a.tif", **BESIDE[kind])
    with pytest.raises(UnsupportedOperationError, match=r"not keep.*lossy=True.*'/t/a\.tif'"):
        getattr(fm, operation)("/t", "/t", "disk", to_backend=target)
    assert not fm.exists("/t", target)
    assert fm.exists("/t/a.tif", "disk")
    getattr(fm, operation)("/t", "/t", "disk", to_backend=target, lossy=True)
    assert np.array_equal(fm.load("/t/a.tif", target), STACK)


def test_our_own_images_go_anywhere(fm: FileManager) -> None:
    for number, image in enumerate((STACK, STACK[0, 0], np.zeros((5, 6, 3), np.uint8))):
        fm.save(image, f"/t/{number}.tif", "disk")
    fm.save(STACK[0, 0], "/t/a.png", "disk")
    fm.move("/t", "/t", "disk", to_backend="memory")
    assert np.array_equal(fm.load("/t/0.tif", "memory"), STACK)


def test_progress_counts_files_and_values_together(fm: FileManager) -> None:
    for name in ("/a.tif", "/b.json"):
        fm.save(STACK if name == "/a.tif" else [1], name, "disk")
    seen: list[tuple[int, int]] = []

    def told(done: int, total: int) -> None:
        seen.append((done, total))

    sources, targets = ["/a.tif", "/b.json", "/a.tif"], ["/a.npy", "/b.json", "/c.tif"]
    fm.copy(sources, targets, "disk", to_backend="other", progress=told)
    assert seen[-1] == (3, 3)
    assert np.array_equal(fm.load("/a.npy", "other"), STACK)


def test_booleans_of_a_png_are_those_of_numpy(disk: DiskBackend) -> None:
    # Pillow's have bytes of 255, which are other bytes where they are compared, hashed or viewed.
    mask = np.eye(5, dtype=bool)
    disk.save(mask, "a.png")
    assert disk.load("a.png").tobytes() == mask.tobytes()
    assert disk.load("a.png", region=(slice(None), 2)).tobytes() == mask[:, 2].tobytes()


@pytest.mark.parametrize(
    "image", [np.ones((4, 5), np.longdouble), np.ones((4, 5), np.clongdouble), np.ones(5, np.uint8)]
)
def test_what_no_reader_of_tiff_would_take_is_refused(disk: DiskBackend, image: Any) -> None:
    with pytest.raises(ImageSaveError, match=r"TIFF holds"):
        disk.save(image, "a.tif")


def test_a_predictor_of_floats_on_integers_is_damage(disk: DiskBackend, tmp_path: Path) -> None:
    # Undone all the same, it gives other integers that look as good.
    image = np.arange(1200, dtype=np.uint32).reshape(30, 40)
    tifffile.imwrite(tmp_path / "a.tif", image, compression="zlib", predictor=2)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages.first.tags["Predictor"].overwrite(3)
    for region in (None, slice(2, 5)):
        with pytest.raises(ImageLoadError, match="only floats"):
            disk.load("a.tif", region=region)

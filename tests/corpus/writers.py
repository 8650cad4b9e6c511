"""Files of independent writers, and what each writer meant: a corpus of images.

Run as a program, it writes the files into a folder: ``python tests/corpus/writers.py FOLDER``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["WRITERS", "Case", "Writer"]

RNG = np.random.default_rng(7)
GRAY = RNG.integers(0, 256, (37, 53), dtype=np.uint8)
DEEP = RNG.integers(0, 2**16, (37, 53), dtype=np.uint16)
RGB = RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (37, 53, 4), dtype=np.uint8)
DEEP_RGB = RNG.integers(0, 2**16, (37, 53, 3), dtype=np.uint16)
FLOAT = RNG.normal(size=(37, 53)).astype(np.float32)
MASK = GRAY > 128
STACK = RNG.integers(0, 2**12, (2, 3, 20, 30), dtype=np.uint16)
LABELS = np.repeat(np.repeat(RNG.integers(0, 9, (8, 8), dtype=np.uint16), 32, 0), 32, 1)


@dataclass(frozen=True)
class Case:
    """A file, and the array that its writer meant.

    ``near`` is the difference that a lossy compression may make; ``options`` are for ``load``.
    """

    name: str
    meant: np.ndarray[Any, Any]
    near: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Writer:
    """A package that writes files, and the function that lets it."""

    name: str
    module: str
    write: Callable[[Path], Iterator[Case]]

    def is_installed(self) -> bool:
        try:
            importlib.import_module(self.module)
        except ImportError:
            return False
        return True


def by_tifffile(folder: Path) -> Iterator[Case]:
    import tifffile

    def case(name: str, image: Any, near: int = 0, **options: Any) -> Case:
        options = {"photometric": "minisblack"} | options
        tifffile.imwrite(folder / name, image, **options)
        return Case(name, image, near)

    for codec in ("zlib", "lzw", "zstd", "packbits", "lzma"):
        yield case(f"{codec}.tif", DEEP, compression=codec)
        yield case(f"{codec}-tiles.tif", LABELS, compression=codec, tile=(64, 64))
    for codec in ("png", "jpeg2000", "jpegxl", "webp"):
        yield case(f"{codec}.tif", RGB, 90, compression=codec, photometric="rgb", tile=(32, 32))
    yield case("predictor.tif", FLOAT, compression="zlib", predictor=True)
    yield case("big-endian.tif", DEEP, byteorder=">")
    yield case("bigtiff.tif", STACK, bigtiff=True)
    yield case("planar.tif", np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate")
    yield case("12-bit.tif", DEEP >> 4, bitspersample=12)
    yield case("1-bit.tif", MASK)
    yield case("complex.tif", FLOAT + 1j * FLOAT)
    yield case("half.tif", FLOAT.astype(np.float16))
    yield case("stack.ome.tif", STACK, ome=True, metadata={"axes": "TCYX"})
    yield case("imagej.tif", STACK, imagej=True, resolution=(2, 2), metadata={"axes": "TZYX"})
    with tifffile.TiffWriter(folder / "pyramid.tif") as file:
        file.write(LABELS, subifds=2, tile=(64, 64), photometric="minisblack")
        for step in (2, 4):
            file.write(LABELS[::step, ::step], subfiletype=1, tile=(64, 64))
    yield Case("pyramid.tif", LABELS)
    with tifffile.TiffWriter(folder / "series.tif") as file:
        file.write(GRAY, photometric="minisblack")
        file.write(STACK, photometric="minisblack")
    yield Case("series.tif", STACK, options={"series": 1})


def by_pillow(folder: Path) -> Iterator[Case]:
    from PIL import Image

    def case(name: str, image: Any, meant: Any, near: int = 0, **options: Any) -> Case:
        image.save(folder / name, **options)
        return Case(name, np.asarray(meant), near)

    gray, colour = Image.fromarray(GRAY), Image.fromarray(RGB)
    bilevel = Image.fromarray(MASK)
    palette = gray.quantize(16)
    for codec in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield case(f"{codec}.tif", colour, RGB, compression=codec)
    yield case("group4.tif", bilevel, MASK, compression="group4")
    yield case("bilevel.tif", bilevel, MASK)
    yield case("float.tif", Image.fromarray(FLOAT), FLOAT, dpi=(300, 300))
    yield case("deep.tif", Image.fromarray(DEEP), DEEP)
    yield case("palette.tif", palette, palette)  # the indices, as tifffile has them
    pages = [Image.fromarray(GRAY + np.uint8(k)) for k in range(3)]
    meant = np.stack([np.asarray(page) for page in pages])
    yield case("pages.tif", pages[0], meant, save_all=True, append_images=pages[1:])
    for name, image in {"gray": gray, "rgb": colour, "rgba": Image.fromarray(RGBA)}.items():
        yield case(f"{name}.png", image, image)
    yield case("bilevel.png", bilevel, MASK)
    yield case("deep.png", Image.fromarray(DEEP), DEEP)
    yield case("palette.png", palette, palette.convert("RGB"))
    yield case("clear.png", palette, palette_with_alpha(palette), transparency=3)
    smooth = Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8))
    yield case("gray.jpg", smooth, smooth, 8, quality=95)
    yield case("rgb.jpg", smooth.convert("RGB"), smooth.convert("RGB"), 8, quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned; the pixels are loaded as they are stored
    yield case("turned.jpg", smooth, smooth, 8, quality=95, exif=exif)
    cmyk = smooth.convert("RGB").convert("CMYK")
    yield case("cmyk.jpg", cmyk, cmyk.convert("RGB"), 12, quality=95)


def palette_with_alpha(palette: Any) -> Any:
    marked = palette.copy()
    marked.info["transparency"] = 3
    return marked.convert("RGBA")


def by_imageio(folder: Path) -> Iterator[Case]:
    import imageio.v3 as iio

    images: dict[str, np.ndarray[Any, Any]] = {
        "gray.tif": GRAY,
        "stack.tif": STACK[0],
        "float.tif": FLOAT,
        "deep.png": DEEP,
        "rgb.png": RGB,
    }
    for name, image in images.items():
        iio.imwrite(folder / name, image)
        yield Case(name, image)


def by_skimage(folder: Path) -> Iterator[Case]:
    from skimage import io

    images: dict[str, np.ndarray[Any, Any]] = {
        "labels.tif": LABELS,
        "rgb.tif": RGB,
        "float.tif": FLOAT,
        "stack.tif": STACK[0],
        "gray.png": GRAY,
    }
    for name, image in images.items():
        io.imsave(folder / name, image, check_contrast=False)
        yield Case(name, image)


def by_opencv(folder: Path) -> Iterator[Case]:
    cv2: Any = importlib.import_module("cv2")

    images: dict[str, np.ndarray[Any, Any]] = {
        "gray.tif": GRAY,
        "deep.tif": DEEP,
        "float.tif": FLOAT,
        "rgb.tif": RGB,
        "deep-rgb.tif": DEEP_RGB,
        "gray.png": GRAY,
        "rgba.png": RGBA,
        "deep-rgb.png": DEEP_RGB,
    }
    for name, image in images.items():
        order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[-1]) if image.ndim == 3 else None
        cv2.imwrite(str(folder / name), image if order is None else image[..., order])
        yield Case(name, image)
    cv2.imwritemulti(str(folder / "pages.tif"), list(STACK[0]))
    yield Case("pages.tif", STACK[0])


WRITERS = [
    Writer("tifffile", "tifffile", by_tifffile),
    Writer("Pillow", "PIL", by_pillow),
    Writer("imageio", "imageio", by_imageio),
    Writer("scikit-image", "skimage", by_skimage),
    Writer("OpenCV", "cv2", by_opencv),
]

if __name__ == "__main__":
    for writer in WRITERS:
        if writer.is_installed():
            place = Path(sys.argv[1]) / writer.name
            place.mkdir(parents=True, exist_ok=True)
            sys.stdout.write(f"{writer.name}: {len(list(writer.write(place)))} files\n")

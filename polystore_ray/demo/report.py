"""The output of the demo: a contact sheet, and a report as one HTML file."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from polystore_ray.demo.pipeline import Outcome, Result, Trip

__all__ = ["contact_sheet", "report"]

CELL = 340  # pixels on a side
CAPTION = 26
GAP = 12
COLUMNS = 4
OUTLINE = (255, 214, 10)
PAPER, INK = (18, 20, 24), (235, 238, 242)


def contact_sheet(outcomes: Sequence[Outcome]) -> Image.Image:
    """Return all images on one sheet, with the outlines and the number of the objects found."""
    columns = min(COLUMNS, len(outcomes))
    rows = -(-len(outcomes) // columns)
    width = columns * (CELL + GAP) + GAP
    height = rows * (CELL + CAPTION + GAP) + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for i, outcome in enumerate(outcomes):
        left = GAP + (i % columns) * (CELL + GAP)
        top = GAP + (i // columns) * (CELL + CAPTION + GAP)
        picture = outlined(outcome)
        sheet.paste(
            picture, (left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2)
        )
        count = len(outcome.rows)
        draw.text(
            (left, top + CELL + 5),
            f"{outcome.name}: {count} object{'' if count == 1 else 's'}",
            INK,
            font,
        )
    return sheet


def outlined(outcome: Outcome) -> Image.Image:
    """Return an image scaled to a cell of the sheet, with outlines one pixel wide."""
    scale = CELL / max(outcome.labels.shape)
    size = (round(outcome.labels.shape[1] * scale), round(outcome.labels.shape[0] * scale))
    picture = np.array(Image.fromarray(_rgb(outcome.image)).resize(size, Image.Resampling.LANCZOS))
    labels = np.array(Image.fromarray(outcome.labels).resize(size, Image.Resampling.NEAREST))
    picture[find_boundaries(labels, mode="inner")] = OUTLINE
    return Image.fromarray(picture)


def report(result: Result) -> str:
    """Return the report as one HTML page."""
    page = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    trips = result.trips
    return page.substitute(
        images=len(result.outcomes),
        objects=sum(len(outcome.rows) for outcome in result.outcomes),
        shared=_size(sum(trip.shared for trip in trips)),
        copied=_size(sum(trip.copied for trip in trips)),
        saved=_size(sum(trip.saved for trip in trips)),
        sheet=_data_uri(contact_sheet(result.outcomes)),
        rows="\n".join(_image_row(outcome) for outcome in result.outcomes),
        workers="\n".join(_worker_rows(trips)),
        failures="".join(f"<p class='failure'>{escape(line)}</p>" for line in result.failures),
    )


def _image_row(outcome: Outcome) -> str:
    height, width = outcome.labels.shape
    areas = [row["area"] for row in outcome.rows]
    cells = (
        f"{width} x {height}",
        outcome.tiles,
        f"{outcome.decided.channel}, {'bright' if outcome.decided.bright else 'dark'} objects",
        len(areas),
        f"{np.median(areas):.0f}" if areas else "-",
    )
    return f"<tr><th scope='row'>{escape(outcome.name)}</th>{_cells(cells)}</tr>"


def _worker_rows(trips: Sequence[Trip]) -> list[str]:
    by_worker: dict[int, list[Trip]] = defaultdict(list)
    for trip in trips:
        by_worker[trip.worker].append(trip)
    return [
        f"<tr><th scope='row'>{worker}</th>"
        + _cells(
            (
                len(theirs),
                _size(sum(trip.shared for trip in theirs)),
                _size(sum(trip.copied for trip in theirs)),
                _size(sum(trip.saved for trip in theirs)),
            )
        )
        + "</tr>"
        for worker, theirs in by_worker.items()
    ]


def _cells(values: Sequence[object]) -> str:
    return "".join(f"<td>{escape(str(value))}</td>" for value in values)


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def _data_uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _rgb(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return an image of any dtype and number of channels as 8-bit RGB."""
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) * (255 / (high - low or 1))).astype(np.uint8)
    if image.ndim == 2:
        image = image[..., np.newaxis]
    if image.shape[2] in (1, 2):
        image = np.repeat(image[..., :1], 3, axis=2)
    return np.ascontiguousarray(image[..., :3])

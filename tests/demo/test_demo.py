"""The demo: its parts, its pipeline in process, and its command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.measure import label

from polystore import BackendRegistry, FileManager
from polystore_ray.demo.images import photographs
from polystore_ray.demo.pipeline import run
from polystore_ray.demo.report import contact_sheet, report
from polystore_ray.demo.segmentation import clean, measure, segment, survey
from polystore_ray.demo.tiles import Tile, cut, stitch

ROOT = Path(__file__).parents[2]


def in_process(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    return (function(*call) for call in calls)


def discs(shape: tuple[int, int], count: int, radius: int = 20) -> Any:
    """Return a dark image with bright discs that do not touch."""
    rng = np.random.default_rng(3)
    rows, columns = np.indices(shape)
    image = np.full(shape, 40, np.uint8)
    step = shape[1] // count
    for i in range(count):
        row = int(rng.integers(2 * radius, shape[0] - 2 * radius))
        image[(rows - row) ** 2 + (columns - (i + 0.5) * step) ** 2 < radius**2] = 200
    return image + rng.integers(0, 20, shape, dtype=np.uint8)


def test_tiles_cover_an_image_and_overlap() -> None:
    image = np.arange(700 * 1100).reshape(700, 1100)
    tiles = cut(image.shape)
    covered = np.zeros(image.shape, int)
    for tile in tiles:
        tile.of(covered)[...] += 1
        assert max(tile.of(image).shape) <= 512
    assert covered.min() == 1
    assert covered.max() > 1
    assert len(cut((512, 512, 3))) == 1


def test_objects_that_cross_borders_become_one() -> None:
    mask = np.zeros((700, 1100), bool)
    mask[100:600, 200:1000] = True
    mask[10:30, 10:30] = True
    mask[300:320, 1050:1090] = True
    tiles = cut(mask.shape)
    whole = stitch((700, 1100), [(tile, np.asarray(label(tile.of(mask)))) for tile in tiles])
    np.testing.assert_array_equal(whole > 0, mask)
    assert len(np.unique(whole)) == 4


def test_stitched_tiles_are_what_one_piece_would_be() -> None:
    image = discs((600, 1200), 12)
    decided = survey(image)
    stitched = stitch(
        (600, 1200), [(t, segment(t.of(image), t, decided)) for t in cut(image.shape)]
    )
    whole = segment(image, Tile(slice(0, 600), slice(0, 1200)), decided)
    assert clean(stitched).max() == clean(whole).max() == 12
    assert np.mean((stitched > 0) != (whole > 0)) < 1e-4


def test_objects_are_measured_in_pixels() -> None:
    rows = measure(discs((200, 400), 3), clean(label(discs((200, 400), 3) > 128).astype(np.int32)))
    assert [row["object"] for row in rows] == [1, 2, 3]
    assert all(abs(row["area"] - np.pi * 20**2) < 30 for row in rows)
    assert all(row["eccentricity"] < 0.2 for row in rows)


def test_twenty_four_coins_are_found() -> None:
    [coins] = [path for path in photographs() if path.stem == "coins"]
    image = np.array(Image.open(coins))
    [tile] = cut(image.shape)
    assert clean(segment(image, tile, survey(image))).max() == 24


def test_the_pipeline_writes_labels_and_measurements_and_tells_what_travelled(
    tmp_path: Path,
) -> None:
    fm = FileManager(BackendRegistry.isolated())
    for name, count in (("few.png", 3), ("many.tif", 9)):
        fm.save(discs((300, 1200), count), tmp_path / "in" / name, backend="disk")
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    files = [tmp_path / "in" / name for name in ("bad.png", "few.png", "many.tif")]
    steps: list[tuple[int, int, str]] = []
    for _ in range(2):  # a second run replaces what the first one left
        fm = FileManager(BackendRegistry.isolated())
        result = run(fm, files, tmp_path / "out", in_process, lambda *step: steps.append(step))
    assert {outcome.name: len(outcome.rows) for outcome in result.outcomes} == {
        "few.png": 3,
        "many.tif": 9,
    }
    [failure] = result.failures
    assert "bad.png" in failure
    table = fm.load(tmp_path / "out" / "measurements.csv", backend="disk")
    assert len(table) == 12
    labels = fm.load(tmp_path / "out" / "labels.zarr" / "many.tif", backend="zarr")
    assert labels.max() == 9
    assert steps[-1][0] == steps[-1][1]
    assert sum(trip.shared for trip in result.trips) > 0
    assert sum(trip.copied for trip in result.trips) == 0
    sheet = contact_sheet(result.outcomes)
    assert (255, 214, 10) in {colour for _, colour in sheet.getcolors(2**24) or []}
    page = report(result)
    assert "many.tif" in page
    assert "bad.png" in page
    assert "$" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_picture_in_the_documentation_is_what_the_demo_draws(tmp_path: Path) -> None:
    fm = FileManager(BackendRegistry.isolated())
    last_row = photographs()[4:]  # which are small
    result = run(fm, last_row, tmp_path, in_process, lambda *_: None)
    drawn = np.asarray(contact_sheet(result.outcomes).convert("RGB"), int)
    with Image.open(ROOT / "docs/images/contact-sheet.png") as picture:
        shown = np.asarray(picture.convert("RGB"), int)[-drawn.shape[0] :, : drawn.shape[1]]
    # Another version of Pillow may write a caption differently.
    assert (np.abs(drawn - shown).max(axis=-1) > 60).mean() < 0.002


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "polystore_ray.demo", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Ignored, as in what a shell runs in the background, it would be ignored here too.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, errors = process.communicate(timeout=240)
    assert output == ""
    assert "\r" not in errors  # there is no terminal
    return process.returncode, errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--images", "nowhere"), "no such directory: 'nowhere'"),
        (("--images", "."), "no image"),
        (("--address", "127.0.0.1:9"), "no Ray cluster answers at '127.0.0.1:9'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    code, errors = finish(start(*arguments, cwd=tmp_path))
    assert code == 2
    assert len(errors.splitlines()) == 1
    assert says in errors


def test_the_command_does_the_other_images_and_reports_the_bad_one(tmp_path: Path) -> None:
    Image.fromarray(discs((300, 600), 4)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, errors = finish(start("--images", ".", cwd=tmp_path))
    assert code == 1
    assert "4 objects in 1 images" in errors
    [line] = [line for line in errors.splitlines() if line.startswith("error")]
    assert "bad.png" in line
    assert {path.name for path in (tmp_path / "demo-out").iterdir()} == {
        "contact-sheet.png",
        "labels.zarr",
        "measurements.csv",
        "report.html",
    }


def processes_with(marker: str) -> list[str]:
    """Return the commands of all processes whose environment has a marker."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and marker in (folder / "environ").read_text():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except (OSError, ValueError):
            continue
    return [command for command in found if command]


def test_an_interrupt_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = f"POLYSTORE_DEMO_TEST={time.time_ns()}"
    monkeypatch.setenv(*marker.split("="))
    process = start(cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not any("raylet" in command for command in processes_with(marker)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C sends to the whole group
    code, errors = finish(process)
    assert code == 130, errors
    assert "interrupted" in errors.splitlines()[-1]
    deadline = time.monotonic() + 120
    while processes_with(marker) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_with(marker) == []

"""``python -m polystore_ray.demo``: the command line of the demo."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from polystore import FileManager, StorageError
from polystore.progress import Lines
from polystore_ray import RayBackendRegistry
from polystore_ray.demo.images import SUFFIXES, photographs
from polystore_ray.demo.pipeline import Result, run
from polystore_ray.ray_extra import needs_ray
from polystore_ray.rayapi.addresses import require_listener

OBJECT_STORE = 512 * 2**20  # bytes
_INTERRUPTED = 130  # the code of a program that ends by Ctrl-C


class _DemoError(Exception):
    """Signal that the demo cannot run; the message is the cause, in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return 0 on success, 1 if an image failed, 2 if the demo could not run."""
    parser = argparse.ArgumentParser(
        prog="python -m polystore_ray.demo",
        description="Segment photographs in Ray tasks that share them through the cluster memory.",
    )
    parser.add_argument(
        "--images", type=Path, help="a directory of images (default: those of scikit-image)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="the directory for results"
    )
    parser.add_argument("--address", help="a running Ray cluster (default: start one)")
    options = parser.parse_args(arguments)
    try:
        files = _files(options.images)
        result = _run_on_ray(files, options.out.absolute(), options.address)
        _write_pictures(result, options.out)
    except KeyboardInterrupt:
        _say("interrupted; Ray was shut down")
        return _INTERRUPTED
    except (_DemoError, StorageError) as error:
        _say(f"error: {error}")
        return 2
    for failure in result.failures:
        _say(f"error: {failure}")
    return 1 if result.failures else 0


def _files(folder: Path | None) -> list[Path]:
    if folder is None:
        files = photographs()
        if not files:
            raise _DemoError(
                "this installation of scikit-image has no photographs; name a directory with "
                "--images"
            )
        return files
    if not folder.is_dir():
        raise _DemoError(f"no such directory: {str(folder)!r}")
    files = sorted(p for p in folder.absolute().iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise _DemoError(f"no images ({', '.join(sorted(SUFFIXES))}) in {str(folder)!r}")
    return files


def _run_on_ray(files: list[Path], out: Path, address: str | None) -> Result:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is not None:
        require_listener(address)
    with needs_ray("the demo"):
        import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init("local", object_store_memory=OBJECT_STORE, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise _DemoError(f"Ray did not start or answer: {reason}") from error
    registry = RayBackendRegistry("demo")

    def as_tasks(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        waiting = [ray.remote(function).remote(*call) for call in calls]
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)

    try:
        with _progress(len(files)) as progress:
            return run(FileManager(registry), files, out, as_tasks, progress)
    finally:
        registry.shutdown()
        ray.shutdown()


@contextmanager
def _progress(number: int) -> Iterator[Callable[[int, int, str], None]]:
    """Yield what shows the progress: a bar, or lines where there is no terminal."""
    if not sys.stderr.isatty():
        lines = Lines("steps")
        yield lambda done, total, _step: lines(done, total)
        return
    bar_format = "{l_bar}{bar:30}| {n_fmt}/{total_fmt} [{elapsed}]"
    with tqdm(total=number, bar_format=bar_format) as bar:

        def progress(done: int, total: int, step: str) -> None:
            bar.total = total
            bar.set_description(f"{step:<32.32}", refresh=False)
            bar.n = done
            bar.refresh()

        yield progress


def _write_pictures(result: Result, out: Path) -> None:
    if not result.outcomes:
        raise _DemoError("; ".join(result.failures) or "no image could be read")
    from polystore_ray.demo.report import contact_sheet, report

    out.mkdir(parents=True, exist_ok=True)
    contact_sheet(result.outcomes).save(out / "contact-sheet.png")
    (out / "report.html").write_text(report(result), encoding="utf-8")
    found = sum(len(outcome.rows) for outcome in result.outcomes)
    _say(f"{found} objects in {len(result.outcomes)} images: see {out / 'report.html'}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _end_interrupted() -> NoReturn:
    """End this process as it would end by itself, but for the threads of Ray's compiled code.

    Interrupted too, they can crash a process while it takes itself down.
    """
    atexit._run_exitfuncs()  # noqa: SLF001 - it has no public name
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    code = main()
    if code == _INTERRUPTED:
        _end_interrupted()
    sys.exit(code)

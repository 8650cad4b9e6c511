"""Whether a wheel is whole: it is installed into an empty environment, and used there.

``python tests/packaging/wheel.py dist/*.whl``, as ``make test-wheel`` does. The demo runs, the
commands are there, the pytest plugin loads, and a type checker finds the types of a program that
uses it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"

CONSUMER = '''\
"""A program that uses polystore, as a type checker sees it."""

from polystore import BackendRegistry, FileManager, PathNotFoundError
from polystore_ray import RayBackendRegistry

fm = FileManager(RayBackendRegistry("plates", local=True))
names: list[str] = fm.list_files("/", backend="memory")
other: FileManager = FileManager(BackendRegistry())
reveal_type(fm.exists("/a", backend="memory"))
reveal_type(RayBackendRegistry("plates").status().nodes[0].capacity)
fm.save(1)  # wrong: the path and the backend are missing
'''

REVEALED = ('Revealed type is "bool"', 'Revealed type is "int | None"', "[call-arg]")


def main(wheel: Path) -> None:
    """Install `wheel`, and raise if anything is not as it should be."""
    with tempfile.TemporaryDirectory(prefix="wheel-") as name:
        folder = Path(name)
        venv.create(folder / "env", with_pip=True)
        programs = folder / "env/bin"
        pip = [programs / "pip", "install", "-q", "--disable-pip-version-check"]
        _run(folder, *pip, "-c", CONSTRAINTS, f"{wheel.absolute()}[demo]", "mypy", "pytest")
        _run(folder, programs / "pip", "check")
        version = _run(folder, programs / "polystore", "--version").split()[-1]
        if f"-{version}-" not in wheel.name:
            raise SystemExit(f"{wheel.name} installs the version {version}")
        _run(folder, programs / "polystore", "doctor", "--local")
        _run(folder, programs / "python", "-m", "polystore_ray.demo", "--out", "out")
        if not (folder / "out/report.html").is_file():
            raise SystemExit("the demo made no report")
        if "polystore_local" not in _run(folder, programs / "pytest", "--fixtures"):
            raise SystemExit("the pytest plugin is not there")
        consumer = folder / "consumer.py"
        consumer.write_text(CONSUMER, encoding="utf-8")
        told = _run(folder, programs / "mypy", "--strict", consumer, code=1)
        for line in REVEALED:
            if line not in told:
                raise SystemExit(f"a type checker should say {line!r}, and says:\n{told}")
        if "Found 1 error" not in told:
            raise SystemExit(f"a type checker finds other errors:\n{told}")
    sys.stdout.write(f"{wheel.name} is whole\n")


def _run(folder: Path, *command: object, code: int = 0) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,  # where nothing of the source tree can be imported
        env=environment | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != code:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))

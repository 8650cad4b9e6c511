"""What is said where Ray is missing, or another project named polystore is there."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT_RAY = "import sys; sys.modules['ray'] = None\n"


def python(code: str, *before: Path, code_is_ok: bool = True) -> str:
    """Run code in a new process with some directories first on its path."""
    path = os.pathsep.join(str(each) for each in (*before, ROOT))
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode == 0) is code_is_ok, done.stderr
    return done.stdout + done.stderr


def test_without_ray_everything_local_works(tmp_path: Path) -> None:
    said = python(
        WITHOUT_RAY + f"import os; os.chdir({str(tmp_path)!r})\n"
        "import numpy as np\n"
        "import polystore_ray.filesystem, polystore_ray.zarr, polystore_ray.upath\n"
        "import pytest_polystore\n"
        "from polystore import FileManager\n"
        "from polystore_ray import RayBackendRegistry\n"
        "fm = FileManager(RayBackendRegistry(local=True))\n"
        "for backend in ('memory', 'disk', 'zarr'):\n"
        "    fm.save(np.arange(3), '/a.npy' if backend == 'memory' else backend, backend, "
        "**({'suffix': '.npy'} if backend == 'disk' else {}))\n"
        "fm.copy('/a.npy', 'b.npy', 'memory', to_backend='disk')\n"
        "print(fm.registry['memory'].map(sum, ['/a.npy']))\n"
        "from polystore_ray.cli.__main__ import main\n"
        "sys.argv = ['polystore', '--local', 'ls', 'disk:.']; main()\n"
    )
    assert said.splitlines() == ["[np.int64(3)]", "b.npy", "disk", "zarr/"]


@pytest.mark.parametrize(
    "use",
    [
        "from polystore_ray import RayBackendRegistry; RayBackendRegistry()['memory'].exists('/a')",
        "import polystore_ray.data",
        "import polystore_ray.testing.__main__",
        "from polystore_ray.ray_extra import needs_ray\nwith needs_ray('x'): import ray.data",
    ],
)
def test_what_needs_ray_says_so_and_names_the_extra(use: str) -> None:
    said = python(
        f"{WITHOUT_RAY}from polystore import MissingDependencyError\n"
        f"try:\n    exec({use!r})\n"
        "except MissingDependencyError as error: print(error)\n"
    )
    assert "needs the package 'ray" in said
    assert "in a clone of polystore-ray, pip install '.[" in said


def test_no_message_names_a_distribution_that_no_index_has() -> None:
    sources = [
        path for name in ("polystore", "polystore_ray") for path in (ROOT / name).rglob("*.py")
    ]
    assert len(sources) > 100
    assert [path for path in sources if "polystore-ray[" in path.read_text("utf-8")] == []


def test_the_install_page_lists_every_extra_for_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    page = (ROOT / "docs/install.rst").read_text("utf-8")
    extras = project["optional-dependencies"].keys() - {"bench", "docs", "fuzz", "tests"}
    assert [extra for extra in sorted(extras) if f"\n``{extra}``" not in page] == []


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (["ls"], "polystore: a command without --local needs the package 'ray'"),
        (["doctor"], "polystore: checks that failed: ray"),
        (["demo"], "error: the demo needs the package 'ray'"),
    ],
)
def test_a_command_that_needs_ray_fails_with_one_line(command: list[str], wanted: str) -> None:
    said = python(
        f"{WITHOUT_RAY}from polystore_ray.cli.__main__ import main\n"
        f"sys.argv = ['polystore', *{command!r}]; main()",
        code_is_ok=False,
    )
    assert said.splitlines()[-1].startswith(wanted)


def test_doctor_is_content_without_ray_where_it_is_not_needed() -> None:
    said = python(
        f"{WITHOUT_RAY}from polystore_ray.cli.__main__ import main\n"
        "sys.argv = ['polystore', '--local', 'doctor']; main()"
    )
    assert "no Ray" in said


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return a directory in which the project of PyPI seems to be installed."""
    (tmp_path / "polystore-0.1.2.dist-info").mkdir()
    return tmp_path


def test_another_project_beside_ours_is_noticed_at_import_and_by_doctor(other: Path) -> None:
    assert "UserWarning: the project polystore 0.1.2 of PyPI is installed too" in python(
        "import polystore_ray", other
    )
    said = python(
        "import sys; from polystore_ray.cli.__main__ import main\n"
        "sys.argv = ['polystore', '--local', 'doctor']; main()",
        other,
        code_is_ok=False,
    )
    assert "failure  packages" in said
    assert "pip uninstall polystore polystore-ray" in said


@pytest.mark.parametrize("content", ["", "from polystore.streaming import Viewer"])
def test_another_project_in_place_of_ours_is_named(other: Path, content: str) -> None:
    (other / "polystore").mkdir()
    (other / "polystore/__init__.py").write_text(content)
    said = python("import polystore_ray", other, code_is_ok=False)
    assert f"`import polystore` finds another project of that name, in {other}/polystore" in said
    assert "pip uninstall polystore polystore-ray" in said


def test_nothing_is_noticed_where_there_is_nothing() -> None:
    assert python("import polystore_ray") == ""

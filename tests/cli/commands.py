"""How the tests run ``polystore``: in this process where they can, else as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

from click.testing import CliRunner

from polystore_ray.cli.__main__ import polystore_command


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_locally(*arguments: object) -> Done:
    """Run a command in local mode, on the store of this process that is called ``cli``."""
    return run_here("--local", "--store", "cli", *arguments)


def run_here(*arguments: object) -> Done:
    """Run a command in this process, on the cluster that it is connected to."""
    given = list(map(str, arguments))
    result = CliRunner().invoke(polystore_command, given, prog_name="polystore")
    assert isinstance(result.exception, SystemExit | None), result.exc_info
    return Done(result.exit_code, result.stdout, result.stderr)


def run_alone(*arguments: object, **environment: str) -> Done:
    """Run a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "polystore_ray.cli", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def says_one_line(done: Done) -> str:
    """Return the one line that a command wrote to standard error, and nothing else anywhere."""
    assert done.out == ""
    assert done.err.startswith("polystore: ")
    assert done.err.endswith("\n")
    assert done.err.count("\n") == 1
    return done.err

"""``python -m polystore_ray.cli`` and ``polystore``: the command line with all its commands."""

from __future__ import annotations

from polystore_ray.cli import (
    doctor,
    dumping,
    files,
    finding,
    operating,
    page,
    transferring,
    watching,
)
from polystore_ray.cli.app import main, polystore_command

__all__ = ["main", "polystore_command"]

_COMMANDS = (
    *(operating.status, files.ls, files.tree, files.stat, finding.find, transferring.cp),
    *(transferring.put, transferring.get, transferring.mv, transferring.rm, files.cat),
    *(files.head, files.du, watching.watch, operating.lost, operating.why, dumping.dump),
    *(
        dumping.restore,
        dumping.verify,
        operating.drain,
        operating.shutdown,
        page.ui,
        operating.demo,
        doctor.doctor,
    ),
)
for command in _COMMANDS:
    polystore_command.add_command(command)

if __name__ == "__main__":
    main()

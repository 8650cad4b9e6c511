"""The report of a run of chaos: what was done, and which promises the histories show broken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from polystore_ray.testing.history import directory, histories
from polystore_ray.testing.linearizability import UNKNOWN, UndecidedError, explain

__all__ = ["Report"]


@dataclass
class Report:
    """The result of a run.

    Attributes
    ----------
    operations, unknown : int
        The number of operations of clients, and of those with an unknown outcome.
    faults : Counter
        The number of injected faults, by name.
    kept : int
        The number of reads that clients which lived to the end made without a call.
    directories, undecided : int
        The number of checked histories, and of those with too many possible orders to decide.
    notes : list of str
        Observations about Ray.
    violations : list of str
        Broken promises.
    """

    operations: int = 0
    unknown: int = 0
    kept: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    directories: int = 0
    undecided: int = 0
    notes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        made = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        notes = "".join(f"{note}\n" for note in self.notes)
        found = "\n".join(self.violations) or "nothing lost, undone, torn, late or left over"
        return (
            f"{self.operations} operations, {self.unknown} of unknown outcome\n"
            f"{self.kept} reads without a call\n"
            f"{self.faults.total()} faults: {made}\n"
            f"{self.directories} histories of directories checked for linearizability, "
            f"{self.undecided} undecided\n{notes}{found}"
        )

    def check(self, folder: Path) -> None:
        """Read what clients wrote into a directory, and check their histories."""
        for file in sorted(folder.glob("*.violations")):
            self.violations += file.read_text(encoding="utf-8").splitlines()
        for where, operations in sorted(histories(folder).items()):
            self.directories += 1
            self.operations += len(operations)
            self.unknown += sum(o.outcome == UNKNOWN for o in operations)
            try:
                found = explain(operations, directory, frozenset())
            except UndecidedError:
                self.undecided += 1
                continue
            if found:
                self.violations.append(f"no order explains {where}:\n{found}")

"""Run chaos: ``python -m polystore_ray.testing --seconds 60 --seed 1``.

The exit code is 1 if a value was lost, undone, torn, out of order, late or left over. Then the
histories of the clients are kept, and their directory is printed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

from polystore_ray.ray_extra import needs_ray

with needs_ray("chaos"):
    from polystore_ray.testing.chaos import Chaos
    from polystore_ray.testing.network_chaos import NetworkChaos
    from polystore_ray.testing.network_nodes import NetworkNodes
    from polystore_ray.testing.nodes import Nodes


def main(arguments: list[str] | None = None) -> int:
    """Run chaos, print the report, and return 1 if there are violations."""
    parser = argparse.ArgumentParser(prog="python -m polystore_ray.testing")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, help="default 4, or 3 with --network")
    parser.add_argument("--network", action="store_true", help="nodes in network namespaces")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--only", default="", help="only faults with one of these words")
    parser.add_argument("--report", type=Path, help="a file to write the report to")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore", ResourceWarning)  # of Ray's own cluster utilities
    folder = Path(tempfile.mkdtemp(prefix="polystore-chaos-"))
    nodes = chosen.nodes or (3 if chosen.network else 4)
    chaos = (
        NetworkChaos(folder, chosen.seed, NetworkNodes(nodes), chosen.clients)
        if chosen.network
        else Chaos(folder, chosen.seed, Nodes(nodes), chosen.clients)
    )
    try:
        kinds = [kind for kind in chaos.kinds() if _has_one(kind, chosen.only.split())]
        report = chaos.run(chosen.seconds, kinds)
    finally:
        chaos.close()
    found = (
        f"seed {chosen.seed}, {chosen.seconds:g} s, "
        f"{nodes} nodes, {chosen.clients} clients\n{report}\n"
    )
    sys.stdout.write(found)
    if chosen.report is not None:
        chosen.report.write_text(found, encoding="utf-8")
    if report.violations:
        sys.stdout.write(f"the histories of the clients are in {folder}\n")
        return 1
    shutil.rmtree(folder)
    return 0


def _has_one(kind: str, words: list[str]) -> bool:
    return not words or any(word in kind for word in words)


if __name__ == "__main__":
    sys.exit(main())

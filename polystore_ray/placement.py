"""Where actors live and what they are called: namespaces, names, nodes, and the life of jobs."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = [
    "CONTROLLER",
    "actor_options",
    "host_name",
    "job_is_dead",
    "store_namespace",
    "this_process",
]

CONTROLLER = "controller"


def this_process() -> tuple[str, str]:
    """Return the ids of the node and of the job that this process belongs to.

    Together they tell one connection to a cluster from the next.
    """
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()


def store_namespace(store: str, job: str | None) -> str:
    """Return the Ray namespace of a store's actors; one of its own for each job it is scoped to."""
    return f"polystore/{store}" if job is None else f"polystore/{store}/{job}"


def host_name(key: str, node: str) -> str:
    """Return the name of the actor that hosts a backend on a node."""
    return f"{key}@{node}"


def actor_options(namespace: str, name: str, node: str, *, movable: bool) -> dict[str, Any]:
    """Return the options of a store's actor.

    It is detached, since it must outlive the process that happened to need it first; it takes no
    CPU; and it is not restartable, since Ray's memory monitor picks restartable actors first.
    """
    return {
        "name": name,
        "namespace": namespace,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=movable),
    }


def job_is_dead(job: str) -> bool:
    """Tell whether a job's driver is gone, also after a SIGKILL.

    Ray has no public call for it that works without its dashboard; `ray._private.state.jobs` is
    read as it was in Ray 2.56 to 2.60.
    """
    jobs: list[dict[str, Any]] = ray._private.state.jobs()  # noqa: SLF001 - see above
    return any(known["JobID"] == job and known["IsDead"] for known in jobs)

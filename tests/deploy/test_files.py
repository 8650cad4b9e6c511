"""The files of ``cluster/`` are what those who read them take: Ray, Kubernetes, Docker, a shell.

Nothing here needs a network. KubeRay's own schema is in no package: what its resources say beside
their pods is checked with a small schema beside this file.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start

import polystore

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCHEMA = json.loads(Path(__file__).with_name("rayresource.schema.json").read_text())
AUTOSCALED = ("aws.yaml", "on-premise.yaml")
KUBERAY = ("raycluster.yaml", "rayjob.yaml")
KUBERNETES = kubernetes_validate.latest_version()
TLS = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
FREED_EVERY = "RAY_free_objects_period_milliseconds"
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
TOOLS = Path(sys.executable).parent


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def run(*command: object, given: str | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], input=given, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def started(options: list[str]) -> dict[str, Any]:
    """Return what ``ray start`` understands, which is the judge of its options."""
    return ray_start.make_context("start", list(options)).params


def in_bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMG]i)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


# Ray's autoscaler


def start_commands(config: dict[str, Any]) -> Iterator[str]:
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        commands = config[kind]
        assert commands[0] == "ray stop"
        yield from commands[1:]


@pytest.mark.parametrize("name", AUTOSCALED)
def test_ray_takes_the_configuration_of_its_autoscaler(name: str) -> None:
    [config] = documents(name)
    validate_config(prepare_config(copy.deepcopy(config)))
    broken = prepare_config(copy.deepcopy(config)) | {"no_such_field": 1}
    with pytest.raises(jsonschema.ValidationError):
        validate_config(broken)


@pytest.mark.parametrize("name", AUTOSCALED)
def test_every_node_starts_with_token_tls_and_sizes_that_ray_start_knows(name: str) -> None:
    [config] = documents(name)
    for command in start_commands(config):
        exports, _, start = command.partition(";")
        set_to = dict(part.split("=", 1) for part in shlex.split(exports)[1:])
        assert (set_to["RAY_AUTH_MODE"], set_to["RAY_USE_TLS"]) == ("token", "1")
        mounted = [*config["file_mounts"]]
        for variable in ("RAY_AUTH_TOKEN_PATH", *TLS):
            assert any(set_to[variable].startswith(place) for place in mounted)
        assert set_to[FREED_EVERY] == "100"
        words = shlex.split(start)
        assert words[:2] == ["ray", "start"]
        params = started(words[2:])
        assert params["object_store_memory"] > 10**9
        assert params["object_spilling_directory"]
        assert params["metrics_export_port"] == 8080


@pytest.mark.parametrize("name", AUTOSCALED)
def test_a_shell_finds_no_fault_in_the_commands(name: str) -> None:
    [config] = documents(name)
    for command in (*config["setup_commands"], *start_commands(config)):
        run(TOOLS / "shellcheck", "--shell=bash", "--exclude=SC2088", "-", given=f"{command}\n")


# KubeRay


def ray_resource(name: str) -> tuple[Any, Any]:
    """Return a resource of KubeRay, and the specification of the cluster in it."""
    resource, *_ = documents(f"kuberay/{name}")
    spec = resource["spec"]
    return resource, spec if resource["kind"] == "RayCluster" else spec["rayClusterSpec"]


def groups(spec: Any) -> Iterator[Any]:
    yield spec["headGroupSpec"]
    yield from spec["workerGroupSpecs"]


@pytest.mark.parametrize("name", KUBERAY)
def test_a_resource_of_kuberay_has_only_fields_that_we_know(name: str) -> None:
    resource, spec = ray_resource(name)
    jsonschema.validate(resource, SCHEMA)
    spec["headGroupSpec"]["replicas"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(resource, SCHEMA)


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_takes_every_pod_and_every_other_resource(name: str) -> None:
    _, spec = ray_resource(name)
    for group in groups(spec):
        template = group["template"]
        metadata = {"name": "pod", **template.get("metadata", {})}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        pod["spec"]["containers"][0]["readinesProbe"] = {}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    _, *others = documents(f"kuberay/{name}")
    for other in others:
        kubernetes_validate.validate(other, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", KUBERAY)
def test_every_pod_has_tls_probes_and_room_for_store_and_spill(name: str) -> None:
    _, spec = ray_resource(name)
    for group in groups(spec):
        params = started([f"--{key}={value}" for key, value in group["rayStartParams"].items()])
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        assert environment["RAY_USE_TLS"] == "1"
        assert set(TLS) < set(environment)
        assert container["readinessProbe"]["exec"]["command"] == ["ray", "health-check"]
        assert container["livenessProbe"]["failureThreshold"] > 3
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        shared = volumes[mounts["/dev/shm"]]["emptyDir"]
        assert shared["medium"] == "Memory"
        limits = container["resources"]["limits"]
        assert params["object_store_memory"] < in_bytes(shared["sizeLimit"])
        assert in_bytes(shared["sizeLimit"]) < in_bytes(limits["memory"])
        spill = volumes[mounts[params["object_spilling_directory"]]]["emptyDir"]
        assert in_bytes(spill["sizeLimit"]) < in_bytes(limits["ephemeral-storage"])


# Docker


def test_compose_is_what_the_specification_says() -> None:
    checker = TOOLS / "check-jsonschema"
    run(checker, "--builtin-schema", "vendor.compose-spec", CLUSTER / "compose.yaml")
    has_compose = (
        shutil.which("docker")
        and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    )
    if has_compose:
        run("docker", "compose", "-f", CLUSTER / "compose.yaml", "config", "--quiet")


def test_every_service_has_token_tls_health_and_room_for_its_store() -> None:
    [compose] = documents("compose.yaml")
    for service in compose["services"].values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_USE_TLS"] == "1"
        assert set(service["secrets"]) == set(compose["secrets"])
        for variable in ("RAY_AUTH_TOKEN_PATH", *TLS):
            assert Path(service["environment"][variable]).name in service["secrets"]
        assert service["healthcheck"]["test"][:3] == ["CMD", "ray", "health-check"]
        command = service["command"]
        params = started(command[2:])
        assert params["block"]
        assert params["object_store_memory"] < int(service["shm_size"].removesuffix("gb")) * 10**9
        spill = params["object_spilling_directory"]
        assert any(volume.rpartition(":")[2] == spill for volume in service["volumes"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_dockerfile_has_no_fault_and_copies_what_there_is() -> None:
    dockerfile = CLUSTER / "Dockerfile"
    run(TOOLS / "hadolint", dockerfile)
    for line in dockerfile.read_text().splitlines():
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    assert f"{FREED_EVERY}=100" in dockerfile.read_text()


def test_ray_knows_how_often_to_free() -> None:
    """It takes any name without a word."""
    raylet = Path(ray.__file__).parent / "core/src/ray/raylet/raylet"
    assert FREED_EVERY.removeprefix("RAY_").encode() in raylet.read_bytes()


# Versions


def test_all_files_name_this_version_and_the_version_of_ray_that_is_tested() -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
    )
    ours, tested = polystore.__version__, pinned["ray"]
    for file in CLUSTER.rglob("*"):
        if file.suffix in (".yaml", "") and file.is_file():
            text = file.read_text()
            assert {ours} >= set(re.findall(r"polystore-ray(?:==|:)([\d.]+\d)", text)), file
            wanted = re.findall(r"ray\[default\]==([\d.]+\d)|rayVersion: \"([\d.]+)\"", text)
            assert {tested} >= {a or b for a, b in wanted}, file

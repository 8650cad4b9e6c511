"""The files of ``cluster/`` are what those who read them take: Ray, Kubernetes, Docker, a shell.

Nothing here needs a network. KubeRay's own schema is in no package: what its resources say beside
their pods is checked with a small schema beside this file.
"""

from __future__ import annotations

import copy
import ipaddress
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
def test_the_wheel_that_make_dist_builds_is_installed(name: str) -> None:
    [config] = documents(name)
    [place] = [place for place, source in config["file_mounts"].items() if source == "dist"]
    wheel = f"{place}/polystore_ray-{polystore.__version__}-py3-none-any.whl"
    assert wheel in shlex.split(config["setup_commands"][0])


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


def pod_templates(name: str) -> Iterator[Any]:
    """Yield the templates of all pods that a file leads to."""
    resource, spec = ray_resource(name)
    yield from (group["template"] for group in groups(spec))
    if "submitterPodTemplate" in resource["spec"]:
        yield resource["spec"]["submitterPodTemplate"]
    for other in documents(f"kuberay/{name}")[1:]:
        if other["kind"] == "StatefulSet":
            yield other["spec"]["template"]


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
    for template in pod_templates(name):
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


@pytest.mark.parametrize("name", KUBERAY)
def test_every_pod_keeps_to_the_restricted_security_standard(name: str) -> None:
    for template in pod_templates(name):
        assert list(breaches(template["spec"])) == []


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        (("automountServiceAccountToken",), True),
        (("securityContext", "runAsNonRoot"), False),
        (("securityContext", "runAsUser"), 0),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}),
        (("hostNetwork",), True),
        (("containers", 0, "securityContext"), {}),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True),
        (("containers", 0, "securityContext", "capabilities"), {"drop": ["NET_RAW"]}),
        (("containers", 0, "securityContext", "privileged"), True),
        (("containers", 0, "resources", "limits"), {}),
        (("volumes", 0), {"name": "host", "hostPath": {"path": "/"}}),
    ],
)
def test_each_rule_of_the_standard_is_checked(where: tuple[Any, ...], wrong: Any) -> None:
    _, spec = ray_resource("raycluster.yaml")
    pod = copy.deepcopy(spec["headGroupSpec"]["template"]["spec"])
    *way, last = where
    place = pod
    for step in way:
        place = place[step]
    place[last] = wrong
    assert list(breaches(pod))


def breaches(pod: Any) -> Iterator[str]:
    """Yield what is against the restricted standard, and what more we want of a pod."""
    if pod.get("automountServiceAccountToken") is not False:
        yield "the service account's token is mounted"
    if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "a namespace of the host"
    of_pod = pod.get("securityContext", {})
    if of_pod.get("runAsNonRoot") is not True or not of_pod.get("runAsUser"):
        yield "it may be root"
    if of_pod.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "any system call"
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        yield from container_breaches(container.get("securityContext", {}))
        if "memory" not in container.get("resources", {}).get("limits", {}):
            yield "memory without a limit"
        secrets = [variable["name"] for variable in container.get("env", [])]
        if any("PASSWORD" in name or "TOKEN" in name for name in secrets):
            yield "a secret in the environment"
    allowed = {"configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim"}
    for volume in pod.get("volumes", []):
        if set(volume) - {"name"} - allowed:
            yield f"a volume of {sorted(set(volume) - {'name'})}"


def container_breaches(security: Any) -> Iterator[str]:
    if security.get("allowPrivilegeEscalation") is not False:
        yield "more privileges"
    if security.get("capabilities", {}).get("drop") != ["ALL"] or "add" in security["capabilities"]:
        yield "capabilities"
    if security.get("privileged"):
        yield "privileged"


def test_only_the_autoscaler_speaks_with_kubernetes() -> None:
    _, spec = ray_resource("raycluster.yaml")
    options = spec["autoscalerOptions"]
    assert list(container_breaches(options["securityContext"])) == []
    [mount] = options["volumeMounts"]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    for group in groups(spec):
        for container in group["template"]["spec"]["containers"]:
            assert mount["name"] not in {m["name"] for m in container["volumeMounts"]}


@pytest.mark.parametrize("name", KUBERAY)
def test_every_pod_is_under_a_policy_that_names_who_may_reach_it_and_whom_it_reaches(
    name: str,
) -> None:
    policies = [d["spec"] for d in documents(f"kuberay/{name}") if d["kind"] == "NetworkPolicy"]
    for template in pod_templates(name):
        # KubeRay gives its pods the name of their cluster.
        labels = {"ray.io/cluster": "polystore", **template["metadata"]["labels"]}
        assert any(is_selected(labels, policy["podSelector"]) for policy in policies)
    for policy in policies:
        assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
        for rule in policy.get("ingress", []):
            assert rule["from"]
            for peer in rule["from"]:
                assert peer.get("namespaceSelector") != {}, "any namespace"
                assert any(peer["podSelector"].values()), "any pod"
            from_here = all("namespaceSelector" not in peer for peer in rule["from"])
            assert from_here or rule["ports"], "others reach every port"
        for rule in policy.get("egress", []):
            assert rule.get("to") or rule.get("ports"), "anything anywhere"
            for peer in rule.get("to", []):
                block = peer.get("ipBlock")
                assert block is None or "169.254.0.0/16" in block["except"]


def is_selected(labels: dict[str, str], selector: Any) -> bool:
    chosen = selector.get("matchLabels", {}).items() <= labels.items()
    return chosen and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", [])
    )


def test_the_control_store_of_kuberay_is_a_redis_that_asks_for_a_password_and_keeps_its_data() -> (
    None
):
    _, *others = documents("kuberay/raycluster.yaml")
    _, spec = ray_resource("raycluster.yaml")
    options = spec["gcsFaultToleranceOptions"]
    name, _, port = options["redisAddress"].partition(":")
    [service] = [other for other in others if other["kind"] == "Service"]
    [redis] = [other for other in others if other["kind"] == "StatefulSet"]
    assert (service["metadata"]["name"], service["spec"]["ports"][0]["port"]) == (name, int(port))
    template = redis["spec"]["template"]
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    secret = options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"]
    assert {"name": "secret", "secret": {"secretName": secret}} in template["spec"]["volumes"]
    [container] = template["spec"]["containers"]
    assert all(word in container["args"][0] for word in ("requirepass", "appendonly yes"))
    [claim] = redis["spec"]["volumeClaimTemplates"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == "/data"


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


def services() -> dict[str, Any]:
    [compose] = documents("compose.yaml")
    found: dict[str, Any] = compose["services"]
    return found


@pytest.mark.parametrize("name", ["head", "worker"])
def test_every_node_has_token_tls_health_and_room_for_its_store(name: str) -> None:
    service = services()[name]
    assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert service["environment"]["RAY_USE_TLS"] == "1"
    for variable in ("RAY_AUTH_TOKEN_PATH", *TLS):
        assert Path(service["environment"][variable]).name in service["secrets"]
    assert service["healthcheck"]["test"][:3] == ["CMD", "ray", "health-check"]
    params = started(ray_start_of(service)[2:])
    assert params["block"]
    assert params["object_store_memory"] < int(service["shm_size"].removesuffix("gb")) * 10**9
    spill = params["object_spilling_directory"]
    assert any(volume.rpartition(":")[2] == spill for volume in service["volumes"])
    # A new volume has the owner that its directory has in the image.
    assert f"-o ray -g ray -m 700 {spill}" in (CLUSTER / "Dockerfile").read_text()


def ray_start_of(service: Any) -> list[str]:
    command: list[str] = service["command"]
    if command[0] == "sh":
        # As compose and then the shell read it.
        command = shlex.split(command[2].replace("$$", "$"))[1:]
    assert command[:2] == ["ray", "start"]
    return command


def test_every_container_has_no_capability_no_way_to_more_and_bounds() -> None:
    [compose] = documents("compose.yaml")
    for service in services().values():
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert "privileged" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["pids_limit"] > 0
        assert service["mem_limit"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert not any(volume.startswith((".", "~")) for volume in service["volumes"])
        assert set(service["secrets"]) <= set(compose["secrets"])


def test_the_head_keeps_its_control_store_in_a_redis_that_only_it_reaches() -> None:
    [compose] = documents("compose.yaml")
    found = services()
    head, redis, worker = found["head"], found["redis"], found["worker"]
    assert head["environment"]["RAY_REDIS_ADDRESS"] == "redis:6379"
    assert "$(cat /run/secrets/redis_password)" in " ".join(ray_start_of(head))
    [network] = redis["networks"]
    assert compose["networks"][network]["internal"] is True
    assert network in head["networks"]
    assert network not in worker["networks"]
    assert "redis_password" not in worker["secrets"]
    [addresses] = compose["networks"]["nodes"]["ipam"]["config"]
    address = ipaddress.ip_address(head["networks"]["nodes"]["ipv4_address"])
    assert address in ipaddress.ip_network(addresses["subnet"])
    assert address not in ipaddress.ip_network(addresses["ip_range"])
    assert "ports" not in redis
    assert all(word in redis["command"][2] for word in ("requirepass", "appendonly yes"))
    assert int(worker["environment"]["RAY_gcs_rpc_server_reconnect_timeout_s"]) > 60
    # The shell finds no fault in its commands.
    for service in (head, redis):
        script = service["command"][2].replace("$$", "$") + "\n"
        run(TOOLS / "shellcheck", "--shell=sh", "-", given=script)


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

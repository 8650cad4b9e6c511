"""The dashboard and the alert rules ask only for metrics that are there, in PromQL that parses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import ray
import yaml
from ray.util.metrics import Metric

from polystore_ray import errors
from polystore_ray.rayapi.metrics import _Metrics, counted

CLUSTER = Path(__file__).parents[2] / "cluster"
REPORTER = Path(ray.__file__).with_name("dashboard") / "modules/reporter/reporter_agent.py"
RAYLET = Path(ray.__file__).with_name("core") / "src/ray/raylet/raylet"
EXPORTED = re.compile(r"ray_(\w+)")


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((CLUSTER / "grafana.json").read_text())["panels"]
    return found


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((CLUSTER / "alerts.yaml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> Iterator[str]:
    for panel in panels():
        for target in panel["targets"]:
            # What Grafana puts in for its own variables.
            yield target["expr"].replace("$__rate_interval", "1m").replace("$store", ".*")
    for rule in rules():
        yield rule["expr"]


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            found.append(part)

    promql_parser.walk(promql_parser.parse(expression), visit)
    yield from found


def our_series() -> dict[str, set[str]]:
    """Return the series that Prometheus has of our metrics, with their labels."""
    metrics = _Metrics()
    series = {}
    for metric in (metrics.errors, metrics.bytes):
        series[f"ray_{metric._name}_total"] = set(metric._tag_keys)
    for ending in ("bucket", "count", "sum"):
        labels = set(metrics.seconds._tag_keys) | {"le"}
        series[f"ray_{metrics.seconds._name}_{ending}"] = labels
    series |= {f"ray_{gauge._name}": {"store"} for gauge in metrics.contents.values()}
    return series


@pytest.mark.parametrize("expression", list(expressions()))
def test_an_expression_parses_and_asks_for_what_there_is(expression: str) -> None:
    ours, of_ray = our_series(), RAYLET.read_bytes() + REPORTER.read_bytes()
    asked = list(selectors(expression))
    assert asked
    for selector in asked:
        name = selector.name
        assert name is not None
        if name.startswith("ray_polystore"):
            assert {m.name for m in selector.matchers.matchers} <= ours[name]
            grouped = re.findall(r"by \(([^)]*)\)", expression)
            assert {label.strip() for by in grouped for label in by.split(",")} <= ours[name]
        else:
            assert name.removeprefix("ray_").encode() in of_ray


def test_every_metric_of_ours_is_shown() -> None:
    shown = {s.name for expression in expressions() for s in selectors(expression)}
    bases = {re.sub("_bucket$|_count$|_sum$", "", name) for name in our_series()}
    assert bases <= {re.sub("_bucket$|_count$|_sum$", "", str(name)) for name in shown}


def test_what_a_controller_counts_is_reported_of_its_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded: dict[str, float] = {}

    def record(self: Metric, value: float, tags: dict[str, str]) -> None:
        assert tags == {"store": "plates"}
        recorded[self._name] = value

    monkeypatch.setattr(Metric, "_record", record)
    counted("plates", {"files": 5, "bytes": 80, "lost": 1, "too_few_replicas": 2, "calls": 3})
    assert recorded == {
        "polystore_files": 5,
        "polystore_held_bytes": 80,
        "polystore_lost": 1,
        "polystore_too_few_replicas": 2,
    }


def test_a_death_that_costs_values_raises_alerts() -> None:
    said = {rule["alert"]: rule for rule in rules()}
    assert said["PolystoreDataLost"]["expr"].endswith("(ray_polystore_lost) > 0")
    assert "polystore_too_few_replicas" in said["PolystoreTooFewReplicas"]["expr"]
    for rule in ("PolystoreDataLost", "PolystoreTooFewReplicas"):
        assert "polystore --store" in said[rule]["annotations"]["description"]


def test_every_error_that_a_rule_names_is_one_of_ours() -> None:
    from polystore import exceptions

    for expression in expressions():
        for names in re.findall(r'error=~?"([^"]+)"', expression):
            for name in names.split("|"):
                assert hasattr(errors, name) or hasattr(exceptions, name), name


def test_panels_do_not_overlap_and_have_what_a_reader_needs() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_a_full_disk_of_spilled_objects_raises_an_alert_before_and_when_saves_fail() -> None:
    said = {rule["alert"]: rule for rule in rules()}
    assert "StorageFullError|StorageWriteError" in said["PolystoreFull"]["expr"]
    assert "`df`" in said["PolystoreFull"]["annotations"]["description"]
    assert "ray_node_disk_utilization" in said["PolystoreSpillDiskNearlyFull"]["expr"]


def test_every_rule_says_how_grave_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert promql_parser.parse(rule["expr"])

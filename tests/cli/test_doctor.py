"""Doctor: each check turns facts into a verdict and, where something is wrong, a cure."""

from __future__ import annotations

import pytest
import zarr

from polystore.zarr.array.pipelines import pipeline_in_use
from polystore_ray.cli import doctor
from polystore_ray.cli.doctor import Finding

GIB = 2**30
HERE = doctor._Machine(("3.12.0", "2.60.0", "0.1.0"), 8 * GIB, 100.0, True)
OLD = doctor._Machine(("3.12.0", "2.56.0", "0.1.0"), 8 * GIB, 100.0, True)


@pytest.mark.parametrize(
    ("finding", "verdict", "cure"),
    [
        (doctor._check_versions("a", HERE, HERE), "ok", ""),
        (doctor._check_versions("a", OLD, HERE), "failure", "same versions"),
        (doctor._check_memory("a", GIB, 2 * GIB), "ok", ""),
        (doctor._check_memory("a", GIB, None), "ok", ""),
        (doctor._check_memory("a", 2 * GIB, GIB), "failure", "--object-store-memory"),
        (doctor._check_memory("a", GIB // 8, GIB), "warning", "--object-store-memory"),
        (doctor._check_freeing("a", True), "ok", ""),
        (doctor._check_freeing("a", False), "warning", "RAY_free_objects_period_milliseconds"),
        (doctor._check_clock("a", -0.2, -0.1), "ok", ""),
        (doctor._check_clock("a", 5.0, -7.0), "warning", "synchronize"),
        (doctor._check_clock("a", -5.0, 3.0), "warning", "synchronize"),
        (doctor._check_actors([]), "ok", ""),
        (doctor._check_actors(["a", "b", "c", "d"]), "warning", "`ray status`"),
        (doctor._check_control_store("redis"), "ok", ""),
        (doctor._check_control_store("memory"), "warning", "RAY_REDIS_ADDRESS"),
        (doctor._check_control_store(None), "warning", "RAY_REDIS_ADDRESS"),
        (doctor._check_values("a", 0, 0, "polystore"), "ok", ""),
        (doctor._check_values("a", 0, 2, "polystore"), "warning", "add nodes"),
        (doctor._check_values("a", 3, 2, "polystore"), "failure", "`polystore lost`"),
        (doctor._check_head("a", []), "ok", ""),
        (doctor._check_head("a", ["the head has it: use Redis"]), "warning", "use Redis"),
        (doctor._check_authentication("token"), "ok", ""),
        (doctor._check_authentication("disabled"), "warning", "RAY_AUTH_MODE=token"),
        (doctor._check_encryption(is_on=True), "ok", ""),
        (doctor._check_encryption(is_on=False), "warning", "RAY_USE_TLS=1"),
    ],
)
def test_a_check_returns_a_verdict_and_a_cure(finding: Finding, verdict: str, cure: str) -> None:
    assert finding.verdict == verdict
    assert cure in finding.cure
    assert bool(finding.cure) == (verdict != "ok")


def test_the_pipeline_of_zarr_is_named() -> None:
    seen = doctor._check_zarr().seen
    assert f"zarr {zarr.__version__}, pipeline {pipeline_in_use()!r} " in seen

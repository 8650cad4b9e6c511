"""The option ``pipeline=`` of the zarr backend: which pipeline arrays have, and what they hold."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr

from polystore import MissingDependencyError, ZarrBackend
from polystore.exceptions import VFSTypeError
from polystore.zarr.array import pipelines
from polystore.zarr.array.pipelines import Pipeline, pipeline_in_use

INSTALLED: list[Pipeline] = ["zarr"]
if pipeline_in_use() == "fused":
    INSTALLED.append("fused")
if find_spec("zarrs"):
    INSTALLED.append("zarrs")
CLASSES = {
    "zarr": "BatchedCodecPipeline",
    "fused": "FusedCodecPipeline",
    "zarrs": "ZarrsCodecPipeline",
}
VALUES = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30)
KINDS: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (8, 7)},
    "shards": {"chunks": (4, 5), "shards": (16, 10)},
    "uncompressed": {"chunks": (8, 8), "compressors": None},
}


@pytest.fixture(autouse=True)
def _configuration() -> Iterator[None]:
    """Check that nothing here changes what the user configured."""
    before = pickle.dumps(zarr.config.config)
    yield
    assert pickle.dumps(zarr.config.config) == before


def pipeline_of(array: Any) -> str:
    return type(array.async_array.codec_pipeline).__name__


@pytest.mark.parametrize("pipeline", INSTALLED)
@pytest.mark.parametrize(("kind", "of"), [*((kind, 3) for kind in KINDS), ("chunks", 2)])
def test_every_pipeline_stores_and_changes_an_array(
    tmp_path: Path, pipeline: Pipeline, kind: str, of: Literal[2, 3]
) -> None:
    backend = ZarrBackend(tmp_path, pipeline=pipeline, zarr_format=of)
    configured = ZarrBackend(tmp_path, pipeline="zarr")
    backend.save(VALUES, "/a", **KINDS[kind])
    region = (slice(3, 21), slice(5, 30))
    for reader in (backend, configured):
        assert (reader.load("/a") == VALUES).all()
        assert (reader.load("/a", region=region) == VALUES[region]).all()
    backend.save(VALUES[region] + 1, "/a", region=region)
    assert backend.append(VALUES, "/a") == 40
    expected = np.concatenate([VALUES, VALUES])
    expected[region] += 1
    for reader in (backend, configured):
        assert (reader.load("/a") == expected).all()
    backend.resize("/a", (50, 20))
    assert (configured.load("/a") == expected[:50, :20]).all()


@pytest.mark.parametrize("pipeline", INSTALLED)
def test_what_is_opened_has_the_pipeline_also_in_a_group_and_in_another_process(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    backend = ZarrBackend(tmp_path, pipeline=pipeline)
    backend.save(VALUES, "/p/q/a", parents=True)
    group: Any = pickle.loads(pickle.dumps(backend.open("/p")))
    [(_, inner)] = group.groups()
    for array in (backend.open("/p/q/a"), group["q/a"], inner["a"], *inner.array_values()):
        assert pipeline_of(array) == CLASSES[pipeline]
        assert (array[...] == VALUES).all()
        assert (pickle.loads(pickle.dumps(array))[...] == VALUES).all()


def test_by_default_an_array_has_the_fastest_safe_pipeline(tmp_path: Path) -> None:
    backend = ZarrBackend(tmp_path)
    backend.save(VALUES, "/a")
    fastest = "fused" if hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline") else "zarr"
    assert pipeline_of(backend.open("/a")) == CLASSES[fastest]


def test_the_user_may_have_the_pipeline_that_is_configured(tmp_path: Path) -> None:
    class Configured(zarr.core.codec_pipeline.BatchedCodecPipeline):
        pass

    zarr.registry.register_pipeline(Configured)
    ZarrBackend(tmp_path).save(VALUES, "/a")
    name = f"{Configured.__module__}.{Configured.__qualname__}"
    with zarr.config.set({"codec_pipeline.path": name}):
        opened = ZarrBackend(tmp_path, pipeline="zarr").open("/a")
        assert pipeline_of(opened) == "Configured"


def test_an_unknown_pipeline_and_one_that_is_not_installed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown: Any = "zars"
    with pytest.raises(VFSTypeError, match=r"'fused'.* not 'zars'"):
        ZarrBackend(tmp_path, pipeline=unknown)
    monkeypatch.setattr(pipelines, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="the extra 'zarrs' brings it"):
        ZarrBackend(tmp_path, pipeline="zarrs")
    monkeypatch.setattr(pipelines, "_Fused", None)
    with pytest.raises(MissingDependencyError, match=r"zarr 3\.3 or later"):
        ZarrBackend(tmp_path, pipeline="fused")

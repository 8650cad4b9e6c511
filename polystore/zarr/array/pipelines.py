"""The codec pipeline of an array: what reads, decodes, encodes and writes its chunks.

zarr takes the pipeline that `zarr.config` names, for every array of the process. Here one array
gets a pipeline, and the configuration of the process stays as it is.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, get_args

import zarr
import zarr.core.codec_pipeline
from zarr.codecs._v2 import V2Codec
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata
from zarr.storage import LocalStore

from polystore.exceptions import MissingDependencyError, VFSTypeError

__all__ = ["Pipeline", "check_pipeline", "pipeline_in_use", "with_pipeline"]

Pipeline = Literal["auto", "zarr", "fused", "zarrs"]

_Fused: Any = getattr(zarr.core.codec_pipeline, "FusedCodecPipeline", None)


def check_pipeline(pipeline: str) -> None:
    """Refuse what is no pipeline, and a pipeline whose package is not installed."""
    if pipeline not in get_args(Pipeline):
        names = ", ".join(map(repr, get_args(Pipeline)))
        raise VFSTypeError(f"pipeline is one of {names}, not {pipeline!r}")
    if pipeline == "fused" and _Fused is None:
        raise MissingDependencyError(
            f"pipeline='fused' needs zarr 3.3 or later, and this is zarr {zarr.__version__}"
        )
    if pipeline == "zarrs" and find_spec("zarrs") is None:
        raise MissingDependencyError(
            "pipeline='zarrs' needs the package 'zarrs': pip install 'polystore-ray[zarrs]'"
        )


def pipeline_in_use(pipeline: Pipeline = "auto") -> Pipeline:
    """Return the pipeline that ``"auto"`` stands for here; any other one stands for itself."""
    if pipeline == "auto":
        return "zarr" if _Fused is None else "fused"
    return pipeline


def with_pipeline(
    array: zarr.Array[Any], pipeline: Pipeline, directory: str | None = None
) -> zarr.Array[Any]:
    """Return an array that was just opened or created, changed to another pipeline.

    - `pipeline`: ``"zarr"`` is the one that `zarr.config` names
    - `directory`: that of the array's store; without it, ``"zarrs"`` means ``"auto"``
    """
    metadata = array.async_array.metadata
    if pipeline == "zarrs" and directory is not None:
        made = _zarrs(metadata, directory)
    elif pipeline != "zarr" and _Fused is not None:
        made = _fused(metadata)
    else:
        return array
    # A field of a frozen dataclass, which zarr itself fills in this way.
    object.__setattr__(array.async_array, "codec_pipeline", made)
    return array


def _fused(metadata: ArrayV2Metadata | ArrayV3Metadata) -> Any:
    """Return what zarr makes of these metadata if its configuration names this pipeline."""
    if isinstance(metadata, ArrayV2Metadata):
        codecs: Any = (V2Codec(filters=metadata.filters, compressor=metadata.compressor),)
        config = ArrayConfig.from_dict({"order": metadata.order})
    else:
        codecs, config = metadata.codecs, ArrayConfig.from_dict({})
    shape = (1,) * len(metadata.shape)  # each chunk brings its own
    spec = ArraySpec(shape, metadata.dtype, metadata.fill_value, config, default_buffer_prototype())
    return _Fused.from_codecs(codecs).evolve_from_array_spec(spec)


def _zarrs(metadata: ArrayV2Metadata | ArrayV3Metadata, directory: str) -> Any:
    from zarrs import ZarrsCodecPipeline

    store = LocalStore(directory)
    return ZarrsCodecPipeline.from_array_metadata_and_store(metadata, store)

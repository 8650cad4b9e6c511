"""How a zarr array is created, and what it keeps of the array whose place it takes."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, TransposeCodec

from polystore.exceptions import StorageError, UnsupportedFormatError, VFSTypeError
from polystore.fitting import refuse_mask
from polystore.formats import format_of, known_suffixes
from polystore.paths import P
from polystore.region import chunk_shape
from polystore.zarr.array.pipelines import Pipeline, with_pipeline
from polystore.zarr.array.reading import NESTED, Encoding

__all__ = ["DEFAULTS", "ArrayOptions", "ZarrFormat", "as_numbers", "check_file", "create"]

_KINDS = "biufc"  # numbers, which every reader of zarr knows
ZarrFormat = Literal[2, 3]

_LARGEST_KEPT = 2**31  # bytes of a chunk or a shard, as of the largest that Blosc compresses
_XARRAY_NAMES = "_ARRAY_DIMENSIONS"  # of the attribute by which xarray names the axes in format 2


@dataclass(frozen=True, slots=True)
class ArrayOptions:
    """How an array is stored; each option as `zarr.create_array` takes it.

    What is left out is that of the array that is replaced, where it fits.

    - `chunks`, `shards`: shapes; by default chunks of about 1 MiB, and no shards
    - `compressors`, `filters`: codecs
    - `fill_value`: the value of chunks that were never written
    - `attributes`: the array's attributes
    - `dimension_names`: the names of its axes
    - `zarr_format`: the format where no group has one yet
    - `like`: the array of which a new one keeps what is left out, if it takes the place of none
    """

    chunks: tuple[int, ...] | None = None
    shards: tuple[int, ...] | None = None
    compressors: Any = "auto"
    filters: Any = "auto"
    fill_value: Any = None
    attributes: Mapping[str, Any] | None = None
    dimension_names: Sequence[str | None] | None = None
    zarr_format: ZarrFormat | None = None
    like: zarr.Array[Any] | None = None

    def check_none_given(self, path: P) -> None:
        """Refuse options of a save into an array that is there."""
        names = [option.name for option in fields(self)]
        given = [name for name in names if getattr(self, name) is not getattr(DEFAULTS, name)]
        if given:
            raise UnsupportedFormatError(
                f"{', '.join(f'{name}=' for name in given)} are for new arrays, and region= writes "
                f"into one that is there",
                path=str(path),
                backend="zarr",
            )


DEFAULTS = ArrayOptions()


def as_numbers(data: Any) -> np.ndarray[Any, Any] | None:
    """Return `data` as the array that zarr stores, None for anything but an array of numbers."""
    if np.ma.isMaskedArray(data):
        refuse_mask(data)
    if not isinstance(data, np.ndarray | np.generic):
        return None
    array = np.asarray(data)
    return array if array.dtype.kind in _KINDS else None


def check_file(data: Any, name: str) -> None:
    """Raise an error that says why a value that is not an array of numbers cannot be stored.

    Raises `UnsupportedFormatError` if the suffix is not one of a file format either.
    """
    try:
        format_of(name)
    except UnsupportedFormatError:
        is_array = isinstance(data, np.ndarray | np.generic)
        kind = f"dtype {data.dtype}" if is_array else f"a {type(data).__name__}"
        suffix = ".npy" if is_array else ".json"
        raise UnsupportedFormatError(
            f"only booleans and numbers are saved as zarr arrays, not {kind}; use a suffix such as "
            f"{suffix} to save it as a file (the known ones are {', '.join(known_suffixes())})"
        ) from None


def create(
    store: Store | str,
    array: np.ndarray[Any, Any],
    options: ArrayOptions,
    *,
    zarr_format: ZarrFormat = 3,
    replaced: zarr.Array[Any] | None = None,
    encoding: Encoding | None = None,
    pipeline: Pipeline = "zarr",
    directory: str | None = None,
) -> None:
    """Write a new array into an empty store.

    - `store`: where; a directory, or a store of this array alone
    - `zarr_format`: the format of the group that it is in
    - `replaced`: the array whose place it takes: what the options leave open stays as it was there
    - `encoding`: how the keys of its chunks are made
    - `pipeline`, `directory`: as for `with_pipeline`

    Raises `UnsupportedFormatError` if zarr refuses the options; the error names the one.
    """
    like = options.like if replaced is None else replaced
    given = _given(options, array.ndim, zarr_format)
    described = {"shape": array.shape, "dtype": array.dtype, "zarr_format": zarr_format}
    try:
        kept = {} if like is None else _kept(like, array, given, zarr_format)
        if encoding is not None:
            kept["chunk_key_encoding"] = encoding
        chosen = _completed(kept | given, array, zarr_format)
        created = zarr.create_array(store=store, **described, **chosen)
        if array.size:
            with_pipeline(created, pipeline, directory)[...] = array
    except StorageError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        refused = _refused(given, array, described) or "the array"
        raise UnsupportedFormatError(f"zarr refused {refused}: {error}") from error


def _completed(
    chosen: dict[str, Any], array: np.ndarray[Any, Any], zarr_format: ZarrFormat
) -> dict[str, Any]:
    """Return options with what is left to choose."""
    chosen = dict(chosen)
    if "chunks" not in chosen:
        chosen["chunks"] = _chunks(array.shape, array.dtype.itemsize, chosen.get("shards"))
    if zarr_format == 2:
        chosen.setdefault("chunk_key_encoding", NESTED)  # as OME-Zarr wants it
        _put_names_into_attributes(chosen)
        # Null, so that xarray does not take what is equal to it for missing.
        chosen.setdefault("fill_value", None)
        if chosen["fill_value"] is None:  # of a chunk that is missing zarr 2 reads any values
            chosen["config"] = {"write_empty_chunks": True}
    return chosen


def _refused(
    given: Mapping[str, Any], array: np.ndarray[Any, Any], described: Mapping[str, Any]
) -> str | None:
    """Return the option without which zarr takes the others, and its value."""
    for name, value in given.items():
        others = {option: value for option, value in given.items() if option != name}
        with suppress(TypeError, ValueError, ArithmeticError):
            chosen = _completed(others, array, described["zarr_format"])
            zarr.create_array(store={}, **described, **chosen)
            return f"{name}={reprlib.repr(value)}"
    return None


def _given(options: ArrayOptions, axes: int, zarr_format: ZarrFormat) -> dict[str, Any]:
    """Return the options that the caller gave.

    Raises `VFSTypeError` if the attributes are no mapping, or the names of axes no texts;
    `UnsupportedFormatError` if the array, or the format, cannot have these names of axes.
    """
    if options.attributes is not None and not isinstance(options.attributes, Mapping):
        kind = type(options.attributes).__name__
        raise VFSTypeError(f"attributes= is a mapping of names to values, not {kind}")
    names = options.dimension_names
    if names is not None and not all(name is None or isinstance(name, str) for name in names):
        raise VFSTypeError(f"dimension_names= are texts, or None, not {names!r}")
    if names is not None and len(names) != axes:
        raise UnsupportedFormatError(
            f"dimension_names={names!r} are {len(names)} names, and the array has {axes} axes"
        )
    if names is not None and zarr_format == 2 and None in names:
        raise UnsupportedFormatError(
            f"dimension_names={names!r} leaves out a name, which arrays of zarr format 2 cannot"
        )
    given: dict[str, Any] = {
        "chunks": options.chunks,
        "shards": options.shards,
        "fill_value": options.fill_value,
        "attributes": None if options.attributes is None else dict(options.attributes),
        "dimension_names": names,
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name, codecs in (("compressors", options.compressors), ("filters", options.filters)):
        if not isinstance(codecs, str) or codecs != "auto":
            given[name] = codecs
    return given


def _kept(
    old: zarr.Array[Any],
    array: np.ndarray[Any, Any],
    given: Mapping[str, Any],
    zarr_format: ZarrFormat,
) -> dict[str, Any]:
    """Return what a new array takes over: what does not depend on what has changed."""
    same_format = old.metadata.zarr_format == zarr_format
    same_axes = old.ndim == array.ndim
    attributes = dict(old.attrs)
    names = getattr(old.metadata, "dimension_names", None)
    if old.metadata.zarr_format == 2:
        names = attributes.pop(_XARRAY_NAMES, None)
    kept: dict[str, Any] = {"attributes": attributes}
    if isinstance(names, list | tuple) and same_axes:
        kept["dimension_names"] = names
    fill_value = old.fill_value
    if fill_value is not None and _fits(fill_value, array.dtype):
        kept["fill_value"] = array.dtype.type(fill_value)
    if same_axes:
        kept |= _kept_sides(old, given, zarr_format)
    if same_format:
        kept |= _kept_codecs(old, array, same_axes=same_axes)
        if zarr_format == 2:
            separator = old.metadata.dimension_separator  # type: ignore[union-attr]
            kept["chunk_key_encoding"] = {"name": "v2", "separator": separator}
            kept["order"] = old.order
        else:
            kept["chunk_key_encoding"] = old.metadata.chunk_key_encoding  # type: ignore[union-attr]
    return kept


def _fits(value: Any, dtype: np.dtype[Any]) -> bool:
    """Return whether a fill value is the same in a dtype."""
    before = np.asarray(value)
    if before.dtype.kind not in "biufc" or (before.dtype.kind == "b") != (dtype.kind == "b"):
        return False
    if before.dtype.kind == "c" and dtype.kind != "c":
        if before.imag != 0:
            return False
        before = before.real
    with np.errstate(all="ignore"):
        after = before.astype(dtype)
    if np.isnan(before):
        return dtype.kind in "fc"
    return bool(after.item() == before.item())


def _kept_sides(
    old: zarr.Array[Any], given: Mapping[str, Any], zarr_format: ZarrFormat
) -> dict[str, Any]:
    """Return the shapes of chunks and shards, where those that the caller gave leave them whole."""
    try:
        chunks, shards = old.chunks, old.shards
    except NotImplementedError:  # chunks of different shapes
        return {}
    if math.prod(shards or chunks) * old.dtype.itemsize > _LARGEST_KEPT:
        return {}
    if "chunks" in given or "shards" in given:
        chunks = given.get("chunks", chunks)
        shards = given.get("shards", shards)
    kept: dict[str, Any] = {}
    whole = _divides(chunks, shards)
    if whole or "shards" not in given:
        kept["chunks"] = chunks
    if shards is not None and zarr_format == 3 and (whole or "chunks" not in given):
        kept["shards"] = _as_kept(old, shards)
    if any(side < 1 for side in kept.get("chunks", ())):
        del kept["chunks"]
    return kept


def _as_kept(old: zarr.Array[Any], shards: Any) -> Any:
    location = getattr(getattr(old.metadata, "codecs", (None,))[0], "index_location", None)
    return (
        shards
        if location is None
        else {"shape": shards, "index_location": getattr(location, "value", location)}
    )


def _divides(chunks: Any, shards: Any) -> bool:
    if not isinstance(chunks, Sequence) or not isinstance(shards, Sequence):
        return shards is None
    return len(chunks) == len(shards) and all(
        chunk > 0 and shard % chunk == 0 for chunk, shard in zip(chunks, shards, strict=True)
    )


def _kept_codecs(
    old: zarr.Array[Any], array: np.ndarray[Any, Any], *, same_axes: bool
) -> dict[str, Any]:
    """Return the codecs; those that transform elements only if the elements are of one kind."""
    if old.metadata.zarr_format == 2:
        same = old.metadata.dtype.to_native_dtype() == array.dtype
        compressor = old.metadata.compressor
        kept: dict[str, Any] = {"compressors": None if compressor is None else compressor}
        if same:
            kept["filters"] = old.metadata.filters or None
        return kept
    same = old.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    itemsize = array.dtype.itemsize
    kept = {
        "filters": [
            codec
            for codec in old.filters
            if (same_axes if isinstance(codec, TransposeCodec) else same)
        ],
        "compressors": [
            BloscCodec.from_dict(
                {
                    "name": "blosc",
                    "configuration": {**_configuration(codec), "typesize": itemsize},
                }
            )
            if isinstance(codec, BloscCodec) and not same
            else codec
            for codec in old.compressors
        ],
    }
    multibyte = "endian" in _configuration(old.serializer)
    if same or (multibyte and itemsize > 1):
        kept["serializer"] = old.serializer
    return kept


def _configuration(codec: Any) -> dict[str, Any]:
    found = codec.to_dict().get("configuration", {})
    return dict(found) if isinstance(found, Mapping) else {}


def _put_names_into_attributes(chosen: dict[str, Any]) -> None:
    """Say in format 2, which has no names of axes, what xarray looks for there."""
    names = chosen.pop("dimension_names", None)
    if names is not None and None not in names:
        chosen["attributes"] = {_XARRAY_NAMES: list(names)} | chosen.get("attributes", {})


def _chunks(shape: tuple[int, ...], itemsize: int, shards: Any = None) -> tuple[int, ...]:
    """Return a chunk of about 1 MiB, whose sides divide those of a shard, as zarr requires."""
    if isinstance(shards, Mapping):
        shards = shards["shape"]
    chunks = chunk_shape(shards or shape, itemsize)
    if shards is None:
        return chunks
    return tuple(
        next(side for side in range(wanted, 0, -1) if whole % side == 0)
        for wanted, whole in zip(chunks, shards, strict=True)
    )

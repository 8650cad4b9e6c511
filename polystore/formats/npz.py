"""NumPy archives: ``.npz`` files, as a dict from names to arrays."""

from __future__ import annotations

import os
import zipfile
from typing import IO, Any

from polystore.exceptions import CorruptDataError, UnsupportedFormatError
from polystore.formats.format import Format
from polystore.formats.limits import DEFLATE, check_declared_size
from polystore.formats.npy import MAGIC, read_array, write_array

__all__ = ["NPZ"]

_SUFFIX = ".npy"
# The methods that NumPy writes. Decoders of others allocate whatever size the data declares.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def _write(file: IO[bytes], value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UnsupportedFormatError("an .npz file holds a dict from names to arrays")
    if any("\0" in name for name in value):
        raise UnsupportedFormatError("a name in an .npz file cannot contain a NUL character")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in value.items():
            with archive.open(f"{name}{_SUFFIX}", "w", force_zip64=True) as member:
                write_array(member, array)


def _read(path: str) -> dict[str, Any]:
    # Not np.load: it would unpickle a file that is not an archive, and trust any header.
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if _may_be_array(member)]
        declared = sum(member.file_size for member in members)
        check_declared_size(declared, os.fstat(file.fileno()).st_size, DEFLATE)
        arrays: dict[str, Any] = {}
        for member in members:
            if _is_array(archive, member):
                arrays[member.filename.removesuffix(_SUFFIX)] = _read_member(archive, member)
        return arrays


def _may_be_array(member: zipfile.ZipInfo) -> bool:
    """Return whether a member may be an array: not a directory, nor compressed in another way."""
    if member.is_dir():
        return False
    if member.compress_type in _METHODS:
        return True
    if _must_be_array(member):
        raise UnsupportedFormatError(
            f"the member {member.filename!r} is compressed with method {member.compress_type}; "
            f"only deflate and no compression are supported; np.savez_compressed writes deflate"
        )
    return False


def _must_be_array(member: zipfile.ZipInfo) -> bool:
    # macOS adds a file "._a.npy" for each "a.npy".
    name = member.filename.rpartition("/")[2]
    return name.endswith(_SUFFIX) and not name.startswith("._")


def _is_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    if _must_be_array(member):
        return True
    with archive.open(member) as file:
        return file.read(len(MAGIC)) == MAGIC


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    with archive.open(member) as file:
        array = read_array(file, member.file_size)
        if file.read(1):  # zipfile compares the checksum at the end
            raise CorruptDataError(f"the member {member.filename!r} is longer than its array")
        return array


NPZ = Format("NumPy archive", (".npz",), _write, _read, compressed=True)

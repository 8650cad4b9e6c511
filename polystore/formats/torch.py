"""Tensors: ``.pt`` files with torch (the extra ``torch``), weights only.

Tensors of every device are loaded to the CPU, so that a file can be loaded on every node.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from polystore.exceptions import UnsupportedFormatError
from polystore.formats.format import Format
from polystore.formats.limits import DEFLATE, check_declared_size

__all__ = ["TORCH"]


class _Written:
    """A file for torch that keeps the OSError of a failed write, which torch hides."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise


def _write(file: IO[bytes], value: Any) -> None:
    if not file.readable():
        whole = io.BytesIO()
        _write(whole, value)
        file.write(whole.getbuffer())
        return
    written = _Written(file)
    try:
        torch.save(value, written)
    except Exception:
        if written.error is not None:
            raise written.error from None
        raise
    file.seek(0)
    try:
        torch.load(file, weights_only=True, map_location="meta")  # everything except the values
    except pickle.UnpicklingError as error:
        raise UnsupportedFormatError(
            f"a {type(value).__name__} with more than tensors and plain values cannot be loaded "
            f"with weights_only; save module.state_dict(), and torch.from_numpy(array) for an "
            f"array"
        ) from error
    file.seek(0, os.SEEK_END)


def _read(path: str) -> Any:
    with Path(path).open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                declared = sum(member.file_size for member in archive.infolist())
            check_declared_size(declared, os.fstat(file.fileno()).st_size, DEFLATE)
        file.seek(0)
        return torch.load(file, weights_only=True, map_location="cpu")


TORCH = Format("torch", (".pt", ".pth"), _write, _read)

"""Tensors: ``.pt`` files through torch (the extra ``torch``), weights only."""

from __future__ import annotations

from typing import IO, Any

import torch

from polystore.formats import Format

__all__ = ["TORCH"]


def _write(file: IO[bytes], value: Any) -> None:
    torch.save(value, file)


def _read(path: str) -> Any:
    return torch.load(path, weights_only=True)


TORCH = Format("torch", (".pt", ".pth"), _write, _read)

"""File formats: from the suffix of a path to what reads and writes its bytes."""

from polystore.formats.format import Format
from polystore.formats.limits import DEFLATE, MOST_DECODED, check_declared_size
from polystore.formats.npy import npy_array, npy_size
from polystore.formats.registry import format_of, known_suffixes

__all__ = [
    "DEFLATE",
    "MOST_DECODED",
    "Format",
    "check_declared_size",
    "format_of",
    "known_suffixes",
    "npy_array",
    "npy_size",
]

"""File formats: find the format of a path by its suffix, and read and write files with it.

``registry`` finds formats, ``format`` is the class of all of them, ``limits`` bounds the memory for
a file. Each other module is one format, or serves some. Formats know no paths of backends and no
stores; ``disk`` and ``zarr`` use them.
"""

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

"""The fuzzer that follows coverage: ``python fuzzing.py TARGET [options of libFuzzer]``.

It needs ``atheris``, which the extra ``fuzz`` brings.
"""

from __future__ import annotations

import logging
import pickle
import resource
import sys
import tempfile
import warnings
from pathlib import Path
from types import FunctionType

import atheris

MEMORY = 4 * 2**30
"""Bytes of addresses that a target may use, libraries included."""

_WORDS = (
    *(
        b"polystore.serialization",
        b"_array",
        b"_scalar",
        b"polystore_ray.wire.pack",
        b"_arrive",
        b"Items",
    ),
    *(b"polystore_ray.wire.messages", b"Pin", b"numpy", b"str_", b"datetime", b"timezone", b"<f8"),
    *(b"M8[s]", b"names", b"formats", b"offsets", b"titles", b"itemsize", b"aligned"),
    *(pickle.STACK_GLOBAL, pickle.REDUCE, pickle.NEXT_BUFFER, pickle.BUILD, pickle.NEWOBJ),
    *(pickle.MEMOIZE, pickle.TUPLE2, pickle.LONG1 + b"\x08", pickle.MARK, pickle.APPENDS),
)


def main(name: str, *options: str) -> None:
    """Fuzz a target until libFuzzer ends this process."""
    for method in vars(pickle._Unpickler).values():
        if isinstance(method, FunctionType):
            atheris.instrument_func(method)
    with atheris.instrument_imports(include=["polystore", "polystore_ray", "tifffile"]):
        import targets

    warnings.simplefilter("ignore")
    logging.disable()
    folder = Path(tempfile.mkdtemp(prefix="polystore-fuzz-"))
    target, seeds = targets.target(name, folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in _WORDS)
    (folder / "words").write_text("\n".join(f'"{line}"' for line in lines))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    limits = (f"-dict={folder / 'words'}", "-timeout=60", "-rss_limit_mb=3072")
    atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])

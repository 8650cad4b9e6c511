"""Files that are written in memory and saved whole, unless an error interrupts the writing."""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any
from weakref import WeakSet

__all__ = ["CompressedFile", "TextFile", "WritableFile", "save_flushed"]

logger = logging.getLogger(__name__)

_FINALIZER_WAITS = 10.0  # seconds

_unclosed: WeakSet[WritableFile] = WeakSet()


class WritableFile(io.BytesIO):
    """A file that is saved whole when it is closed.

    It is discarded if its ``with`` block fails, or if it is closed while an error is handled that
    was raised after it was opened: the wrappers that others put around it (text, gzip, fsspec's
    ``OpenFile``, pandas) close it without a word of the error. A file that nobody closes, as
    zipfile and ``np.savez`` leave it, is saved by its finalizer, with a `ResourceWarning`.

    - `path`: what errors and warnings call it
    - `mode`: that of `open`, such as ``"wb"``
    - `save`: called once with the bytes; of a file opened to append, with those that were appended
    - `before`: what the file holds at first
    - `autocommit`: whether closing saves it; if not, `commit` does
    """

    _is_over = True  # until it is made

    def __init__(
        self,
        path: str,
        mode: str,
        save: Callable[[bytes], object],
        before: bytes = b"",
        *,
        autocommit: bool = True,
    ) -> None:
        super().__init__(before)
        self.path = path
        self.mode = mode  # type: ignore[misc]  # as every file of fsspec has it
        self._save = save
        self._before = before
        self._appends = "a" in mode
        self._autocommit = autocommit
        self._process = os.getpid()
        self._handled = (
            _handled_error()
        )  # an error that is handled already does not concern this file
        self._cut_short_by: BaseException | None = None
        self._is_flushed = False
        if self._appends:
            self.seek(0, os.SEEK_END)
        self._is_over = False
        _watch(self)

    def readable(self) -> bool:
        return "+" in self.mode

    def write(self, data: Any, /) -> int:
        if self._appends:
            self.seek(0, os.SEEK_END)
        self._is_flushed = False
        self._cut_short_by = self._new_error()
        return super().write(data)

    def writelines(self, lines: Iterable[Any], /) -> None:
        for line in lines:
            self.write(line)

    def truncate(self, size: int | None = None, /) -> int:
        wanted = self.tell() if size is None else size
        if self._appends and 0 <= wanted < len(self._before):
            raise io.UnsupportedOperation(
                f"{self.path} is open to append, and keeps what it holds; open it with 'r+b'"
            )
        return super().truncate(size)

    def flush(self) -> None:
        super().flush()
        self._is_flushed = not self._is_over and self._new_error() is None

    def close(self) -> None:
        if self.closed:
            return
        error = self._new_error()
        if error is not None and not self._is_over:
            self._give_up(error)
        if self._is_over:
            super().close()
        elif self._autocommit:
            self.commit()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.discard()
            super().close()
        elif self._autocommit:
            self.commit()

    def __del__(self) -> None:
        if self._is_over or not self._autocommit or os.getpid() != self._process:
            return
        error = self._new_error() or self._cut_short_by
        if error is not None:
            self._give_up(error)
            return
        # In a thread of its own, since a finalizer may run where locks are held.
        self._is_over = True
        saving = threading.Thread(target=_save_unclosed, args=(self.path, self._save, self._data()))
        saving.start()
        saving.join(_FINALIZER_WAITS)
        warnings.warn(f"{self.path} was not closed; it is saved now", ResourceWarning, stacklevel=2)

    def commit(self) -> None:
        """Save what was written, unless that is done, or the file was discarded."""
        if self._is_over:
            return
        self._is_over = True
        self._handled = self._cut_short_by = None
        try:
            if not self.mode.startswith("r") or self.getvalue() != self._before:
                self._save(self._data())
        finally:
            super().close()

    def discard(self) -> None:
        """Save nothing."""
        self._is_over = True
        self._handled = self._cut_short_by = None

    def save_flushed(self) -> bool:
        """Save what is there by now if it was flushed last; return whether."""
        if self._is_over or not self._is_flushed or not self._autocommit:
            return False
        if self._appends or not self.mode.startswith("w"):
            return False
        self._save(self._data())
        return True

    def finish(self) -> None:
        """Save an unclosed file when the interpreter ends, unless an error ends it."""
        if self._is_over or not self._autocommit:
            return
        error = self._cut_short_by or getattr(sys, "last_value", None)
        if error is not None and not hasattr(sys, "ps1"):
            self._give_up(error)
            return
        self._is_over = True
        _save_unclosed(self.path, self._save, self._data())
        warnings.warn(f"{self.path} was not closed; it is saved now", ResourceWarning, stacklevel=1)

    def _data(self) -> bytes:
        return self.getvalue()[len(self._before) if self._appends else 0 :]

    def _new_error(self) -> BaseException | None:
        error = _handled_error()
        return None if error is self._handled else error

    def _give_up(self, error: BaseException) -> None:
        logger.warning("%s is not saved: it was cut short by %r", self.path, error)
        self.discard()


class CompressedFile(io.BufferedIOBase):
    """A file that compresses what is written, and owns the file into which it writes.

    - `compressed`: a file of gzip, bz2 or another library, which writes into `file` but does not
      close it
    - `file`: closed after it
    """

    def __init__(self, compressed: Any, file: WritableFile) -> None:
        self._compressed = compressed
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compressed, name)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        written = self._compressed.write(data)
        return len(memoryview(data).cast("B")) if written is None else int(written)

    def tell(self) -> int:
        return int(self._compressed.tell())

    def flush(self) -> None:
        if not self.closed:
            self._compressed.flush()

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        try:
            self._compressed.close()
        except BaseException:
            self._file.discard()
            raise
        finally:
            self._file.close()

    def __del__(self) -> None:
        """Leave it to the finalizers of both."""


class TextFile(io.TextIOWrapper):
    """Text that is written into a `WritableFile`, or into one that compresses it."""

    def __del__(self) -> None:
        # Without closing it: it may not be complete.
        if not self.closed:
            self.flush()


def save_flushed(path: str) -> bool:
    """Save the file of this process that is open to write `path` and was flushed last.

    For readers that find nothing there: some archives flush what they have finished, and close the
    file only when they are collected.
    """
    return any(file.path == path and file.save_flushed() for file in [*_unclosed])


def _handled_error() -> BaseException | None:
    error = sys.exc_info()[1]
    # The end of an iteration is not an error.
    return None if isinstance(error, StopIteration | StopAsyncIteration) else error


def _watch(file: WritableFile) -> None:
    if not _unclosed:
        # Anew each time, so that it comes before what others, such as Ray, do at the end.
        atexit.unregister(_finish_all)
        atexit.register(_finish_all)
    _unclosed.add(file)


def _finish_all() -> None:
    for file in [*_unclosed]:
        file.finish()


def _save_unclosed(path: str, save: Callable[[bytes], object], data: bytes) -> None:
    try:
        save(data)
    except Exception:
        logger.exception("%s was not closed, and cannot be saved", path)

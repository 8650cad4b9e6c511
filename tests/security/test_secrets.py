"""Secrets (``storage_options``) are in no error, no log and no representation."""

from __future__ import annotations

import logging
import traceback

import pytest

from polystore import FileManager, StorageError
from polystore.zarr import ZarrBackend

SECRET = "wJalrXUtnFEMI"
OPTIONS = {
    "key": "AKIAEXAMPLE",
    "secret": SECRET,
    "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"},
    "config_kwargs": {"connect_timeout": 1, "retries": {"max_attempts": 0}},
}


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


def test_a_store_that_does_not_answer_tells_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    backend = ZarrBackend("s3://plates", storage_options=OPTIONS)
    fm = FileManager({"zarr": backend})
    with pytest.raises(StorageError) as caught:
        fm.load("/a", backend="zarr")
    for text in (shown(caught.value), repr(backend), repr(fm), str(vars(fm)), caplog.text):
        assert SECRET not in text


def test_options_that_a_store_refuses_are_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = {"nothing_of_that_name": SECRET}
    with pytest.raises(StorageError) as caught:
        ZarrBackend("s3://plates", storage_options=wrong).load("/a")
    assert SECRET not in shown(caught.value) + caplog.text

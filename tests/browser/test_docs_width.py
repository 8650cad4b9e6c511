"""No page of the documentation is wider than the screen of a phone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

# Root has no sandbox, and the shared memory of a container may be small.
FLAGS = ["--disable-dev-shm-usage", *["--no-sandbox"] * (os.geteuid() == 0)]
HTML = Path(__file__).parents[2] / "docs/_build/html"
# What scrolls by itself, or reaches over the right edge of the screen; .w is white space in code.
WIDER = """() => [document.documentElement, ...document.querySelectorAll("article *:not(.w)")]
    .filter((element) => element.scrollWidth > element.clientWidth + 1
        && element.clientWidth && getComputedStyle(element).overflowX !== "visible"
        || element.getBoundingClientRect().right > window.innerWidth)
    .map((element) => `${element.tagName} ${element.className}: ${element.textContent.trim()}`
        .slice(0, 120))"""


@pytest.fixture
def phone() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    assert chromium, "this test needs chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser.new_page(viewport={"width": 390, "height": 844})
        browser.close()


def test_no_table_picture_or_line_of_code_is_wider_than_a_phone(phone: Any) -> None:
    pages = [page for page in sorted(HTML.rglob("*.html")) if "_static" not in page.parts]
    assert len(pages) > 20, "build the documentation first: make docs"
    wider = {}
    for page in pages:
        phone.goto(page.as_uri())
        if found := phone.evaluate(WIDER):
            wider[str(page.relative_to(HTML))] = found
    assert not wider, "\n".join(f"{page}: {line}" for page in wider for line in wider[page])

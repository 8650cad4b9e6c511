"""The page in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from polystore import FileManager
from polystore_ray import RayBackendRegistry
from polystore_ray.testing.needs import goes_without, require

pytestmark = pytest.mark.skipif(
    goes_without("chromium"), reason="POLYSTORE_FAULTS_WITHOUT says to do without Chromium"
)

expect.set_options(timeout=60_000)  # milliseconds, for slow machines
HOSTILE = "<img src=x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = require("chromium", "chromium", "a test of the page")
    with sync_playwright() as playwright:
        # Root has no sandbox, and the shared memory of a container may be small.
        flags = ["--disable-dev-shm-usage", *["--no-sandbox"] * (os.geteuid() == 0)]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def fm(tmp_path: Path) -> Iterator[FileManager]:
    roots = {"disk": {"root": str(tmp_path)}}
    registry = RayBackendRegistry("browsed", local=True, backends=roots)
    yield FileManager(registry)
    registry.shutdown()


@pytest.fixture
def page(browser: Browser, fm: FileManager) -> Iterator[Page]:
    """Open the page; fail if it logs an error, as for what its own policy refuses."""
    registry: Any = fm.registry
    errors: list[str] = []
    with registry.ui() as served:
        page = browser.new_page(base_url=served.url)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto("")
        yield page
        page.close()
    assert errors == []


def test_the_overview_updates_by_itself(page: Page, fm: FileManager) -> None:
    files = page.locator("#tiles li", has_text="files").locator("b")
    expect(files).to_have_text("0")
    fm.save("x", "/a", backend="memory")
    expect(files).to_have_text("1")
    expect(page.locator("#nodes tbody tr")).to_have_count(1)


def test_directories_are_browsed_with_the_keyboard(page: Page, fm: FileManager) -> None:
    for path in ("/plate/a.txt", "/plate/b/c.txt", "/z.txt"):
        fm.save(f"text of {path}", path, backend="memory")
    page.get_by_role("link", name="Browse").click()
    rows = page.locator(".row")
    expect(rows).to_have_count(2)
    page.keyboard.press("Enter")
    expect(page.locator("#crumbs")).to_contain_text("plate")
    expect(rows.first).to_contain_text("a.txt")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("#value pre")).to_have_text("text of /plate/a.txt")
    page.keyboard.press("Escape")
    expect(page.locator("#value")).to_be_hidden()
    page.go_back()
    expect(page.locator("#value pre")).to_be_visible()
    page.go_forward()
    page.keyboard.press("Backspace")
    expect(rows.last).to_contain_text("z.txt")
    page.keyboard.press("/")
    page.keyboard.type("Z")
    expect(rows).to_have_count(1)
    page.reload()
    expect(rows).to_have_count(2)


def test_a_name_is_never_more_than_text(page: Page, fm: FileManager) -> None:
    fm.save("content", f"/{HOSTILE}\u202e/{HOSTILE}", backend="memory")
    page.get_by_role("link", name="Browse").click()
    row = page.locator(".row span").first
    expect(row).to_have_text(f"{HOSTILE}\\u{{202e}}/")
    row.click()
    expect(row).to_have_text(HOSTILE)
    row.click()
    expect(page.locator("#value pre")).to_have_text("content")
    expect(page.locator("#value h2")).to_contain_text(HOSTILE)
    assert page.title() == "polystore"
    assert page.locator("img").count() == 0


def test_a_hundred_thousand_entries_are_a_few_rows(page: Page, fm: FileManager) -> None:
    number = 100_000
    fm.save_batch([b""] * number, [f"/{i}" for i in range(number)], backend="memory")
    page.get_by_role("link", name="Browse").click()
    expect(page.locator("#count")).to_have_text("100,000 entries")
    assert page.locator(".row").count() < 100
    page.keyboard.press("End")
    expect(page.locator(".row").last).to_contain_text("99999")
    expect(page.locator(".row[aria-selected=true]")).to_contain_text("99999")
    page.locator("#search").fill("9999")
    expect(page.locator("#count")).to_have_text("19 entries")


def test_an_image_is_drawn_and_its_axes_have_sliders(page: Page, fm: FileManager) -> None:
    stack = np.zeros((3, 20, 30), "u2")
    stack[2] = np.arange(600).reshape(20, 30)
    fm.save(stack, "/stack", backend="memory")
    page.get_by_role("link", name="Browse").click()
    page.locator(".row").click()
    picture = page.locator("img.picture")
    expect(picture).to_have_js_property("naturalWidth", 30)
    first = picture.get_attribute("src")
    page.get_by_label("axis 0").press("End")
    expect(picture).not_to_have_attribute("src", first or "")
    expect(page.locator(".ends")).to_contain_text("599")
    page.get_by_label("labels in colour").check()
    expect(page.locator(".histogram path")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_narrow_screen_in_light_and_dark(
    page: Page, fm: FileManager, scheme: Any
) -> None:
    fm.save(np.zeros((20, 30), "u2"), f"/{'long ' * 40}", backend="memory")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.locator("#tiles li").first).to_be_visible()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")
    wide = "document.documentElement.scrollWidth > 390"
    assert not page.evaluate(wide)
    page.get_by_role("link", name="Browse").click()
    page.locator(".row").click()
    expect(page.locator("img.picture")).to_be_visible()
    expect(page.locator("#files")).to_be_hidden()
    assert not page.evaluate(wide)
    page.get_by_label("Close").click()
    expect(page.locator("#files")).to_be_visible()

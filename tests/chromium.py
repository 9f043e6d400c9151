"""A real Chromium: the one of the machine, of CHROMIUM, or of Playwright. A pytest plugin, named in pyproject.toml."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, sync_playwright

QUIET = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",  # a process less
    "--disable-sync",
    "--no-first-run",
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]
A_PAGE_ABOUT_A_DEAD_LINK = re.compile(r"\b(404|410) \(.*/(accounts|unsubscribe)/")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser. Without it these tests are skipped with a warning, and fail in CI.

    It ends with its module: while Playwright is open its event loop counts as running, and Django's ORM refuses to work.
    """
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=_find_or_install(), args=QUIET)
        except Error as error:
            what = (
                "NO BROWSER TEST WAS RUN: no Chromium was found, and Playwright's could not be installed. Install one "
                f"(apt-get install chromium), or name it in CHROMIUM. {error.message.splitlines()[0]}"
            )
            if os.environ.get("CI"):
                pytest.fail(what)
            pytest.skip(what)
        yield browser
        browser.close()


def _find_or_install() -> str | None:
    """Return the path of a Chromium; None means Playwright's own, which is downloaded if needed."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], capture_output=True, check=False)
    return path


@pytest.fixture
def new_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Open pages in a fresh profile. Complaints of the browser fail the test at its end."""
    complaints: list[str] = []
    contexts = []

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"{message.text} {message.location['url']}")

    def open_page(**options: object) -> Page:
        context = chromium.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda m: complaints.append(f"{m.text} {m.location['url']}") if m.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [c for c in complaints if not A_PAGE_ABOUT_A_DEAD_LINK.search(c)] == []

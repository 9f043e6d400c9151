"""Every e-mail in a real Chromium: light, dark, on a phone, in Thai, right to left, without images.

SCREENSHOTS=/some/folder make test ARGS=tests/browser/test_mails.py       # saves a screenshot of each
"""

import base64
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route

from mailer import email
from mailer.composing import templates
from mailer.email import Email, Recipient
from tests.mailer.kinds import Showcase

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("showcase_templates")]

SCREENSHOTS = os.environ.get("SCREENSHOTS")
KINDS = {
    name: kind for name, kind in sorted(email.KINDS.items()) if kind.template and not name.startswith("tests.")
} | {"showcase": Showcase}
MAIL = "http://mail.invalid/"
OF_PAGES = {"region", "landmark-one-main"}
"""Rules of axe for whole pages; a mail is a part of the mail client's page."""

VARIANTS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 780}},
    "thai": {"language": "th"},
    "rtl": {"language": "he"},
    "no-images": {"images": False},
}
SHORT = ("dark", "phone", "thai")
"""The others are drills."""


def picture() -> bytes:
    """A PNG of two colors, which stands for the inline image of a mail."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + bytes.fromhex("c9a46c") * 12 + bytes.fromhex("8a6a3a") * 12
    header = struct.pack(">IIBBBBB", 24, 12, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 12)) + chunk(b"IEND", b"")


class Reader:
    """A minimal mail client: it shows the HTML, and inline images unless they are off."""

    def __init__(self, page: Page, *, images: bool) -> None:
        self.page, self.images = page, images
        self.asked_for: list[str] = []
        page.route("**/*", self._answer)

    def show(self, html: str) -> None:
        source = f"data:image/png;base64,{base64.b64encode(picture()).decode()}" if self.images else "data:,"
        self.html = html.replace('src="cid:parcel"', f'src="{source}"')
        self.page.goto(MAIL)

    def _answer(self, route: Route) -> None:
        if route.request.url == MAIL:
            route.fulfill(body=self.html, content_type="text/html; charset=utf-8")
        else:
            self.asked_for.append(route.request.url)
            route.abort()


UNSUBSCRIBE_URL = "https://shop.example/unsubscribe/abc/"


def render(kind: type[Email], language: str) -> templates.Content:
    sample = kind.sample()
    recipient = Recipient(sample.recipient().address, "Ann Example", language)
    url = UNSUBSCRIBE_URL if kind.stream or kind is Showcase else ""
    return templates.render(sample, recipient, unsubscribe_url=url)


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[] if name in SHORT else pytest.mark.drill) for name in VARIANTS]
)
def test_every_mail_is_accessible_and_fits_the_screen(variant: str, new_page: Callable[..., Page]) -> None:
    options = dict(VARIANTS[variant])
    language, images = options.pop("language", "en"), options.pop("images", True)
    reader = Reader(new_page(**{"viewport": {"width": 800, "height": 900}} | options), images=images)
    page, width = reader.page, options.get("viewport", {"width": 800})["width"]

    for name, kind in KINDS.items():
        if variant not in ("light", "thai") and kind is not Showcase and not SCREENSHOTS:
            continue  # the showcase has every part and every color
        reader.show(render(kind, language).html)
        if SCREENSHOTS:
            page.screenshot(path=Path(SCREENSHOTS) / f"{name}-{variant}.png", full_page=True)

        assert page.get_by_role("heading", level=1).count() == 1
        assert page.locator("html").get_attribute("lang") == language
        if variant == "light" or kind is Showcase:
            check_accessibility(page, name)
        page.set_viewport_size({"width": 320, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide for 320 px"
        page.set_viewport_size({"width": width, "height": 900})
    assert [url for url in reader.asked_for if not url.startswith("data:")] == []


def check_accessibility(page: Page, name: str) -> None:
    """Assert that axe finds no violation; it also computes contrasts (WCAG AA)."""
    report = Axe().run(page, options={"rules": {rule: {"enabled": False} for rule in OF_PAGES}})
    assert report.violations_count == 0, f"{name}\n{report.generate_report()}"
    contrast = next(each for each in report.response["passes"] if each["id"] == "color-contrast")
    assert len(contrast["nodes"]) >= 5

"""The second factor in a real Chromium, under the site's own content policy: an app, and a passkey of a virtual device.

SCREENSHOTS=/some/folder make test ARGS=tests/browser/test_second_factor.py       # keeps a picture of each page
"""

import os
import re
import time
from base64 import b32decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django_otp.oath import TOTP
from playwright.sync_api import Page, expect

from tests.browser.test_accounts import DESKTOP, PHONE
from tests.environment import new_directory
from tests.smtp_sink import Sink
from tests.stack import PASSWORD, Stack

pytestmark = pytest.mark.timeout(240)

SCREENSHOTS = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Sink() as sink, Stack(new_directory("second-factor"), sink, STAFF_SECOND_FACTOR="1") as stack:
        stack.start("web")
        yield stack


class Staff:
    """A member of staff with a browser."""

    def __init__(self, stack: Stack, page: Page, picture: str) -> None:
        self.stack, self.page, self.picture, self.seen = stack, page, picture, 0
        self.email = f"staff-{time.monotonic_ns()}@example.com"
        stack.run(
            "from accounts.models import User\n"
            f"User.objects.create_superuser({self.email!r}, {PASSWORD!r}, language={picture[-2:]!r})"
        )

    def log_in(self) -> None:
        self.page.goto(f"{self.stack.url}/admin/")
        self.page.fill("[name=username]", self.email)
        self.page.fill("[name=password]", PASSWORD)
        self.page.click("form [type=submit], main form .button")

    def log_out(self) -> None:
        self.page.context.clear_cookies()

    def look(self, path: str) -> None:
        """Check what must be true of every page."""
        self.page.wait_for_url(re.compile(path))
        self.seen += 1
        expect(self.page.get_by_role("heading", level=1)).to_have_count(1)
        if SCREENSHOTS:
            self.page.screenshot(path=Path(SCREENSHOTS) / f"{self.picture}-{self.seen:02}.png", full_page=True)
        size: Any = self.page.viewport_size
        for viewport in (PHONE["viewport"], DESKTOP["viewport"], size):
            self.page.set_viewport_size(viewport)  # type: ignore[arg-type]
            assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{self.page.url} too wide"

    def type_password(self) -> None:
        self.look("/second-factor/password/")
        self.page.fill("[name=password]", PASSWORD)
        self.page.click("main form .button")

    def is_in_the_admin(self) -> None:
        self.page.wait_for_url(f"{self.stack.url}/admin/")
        expect(self.page.locator("#user-tools")).to_be_visible()


@pytest.fixture(params=["desktop"])
def staff(request: pytest.FixtureRequest, stack: Stack, new_page: Callable[..., Page]) -> Staff:
    options: dict[str, Any] = {"desktop": DESKTOP, "phone": PHONE}[request.param]
    language = options["locale"]
    return Staff(stack, new_page(**options), f"{request.node.originalname}-{request.param}-{language}")


def test_an_app_is_added_and_used(staff: Staff) -> None:
    page = staff.page
    staff.log_in()
    staff.type_password()
    staff.look("/second-factor/app/")
    expect(page.locator(".qr svg")).to_be_visible()
    totp = TOTP(b32decode(page.locator("code.secret").inner_text().replace(" ", "")))
    page.fill("[name=code]", f"{totp.token():06}")
    page.click("main form .button")
    expect(page.locator(".codes code")).to_have_count(10)
    recovery_code = page.locator(".codes code").first.inner_text()
    staff.look("/second-factor/app/")
    page.click("main a.button")
    staff.is_in_the_admin()

    staff.log_out()
    staff.log_in()
    staff.look("/second-factor/ask/")
    page.fill("[name=code]", "000000")
    page.click("main form .button")
    expect(page.locator("[aria-invalid=true]")).to_have_count(1)
    staff.look("/second-factor/ask/")
    page.fill("[name=code]", recovery_code)
    page.click("main form .button")
    staff.is_in_the_admin()

    page.goto(f"{staff.stack.url}/accounts/second-factor/")
    staff.look("/accounts/second-factor/$")
    expect(page.locator(".sessions li")).to_have_count(1)


@pytest.mark.parametrize("staff", ["phone"], indirect=True)
def test_a_passkey_is_added_and_used(staff: Staff) -> None:
    page = staff.page
    device = page.context.new_cdp_session(page)
    device.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
    }
    authenticator = device.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"]
    staff.log_in()
    staff.type_password()
    staff.look("/second-factor/app/")
    page.click("main .aside a")
    expect(page.locator("#passkey-register-button")).to_be_visible()
    staff.look("/second-factor/passkey/")
    page.click("#passkey-register-button")
    staff.look("/second-factor/codes/")
    page.click("main form .button")
    expect(page.locator(".codes code")).to_have_count(10)
    page.click("main a.button")
    staff.is_in_the_admin()
    (credential,) = device.send("WebAuthn.getCredentials", {"authenticatorId": authenticator})["credentials"]
    assert credential["rpId"] == "localhost"

    staff.log_out()
    staff.log_in()
    expect(page.locator("#passkey-verification-button")).to_be_visible()
    staff.look("/second-factor/ask/")
    page.click("#passkey-verification-button")
    staff.is_in_the_admin()

    page.goto(f"{staff.stack.url}/accounts/second-factor/")
    staff.look("/accounts/second-factor/$")
    page.goto(f"{staff.stack.url}/accounts/second-factor/passkey/")
    expect(page.locator("#passkey-register-button")).to_be_visible()


@pytest.mark.drill
def test_the_pages_are_accessible(stack: Stack, new_page: Callable[..., Page]) -> None:
    staff = Staff(stack, new_page(bypass_csp=True, **DESKTOP), "accessible-en")  # axe injects a script
    staff.log_in()
    staff.type_password()
    totp = TOTP(b32decode(staff.page.locator("code.secret").inner_text().replace(" ", "")))
    check(staff.page)
    staff.page.fill("[name=code]", f"{totp.token():06}")
    staff.page.click("main form .button")
    check(staff.page)
    for path in ("", "codes/", "passkey/"):
        staff.page.goto(f"{stack.url}/accounts/second-factor/{path}")
        check(staff.page)
    staff.log_out()
    staff.log_in()
    staff.page.wait_for_url(re.compile("ask"))
    check(staff.page)


def check(page: Page) -> None:
    report = Axe().run(page)
    assert report.violations_count == 0, f"{page.url}\n{report.generate_report()}"

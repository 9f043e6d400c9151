"""Every path of an account in a real Chromium, on a desktop in English; the longest on a phone in Thai in dark mode.

SCREENSHOTS=/some/folder make test ARGS=tests/browser/test_accounts.py       # keeps a picture of each page
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.accounts.steps import DIGITS
from tests.environment import new_directory
from tests.smtp_sink import Received, Sink
from tests.stack import PASSWORD, Stack

pytestmark = pytest.mark.timeout(240)

SCREENSHOTS = os.environ.get("SCREENSHOTS")
ANOTHER, A_THIRD = "staple purple 4 window", "seven grey teapots 2"

DESKTOP = {"locale": "en", "viewport": {"width": 1280, "height": 900}}
CHECKED: set[tuple[str, str, str, int]] = set()
PHONE = {"locale": "th", "viewport": {"width": 360, "height": 780}, "color_scheme": "dark"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Sink() as sink, Stack(new_directory("accounts"), sink) as stack:
        stack.start("web", "worker")
        yield stack


class Person:
    """A user with a browser and a mailbox. Every visited page is checked."""

    def __init__(self, name: str, stack: Stack, page: Page) -> None:
        self.name, self.stack, self.page = name, stack, page
        self.seen = 0

    def visit(self, path: str, heading: str = "") -> None:
        self.page.goto(path if path.startswith("http") else self.stack.url + path)
        self.look(heading)

    def submit(self, heading: str = "", *, button: str = "main form .button", **fields: str) -> None:
        """Fill in the fields by name and submit the form."""
        for name, value in fields.items():
            field = self.page.locator(f"main [name={name}]")
            if field.evaluate("element => element.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
        self.page.locator(button).first.click()
        self.page.wait_for_load_state()
        self.look(heading)

    def look(self, heading: str = "") -> None:
        """Check what must be true of every page. The heading is compared in English only."""
        title = self.page.get_by_role("heading", level=1)
        expect(title).to_have_count(1)
        if heading and self.page.locator("html").get_attribute("lang") == "en":
            expect(title).to_have_text(heading)
        self.seen += 1
        if SCREENSHOTS:
            self.page.screenshot(path=Path(SCREENSHOTS) / f"{self.name}-{self.seen:02}.png", full_page=True)
        # Each page once for each kind of browser, with and without its complaints: the two take most of a second.
        path = re.sub(r"[\w-]{20,}", "…", urlsplit(self.page.url).path)
        complaints = self.page.locator("[aria-invalid], [role=alert]").count()
        page = (self.name.partition("-")[0], path, title.inner_text(), complaints)
        if page not in CHECKED:
            self._fits_every_screen()
            self._look_as_a_screen_reader()
            CHECKED.add(page)

    def _fits_every_screen(self) -> None:
        size: Any = self.page.viewport_size
        for viewport in (PHONE["viewport"], size):
            self.page.set_viewport_size(viewport)  # type: ignore[arg-type]
            assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{self.page.url} too wide"

    def _look_as_a_screen_reader(self) -> None:
        report = Axe().run(self.page)
        assert report.violations_count == 0, f"{self.page.url}\n{report.generate_report()}"

    def mail(self, to: str, path: str, *, newer_than: int = 0) -> Received:
        """Return the newest mail to an address with a link to this path."""

        def find() -> Received | None:
            mails = [r for r in self.stack.sink.received[newer_than:] if r.recipients == [to]]
            return next((r for r in reversed(mails) if path in r.part("plain")), None)

        self.stack.wait_for(find, f"a mail to {to} with {path}", seconds=30)
        found = find()
        assert found is not None
        return found

    def link(self, to: str, path: str, *, newer_than: int = 0) -> str:
        """Return the link in that mail."""
        found = re.search(rf"http\S+{path}\S+", self.mail(to, path, newer_than=newer_than).part("plain"))
        assert found
        return found[0]

    def log_in(self, email: str, password: str) -> None:
        self.visit("/accounts/login/", "Log in")
        self.submit(username=email, password=password)


@pytest.fixture(params=["desktop"])
def enter(request: pytest.FixtureRequest, stack: Stack, new_page: Callable[..., Page]) -> Callable[[], Person]:
    """Return a function that opens another browser of the same kind."""
    options: dict[str, Any] = {"desktop": DESKTOP, "phone": PHONE}[request.param]
    people: list[Person] = []

    def person() -> Person:
        page = new_page(bypass_csp=True, **options)  # axe injects a script
        people.append(Person(f"{request.param}-{request.node.originalname}-{len(people)}", stack, page))
        return people[-1]

    return person


LONG = pytest.mark.drill
"""Of paths whose pages are like those of others. tests/accounts has their rules."""
ON_A_PHONE = pytest.mark.parametrize("enter", ["phone"], indirect=True)


def address(local: str) -> str:
    """Return an address that no other test uses."""
    return f"{local}-{time.monotonic_ns()}@example.com"


def sign_up(person: Person, email: str) -> None:
    person.visit("/accounts/signup/", "Sign up")
    person.submit("Check your inbox", email=email, password1=PASSWORD, password2=PASSWORD)


def make_account(person: Person, email: str) -> None:
    """Sign up, verify in the same browser, and log in."""
    sign_up(person, email)
    person.visit(person.link(email, "/accounts/verify/"), "Verify your address")
    person.submit("Your address is verified")
    person.log_in(email, PASSWORD)


def be_given_an_account(person: Person, email: str) -> None:
    """Log in to a verified account that was made without a page."""
    person.stack.run(
        "from accounts.models import User\nfrom django.utils import timezone\n"
        f"User.objects.create_user({email!r}, {PASSWORD!r}, email_verified_at=timezone.now(), was_verified=True)"
    )
    person.log_in(email, PASSWORD)


def test_a_mistyped_address_is_corrected_and_verified(enter: Callable[[], Person]) -> None:
    ann, typo, right = enter(), address("anm"), address("ann")
    ann.visit("/")
    sign_up(ann, typo)
    dead = ann.link(typo, "/accounts/verify/")
    ann.visit("/accounts/signup/correct/")
    ann.submit("Check your inbox", email=right)
    expect(ann.page.get_by_text(right)).to_be_visible()

    ann.page.goto(dead)
    assert ann.page.locator("main form").count() == 0
    ann.visit(ann.link(right, "/accounts/verify/"), "Verify your address")
    assert ann.page.locator("[name=password]").count() == 0
    ann.submit("Your address is verified")
    ann.page.reload()
    ann.look("This link has already been used")


def test_the_digits_from_the_mail_verify_in_the_page_that_the_sign_up_left_open(enter: Callable[[], Person]) -> None:
    ann, email = enter(), address("ann")
    sign_up(ann, email)
    found = DIGITS.search(ann.mail(email, "/accounts/verify/").part("plain").replace("\r\n", "\n"))
    assert found

    ann.submit("Check your inbox", digits="1")
    expect(ann.page.locator("[name=digits][aria-invalid=true]")).to_have_count(1)
    ann.submit("Your address is verified", digits=found[1])
    ann.log_in(email, PASSWORD)
    assert "login" not in ann.page.url


def test_the_language_is_chosen_in_the_footer(enter: Callable[[], Person]) -> None:
    ann = enter()
    ann.visit("/accounts/signup/", "Sign up")
    ann.page.get_by_role("button", name="ไทย").click()
    expect(ann.page.locator("html")).to_have_attribute("lang", "th")
    assert ann.page.url.endswith("/accounts/signup/")
    ann.page.get_by_role("button", name="English").click()
    ann.look("Sign up")


def test_in_another_browser_the_link_asks_for_the_password_or_is_disowned(enter: Callable[[], Person]) -> None:
    ann, phone, email = enter(), enter(), address("ann")
    sign_up(ann, email)
    link = ann.link(email, "/accounts/verify/")
    phone.visit(link, "Verify your address")
    phone.submit("Verify your address", password="not this one")
    assert phone.page.locator("[name=password][aria-invalid=true]").count() == 1
    phone.submit("Your address is verified", password=PASSWORD)

    squatter, owner, taken = enter(), enter(), address("owner")
    sign_up(squatter, taken)
    owner.visit(owner.link(taken, "/accounts/verify/"), "Verify your address")
    owner.page.click("[href='?disown']")
    owner.submit(button="[name=disown]")
    squatter.log_in(taken, PASSWORD)
    assert "login" in squatter.page.url


@LONG
def test_an_unverified_user_can_request_a_new_link(enter: Callable[[], Person]) -> None:
    ann, email = enter(), address("ann")
    sign_up(ann, email)
    ann.link(email, "/accounts/verify/")
    ann.log_in(email, PASSWORD)
    ann.page.locator("main a[href$='/accounts/verify/resend/']").first.click()
    ann.look()
    ann.submit("Check your inbox")


@ON_A_PHONE
def test_profile_password_sessions_and_deletion(enter: Callable[[], Person]) -> None:
    ann, elsewhere, email = enter(), enter(), address("ann")
    make_account(ann, email)
    elsewhere.log_in(email, PASSWORD)

    ann.visit("/accounts/profile/")
    ann.submit(name="Ann <b>Example</b>", time_zone="Asia/Bangkok")
    expect(ann.page.locator("[name=name]")).to_have_value("Ann <b>Example</b>")
    ann.page.locator("form[action$='/profile/sessions/'] button").click()
    ann.look()
    elsewhere.page.goto(f"{ann.stack.url}/accounts/profile/")
    assert "login" in elsewhere.page.url

    ann.visit("/accounts/password-change/")
    ann.submit(old_password="wrong", new_password1=ANOTHER, new_password2=ANOTHER)
    assert "password-change" in ann.page.url
    ann.submit(old_password=PASSWORD, new_password1=ANOTHER, new_password2=ANOTHER)
    assert "profile" in ann.page.url

    ann.visit("/accounts/profile/delete/")
    ann.submit(password="wrong")
    ann.submit(password=ANOTHER)
    ann.log_in(email, ANOTHER)
    assert "login" in ann.page.url


@LONG
def test_a_forgotten_password(enter: Callable[[], Person]) -> None:
    ann, email = enter(), address("ann")
    be_given_an_account(ann, email)
    ann.page.locator("header form button").click()
    ann.visit("/accounts/password-reset/")
    ann.submit("Check your inbox", email=email)
    link = ann.link(email, "/accounts/password-reset/")
    ann.visit(link)
    ann.submit(new_password1="12345678", new_password2="12345678")
    ann.submit(new_password1=A_THIRD, new_password2=A_THIRD)
    assert "login" in ann.page.url
    ann.submit(username=email, password=A_THIRD)
    assert "login" not in ann.page.url
    for path in ("profile/", "profile/delete/", "password-change/"):  # their forms are submitted on a phone
        ann.visit(f"/accounts/{path}")
    ann.visit(link)
    assert ann.page.locator("[name=new_password1]").count() == 0


@LONG
def test_a_change_of_address_is_confirmed_and_undone(enter: Callable[[], Person]) -> None:
    ann, old, new = enter(), address("old"), address("new")
    be_given_an_account(ann, old)
    ann.visit("/accounts/email-change/")
    ann.submit(email=new, password="wrong")
    ann.submit(email=new, password=PASSWORD)
    ann.visit(ann.link(old, "/accounts/email-change/stop/"))
    before = len(ann.stack.sink.received)
    ann.visit(ann.link(new, "/accounts/email-change/confirm/"))
    ann.submit()
    ann.page.reload()
    ann.look()

    ann.visit(ann.link(old, "/accounts/email-change/stop/", newer_than=before))
    ann.submit()
    ann.visit(ann.link(old, "/accounts/password-reset/", newer_than=before))
    ann.submit(new_password1=A_THIRD, new_password2=A_THIRD)
    ann.submit(username=old, password=A_THIRD)
    assert "login" not in ann.page.url

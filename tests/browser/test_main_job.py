"""The first steps after `make start` in a real Chromium: sign up, read the mail, verify, find it in the admin."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, expect

from tests.environment import new_directory
from tests.local.checkout import Checkout

pytestmark = [pytest.mark.drill, pytest.mark.timeout(150)]


@dataclass(frozen=True, slots=True)
class Running:
    """The table at the end of `make start`."""

    site: str
    inbox: str
    flower: str
    admin: dict[str, str]
    operator: dict[str, str]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    checkout = Checkout(new_directory("browser") / "postcommit")
    with checkout.started() as start:
        password = re.search(r"password: (\S+)", start.output)
        assert password, start.output
        user, _, secret = checkout.variables["FLOWER_BASIC_AUTH"].partition(":")
        yield Running(
            site=f"http://localhost:{checkout.ports['WEB_PORT']}",
            inbox=f"http://localhost:{checkout.ports['INBOX_PORT']}",
            flower=f"http://localhost:{checkout.ports['FLOWER_PORT']}",
            admin={"username": "admin@postcommit.example", "password": password[1]},
            operator={"username": user, "password": secret},
        )


def log_in_to_admin(page: Page, running: Running) -> None:
    page.goto(f"{running.site}/admin/")
    page.get_by_label("E-mail address").fill(running.admin["username"])
    page.get_by_label("Password").fill(running.admin["password"])
    page.get_by_role("button", name="Log in").click()


def test_sign_up_verify_and_find_the_mail_in_the_admin(running: Running, new_page: Callable[..., Page]) -> None:
    inbox = new_page()
    inbox.goto(running.inbox)

    page = new_page()
    page.goto(running.site)
    page.get_by_role("link", name="Sign up").first.click()
    page.get_by_label("E-mail address").fill("ann@example.com")
    page.get_by_label("Password", exact=True).fill("correct horse 9 battery")
    page.get_by_label("Repeat password").fill("correct horse 9 battery")
    page.get_by_role("button", name="Sign up").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Check your inbox")
    expect(page.get_by_text("ann@example.com")).to_be_visible()

    inbox.get_by_role("link", name="Verify your e-mail address").first.click(
        timeout=30_000
    )  # it appears without a reload
    with inbox.context.expect_page() as opened:
        inbox.frame_locator("iframe").get_by_role("link", name="Verify my address").click()
    reader = opened.value
    reader.get_by_label("The password that you chose here").fill(
        "correct horse 9 battery"
    )  # another browser, as on a phone
    reader.get_by_role("button", name="Verify my address").click()
    expect(reader.get_by_role("heading", level=1)).to_have_text("Your address is verified")
    reader.goto(reader.url)
    expect(reader.get_by_role("heading", level=1)).to_have_text("This link has already been used")

    page.goto(f"{running.site}/accounts/login/")
    page.get_by_label("E-mail address").fill("Ann@Example.com")
    page.get_by_label("Password").fill("correct horse 9 battery")
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{running.site}/")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Sign up").first).to_be_visible()

    admin = new_page()
    log_in_to_admin(admin, running)
    expect(admin.get_by_role("link", name="Flower")).to_have_attribute("href", running.flower)
    admin.get_by_role("link", name="Messages", exact=True).first.click()
    admin.get_by_role("row", name="ann@example.com").get_by_role("link").first.click()
    expect(admin.get_by_role("cell", name="accepted")).to_be_visible()

    flower = new_page(http_credentials=running.operator)
    flower.goto(f"{running.flower}/tasks")
    expect(flower.get_by_text("mailer.tasks.deliver_message").first).to_be_visible()


def test_pages_on_a_phone_in_dark_mode_and_in_thai(running: Running, new_page: Callable[..., Page]) -> None:
    page = new_page(locale="th", color_scheme="dark", viewport={"width": 390, "height": 800})
    page.goto(f"{running.site}/accounts/signup/")
    page.locator("[name=email]").fill("thai@example.com")
    page.locator("[name=password1]").fill("correct horse 9 battery")
    page.locator("[name=password2]").fill("correct horse 9 battery")
    page.locator("main button").click()
    expect(page.get_by_text("thai@example.com")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    page.goto(f"{running.inbox}/?q=thai@example.com")
    page.locator("main a[href*='/messages/']").first.click(timeout=30_000)
    expect(page.frame_locator("iframe").locator("html")).to_have_attribute("lang", "th")


def test_a_staff_member_sends_a_test_mail(running: Running, new_page: Callable[..., Page]) -> None:
    admin = new_page()
    log_in_to_admin(admin, running)
    admin.get_by_role("link", name="Send a test e-mail").click()
    admin.get_by_label("Send to").fill("bob@example.com")
    admin.get_by_role("button", name="Send a test e-mail").click()
    expect(admin.get_by_text("is queued")).to_be_visible()

    inbox = new_page()
    inbox.goto(f"{running.inbox}/?q=bob@example.com")
    expect(inbox.get_by_role("link", name="Test e-mail from Postcommit").first).to_be_visible(timeout=30_000)

"""What a person does, in a real Chromium against the whole stack."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.environment import new_directory
from tests.smtp_sink import Sink
from tests.stack import Stack


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with (
        Sink() as sink,
        Stack(new_directory("stack"), sink, FLOWER_URL="http://localhost:5555") as stack,
    ):
        stack.manage("createsuperuser", "--noinput", "--email=a@example.com", DJANGO_SUPERUSER_PASSWORD="admin pass 1")
        stack.start("web", "worker", "beat")
        yield stack


@pytest.mark.timeout(120)
def test_sign_up_verify_log_in_and_find_it_in_the_admin(stack: Stack, new_page: Callable[..., Page]) -> None:
    stack.sink.received.clear()
    page = new_page()
    page.goto(stack.url)
    page.get_by_role("link", name="Sign up").first.click()
    page.get_by_label("E-mail address").fill("ann@example.com")
    page.get_by_label("Password", exact=True).fill("correct horse 9 battery")
    page.get_by_label("Password, once more").fill("correct horse 9 battery")
    page.get_by_role("button", name="Sign up").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Check your inbox")
    expect(page.get_by_text("ann@example.com")).to_be_visible()

    stack.wait_for(lambda: stack.sink.received, "the mail")
    link = stack.sink.received[0].link

    reader = new_page(color_scheme="dark", viewport={"width": 390, "height": 800})
    reader.goto(link)
    reader.get_by_role("button").filter(has_text=re.compile("verify|confirm", re.IGNORECASE)).click()
    expect(reader.get_by_role("heading", level=1)).to_have_text("Your address is verified")
    reader.goto(link)
    expect(reader.get_by_role("heading", level=1)).to_have_text("This link has already been used")

    page.goto(f"{stack.url}/accounts/login/")
    page.get_by_label("E-mail address").fill("Ann@Example.com")
    page.get_by_label("Password").fill("correct horse 9 battery")
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{stack.url}/")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Sign up").first).to_be_visible()

    admin = new_page()
    admin.goto(f"{stack.url}/admin/")
    admin.get_by_label("E-mail address").fill("a@example.com")
    admin.get_by_label("Password").fill("admin pass 1")
    admin.get_by_role("button", name="Log in").click()
    expect(admin.get_by_role("link", name="Flower")).to_have_attribute("href", "http://localhost:5555")
    admin.get_by_role("link", name="Messages").first.click()
    admin.get_by_role("link", name="1", exact=True).first.click()
    expect(admin.get_by_text("accepted").first).to_be_visible()


@pytest.mark.timeout(120)
def test_a_staff_member_sends_a_test_mail(stack: Stack, new_page: Callable[..., Page]) -> None:
    admin = new_page()
    admin.goto(f"{stack.url}/admin/mailer/message/send-test/")
    admin.get_by_label("E-mail address").fill("a@example.com")
    admin.get_by_label("Password").fill("admin pass 1")
    admin.get_by_role("button", name="Log in").click()
    before = len(stack.sink.received)

    admin.get_by_role("button", name="Send a test e-mail").click()

    expect(admin.get_by_text("is queued")).to_be_visible()
    stack.wait_for(lambda: len(stack.sink.received) > before, "the test mail")
    assert stack.sink.received[-1].recipients == ["a@example.com"]

"""An operator presses the buttons of the pages about mail in a real Chromium, under the site's own content policy."""

from collections.abc import Callable, Iterator

import pytest
from django.test import Client
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from accounts.models import User
from mailer import outbox
from mailer.models import Message, State
from tests.mailer.kinds import Plain

pytestmark = [pytest.mark.timeout(60), pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module", autouse=True)
def rows_beside_playwright() -> Iterator[None]:
    """Let the ORM work while Playwright's event loop is open: nothing here is asynchronous."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield


@pytest.fixture
def operator(client: Client, live_server: LiveServer, new_page: Callable[..., Page]) -> Page:
    """The admin's front page, seen by a person who is logged in."""
    client.force_login(User.objects.create_superuser("olga@example.com", name="Olga"))
    page = new_page(locale="en", viewport={"width": 1280, "height": 900})
    page.context.add_cookies(
        [{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": live_server.url}]
    )
    page.set_default_timeout(10_000)
    page.goto(f"{live_server.url}/admin/")
    return page


def test_a_failed_mail_is_found_and_retried_and_its_history_says_who_did_it(operator: Page, user: User) -> None:
    message = outbox.enqueue(Plain(user))
    outbox.enqueue(Plain(user))
    Message.objects.filter(pk=message.pk).update(state=State.FAILED, reason="552 5.2.2 mailbox full")
    said = operator.locator(".mail-sentence")

    operator.get_by_role("searchbox").fill("ANN@exam")
    operator.keyboard.press("Enter")
    operator.locator(f"a[href*='/message/{message.pk}/']").click()
    expect(said).to_contain_text("552 5.2.2 mailbox full")
    operator.locator(".mail-answer button.default", has_text="Retry").click()
    expect(operator.get_by_text("1 message queued again.")).to_be_visible()
    expect(said).not_to_contain_text("552")
    expect(operator.locator(".mail-timeline")).to_contain_text("pressed: Retry")
    message.refresh_from_db()
    assert message.state == State.QUEUED

    operator.get_by_role("link", name="History").click()
    expect(operator.locator("#change-history")).to_contain_text("olga@example.com")
    expect(operator.locator("#change-history")).to_contain_text("Retry")


def test_send_me_this_sends_the_sample_of_a_kind_to_the_person_who_presses_it(operator: Page) -> None:
    operator.locator("#content a[href$='/mailer/message/']").first.click()
    operator.get_by_role("link", name="Kinds of mail").click()
    operator.locator("a[href*='/accounts.VerifyAddress/']").click()
    expect(operator.frame_locator(".desktop iframe").locator("body")).not_to_be_empty()
    expect(operator.frame_locator(".phone iframe").locator("body")).not_to_be_empty()

    operator.get_by_role("button", name="Send me this").click()
    expect(operator.get_by_text("The sample is on its way to olga@example.com")).to_be_visible()

    [message] = Message.objects.all()
    assert message.recipient == "olga@example.com"

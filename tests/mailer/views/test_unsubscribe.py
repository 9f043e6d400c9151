"""The unsubscribe page, for people, mail clients, scanners and attackers."""

import logging
import re
from datetime import timedelta
from io import StringIO
from typing import Any, ClassVar

import pytest
import time_machine
from django.test import Client
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from pytest_django import Settings
from structlog.stdlib import ProcessorFormatter

from accounts.models import User
from mailer.email import Stream
from mailer.models import Suppression
from mailer.recipients import subscriptions
from mailer.recipients.subscriptions import Membership
from tests.at_once import at_once
from tests.mailer.kinds import Plain

pytestmark = pytest.mark.django_db

OFFERS = Stream("offers", _("Profile"))
ANN = "ann.example@example.com"
ONE_CLICK = "List-Unsubscribe=One-Click"
FORM = "application/x-www-form-urlencoded"


class Offer(Plain):
    stream: ClassVar = OFFERS


@pytest.fixture
def browser() -> Client:
    """A client that is subject to CSRF checks, and raises server errors."""
    return Client(enforce_csrf_checks=True)


@pytest.fixture
def page() -> str:
    return reverse("unsubscribe", args=[subscriptions.token(ANN, OFFERS)])


def is_unsubscribed() -> bool:
    return subscriptions.is_unsubscribed(Membership(ANN, OFFERS))


def page_token(browser: Client, page: str) -> str:
    return str(browser.get(page).context["page_token"])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_get_changes_nothing(browser: Client, page: str, method: str) -> None:
    for expected in (False, True):
        response = browser.generic(method, page)
        assert (response.status_code, is_unsubscribed()) == (200, expected)
        subscriptions.unsubscribe(Membership(ANN, OFFERS))


def test_the_page_shows_stream_and_masked_address_and_one_button(browser: Client, page: str) -> None:
    text = browser.get(page).content.decode()

    assert "<strong>Profile</strong>" in text
    assert "a***@example.com" in text
    assert ANN not in text
    assert text.partition("<footer")[0].count("<button") == 1
    assert "<script" not in text


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (ONE_CLICK, FORM),
        (encode_multipart(BOUNDARY, {"List-Unsubscribe": "One-Click"}), MULTIPART_CONTENT),
        ("", FORM),
        (ONE_CLICK, "text/plain"),
    ],
)
def test_a_mail_client_unsubscribes_with_one_post(browser: Client, page: str, body: Any, content_type: str) -> None:
    response = browser.generic("POST", page, body, content_type=content_type)

    assert (response.status_code, is_unsubscribed()) == (200, True)
    assert not response.cookies


def test_a_second_post_changes_nothing(browser: Client, page: str) -> None:
    for _time in range(2):
        response = browser.post(page, {"List-Unsubscribe": "One-Click"})
        assert response.status_code == 200
        assert "You are unsubscribed" in response.content.decode()
    assert Suppression.objects.count() == 1


def test_a_recipient_can_subscribe_again(browser: Client, page: str) -> None:
    browser.post(page, {"List-Unsubscribe": "One-Click"})
    assert 'name="resubscribe"' in browser.get(page).content.decode()

    for _time in range(2):
        assert (
            "You are subscribed again"
            in browser.post(page, {"resubscribe": page_token(browser, page)}).content.decode()
        )
        assert not is_unsubscribed()


def test_ten_concurrent_posts_all_succeed(page: str, transactional_db: None) -> None:
    statuses, failures = at_once([lambda: Client().post(page, {"List-Unsubscribe": "One-Click"}).status_code] * 10)

    assert (statuses, failures, Suppression.objects.count()) == ([200] * 10, [], 1)


def test_the_page_is_in_the_language_of_the_browser(browser: Client, page: str) -> None:
    text = browser.get(page, headers={"Accept-Language": "th"}).content.decode()

    assert '<html lang="th"' in text
    assert "โปรไฟล์" in text


@pytest.mark.parametrize("glue", [">", ".", "/>", "/.", "%3E", "/%3E", ",", "/)", "%E2%80%9D", "/?utm_source=x"])
def test_characters_appended_to_the_link_do_not_break_it(browser: Client, page: str, glue: str) -> None:
    glued = page.rstrip("/") + glue

    assert browser.get(glued).status_code == 200
    assert browser.post(glued, {"List-Unsubscribe": "One-Click"}).status_code == 200
    assert is_unsubscribed()


def test_a_missing_slash_causes_no_redirect(browser: Client, page: str) -> None:
    assert browser.post(page.rstrip("/"), {"List-Unsubscribe": "One-Click"}).status_code == 200
    assert is_unsubscribed()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("cut", [-2, 40, 1])
def test_a_link_that_is_cut_is_explained(browser: Client, page: str, method: str, cut: int) -> None:
    response = browser.generic(method, f"{page.rstrip('/')[: len('/unsubscribe/') + cut if cut > 0 else cut]}/")

    assert response.status_code == 404
    assert method == "HEAD" or "We do not recognise this link" in response.content.decode()
    assert not Suppression.objects.exists()


@pytest.mark.parametrize(
    "path", ["/unsubscribe/%00/", "/unsubscribe/%ff%fe/", "/unsubscribe/../admin/", f"/unsubscribe/{'A' * 60_000}/"]
)
def test_an_invalid_path_causes_no_server_error(browser: Client, path: str) -> None:
    for answer in (browser.get(path), browser.post(path)):
        assert answer.status_code in (400, 404)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_another_method_is_refused(browser: Client, page: str, method: str) -> None:
    response = browser.generic(method, page, ONE_CLICK, content_type=FORM)

    assert (response.status_code, response["Allow"]) == (405, "GET, HEAD, POST")
    assert not is_unsubscribed()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("x=" + "y" * 3_000_000, FORM),
        ("&".join(f"x{n}=y" for n in range(1001)), FORM),
        (b"--x\r\nbroken", "multipart/form-data"),
    ],
)
def test_a_body_that_cannot_be_read_changes_nothing(browser: Client, page: str, body: Any, content_type: str) -> None:
    response = browser.generic("POST", page, body, content_type=content_type)

    assert response.status_code == 400
    assert "<h1" in response.content.decode()
    assert not is_unsubscribed()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("is_broken", [False, True])
def test_the_url_is_not_sent_as_referrer_and_the_page_is_not_cached(
    browser: Client, page: str, method: str, is_broken: bool
) -> None:
    response = browser.generic(method, "/unsubscribe/broken/" if is_broken else page)

    assert response["Referrer-Policy"] == "strict-origin"
    assert "no-store" in response["Cache-Control"]
    assert 'name="robots" content="noindex"' in response.content.decode()


def test_token_and_address_are_not_logged(browser: Client, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = StringIO()
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, ProcessorFormatter):
            monkeypatch.setattr(handler, "stream", log)

    browser.get(page)
    browser.put(page)
    browser.post(page, {"resubscribe": page_token(browser, page)})
    browser.get(page.rstrip("/")[:-3])

    token = page.split("/")[2]
    assert "Method Not Allowed (PUT): /unsubscribe/***/" in log.getvalue()
    assert token[:-3] not in log.getvalue()
    assert "ann.example" not in log.getvalue()


def text_of(answer: Any) -> str:
    """Return the page without its own path, to which a switch of the language leads back."""
    return re.sub(r'name="next" value="[^"]*"', "", answer.content.decode())


def test_the_page_does_not_reveal_whether_an_account_exists(browser: Client, user: User) -> None:
    known, unknown = (
        text_of(browser.get(reverse("unsubscribe", args=[subscriptions.token(address, OFFERS)])))
        for address in (user.email, "a@example.com")
    )

    assert known == unknown


def test_the_page_does_not_reveal_other_suppressions(browser: Client, page: str) -> None:
    before = text_of(browser.get(page))
    Suppression.objects.create(address=ANN, reason="550 5.1.1 no such user")

    assert text_of(browser.get(page)) == before
    browser.post(page, {"resubscribe": page_token(browser, page)})
    assert Suppression.objects.filter(address=ANN, stream="").exists()


def test_the_page_works_without_templates_of_the_project(browser: Client, page: str, settings: Settings) -> None:
    settings.TEMPLATES = [engine | {"DIRS": []} for engine in settings.TEMPLATES]

    text = browser.get(page).content.decode()

    assert "mailer/page" in text
    assert "site.css" not in text
    assert "<title>Unsubscribe from these e-mails?</title>" in text
    assert text.partition("<footer")[0].count("<button") == 1


def test_markup_in_an_address_is_text(browser: Client) -> None:
    page = reverse("unsubscribe", args=[subscriptions.token('"x"@<b>evil</b>.example', OFFERS)])

    assert "<b>" not in browser.get(page).content.decode()


@pytest.mark.parametrize("value", ["", "1", "page", "page:1vOQ1P:x"])
def test_a_form_on_another_site_cannot_resubscribe(page: str, value: str) -> None:
    browser = Client()
    browser.post(page, {"List-Unsubscribe": "One-Click"})

    answer = browser.post(page, {"resubscribe": value})

    assert "You are unsubscribed" in answer.content.decode()
    assert is_unsubscribed()


def test_the_token_of_a_page_works_for_an_hour_and_for_its_own_link(page: str) -> None:
    browser = Client()
    other = reverse("unsubscribe", args=[subscriptions.token("bob@example.com", OFFERS)])
    for address in (page, other):
        browser.post(address, {"List-Unsubscribe": "One-Click"})

    browser.post(page, {"resubscribe": page_token(browser, other)})
    assert is_unsubscribed()
    token = page_token(browser, page)
    with time_machine.travel(timezone.now() + timedelta(hours=2)):
        browser.post(page, {"resubscribe": token})
    assert is_unsubscribed()
    browser.post(page, {"resubscribe": token})
    assert not is_unsubscribed()

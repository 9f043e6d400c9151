"""Passkeys: who may add and use one, and what broken requests get. The whole of it runs in tests/browser."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles.finders import find
from django.test import Client
from django.urls import reverse
from django_otp_webauthn.models import WebAuthnCredential
from pytest_django import Settings

from accounts.models import User
from tests.accounts.steps import PASSWORD, log_in, member

# The fixtures of a member of staff, in production, are the same.
from tests.accounts.test_second_factor import ann, app, code_of, give, production  # noqa: F401

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("production")]

ADD = [reverse(f"otp_webauthn:credential-registration-{step}") for step in ("begin", "complete")]
USE = [reverse(f"otp_webauthn:credential-authentication-{step}") for step in ("begin", "complete")]
BROKEN: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"5",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    json.dumps({"id": "a", "rawId": "a", "response": {}, "type": "public-key"}).encode(),
    json.dumps(
        {
            "id": "AAAA",
            "rawId": "AAAA",
            "type": "public-key",
            "response": {
                "clientDataJSON": "e30",
                "attestationObject": "oA",
                "authenticatorData": "AAAA",
                "signature": "AAAA",
            },
        }
    ).encode(),
    json.dumps({"id": 5, "rawId": {"a": 1}, "response": [], "type": None}).encode(),
]


def send(browser: Client, url: str, body: bytes = b"") -> Any:
    return browser.post(url, body, content_type="application/json")


def with_password(browser: Client) -> Client:
    browser.post(reverse("second_factor_password"), {"password": PASSWORD})
    return browser


@pytest.mark.parametrize("url", ADD + USE)
def test_visitors_and_users_who_are_no_staff_get_nothing(url: str) -> None:
    member()
    assert {send(Client(), url).status_code, send(with_password(log_in()), url).status_code} == {403}


@pytest.mark.parametrize("url", ADD)
def test_a_stolen_session_adds_no_passkey(url: str, ann: User) -> None:  # noqa: F811
    assert send(log_in(), url).status_code == 403


@pytest.mark.parametrize("url", ADD)
def test_the_password_alone_adds_no_passkey_beside_an_app(url: str, ann: User, app: Any) -> None:  # noqa: F811
    assert send(with_password(log_in()), url).status_code == 403


def test_the_host_of_a_passkey_is_that_of_the_site_url(ann: User, settings: Settings) -> None:  # noqa: F811
    settings.ALLOWED_HOSTS = ["*"]
    browser = with_password(log_in())
    for host in ("evil.example", "localhost"):
        options = browser.post(ADD[0], headers={"host": host}).json()
        assert options["rp"] == {"id": "localhost", "name": "Postcommit"}
        assert browser.post(USE[0], headers={"host": host}).json()["rpId"] == "localhost"


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_request_is_answered_with_4xx(body: bytes, ann: User) -> None:  # noqa: F811
    browser = with_password(log_in())
    for begin, complete in (ADD, USE):
        assert send(browser, begin).status_code == 200
        assert 400 <= send(browser, complete, body).status_code < 500
        assert send(browser, complete, body).status_code == 400  # the challenge is used up
    assert not WebAuthnCredential.objects.exists()
    assert browser.get("/admin/").status_code == 302


def test_a_passkey_of_another_person_is_refused(ann: User, app: Any) -> None:  # noqa: F811
    bob = member("bob@example.com")
    WebAuthnCredential.objects.create(user=bob, credential_id=b"\0\0\0", public_key=b"", name="passkey")
    browser = log_in()
    assert send(browser, USE[0]).json()["allowCredentials"] == []
    assert send(browser, USE[1], BROKEN[8]).status_code == 403


def test_after_a_code_a_passkey_may_be_added(ann: User, app: Any) -> None:  # noqa: F811
    browser = log_in()
    give(browser, code_of())
    assert send(browser, ADD[0]).status_code == 200


def test_the_words_of_the_script_are_translated() -> None:
    words = Client(headers={"accept-language": "th"}).get(reverse("otp_webauthn:js-i18n-catalog")).content.decode()
    script = Path(str(find("django_otp_webauthn/otp_webauthn_auth.js"))).read_text()
    script += Path(str(find("django_otp_webauthn/otp_webauthn_register.js"))).read_text()
    spoken = set(re.findall(r'gettext\("([^"]+)"\)', script))
    assert len(spoken) > 20
    assert {text for text in spoken if json.dumps(text) not in words} == set()

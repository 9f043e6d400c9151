"""Requests that no browser sends get a clear answer, no server error, and no secret is logged."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import requests
from django.core import mail
from django.core.mail import EmailMultiAlternatives
from django.test import Client
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from accounts.models import User
from mailer.delivery.pipeline import deliver
from mailer.models import Message
from tests.accounts.steps import deliver_all
from tests.environment import new_directory
from tests.smtp_sink import Sink
from tests.stack import Stack

PASSWORD = "correct horse 9 battery"
SECRET = "Secret-9-passphrase"
FORM = "application/x-www-form-urlencoded"
PAGES = ["signup", "login", "resend", "password_reset"]
FIELDS = {
    "email": "ann@example.com",
    "username": "ann@example.com",
    "password": SECRET,
    "password1": SECRET,
    "password2": SECRET,
}
CRLF = "\r\n"

Send = Callable[[Client, str], Any]


def raw(body: bytes | str, content_type: str = FORM) -> Send:
    return lambda client, path: client.generic("POST", path, body, content_type=content_type)


def fields(**changes: str) -> Send:
    return lambda client, path: client.post(path, FIELDS | changes)


BROKEN_PART = encode_multipart(BOUNDARY, {"email": "BROKEN"}).replace(b"BROKEN", b"\xff\xfe")
FILES = encode_multipart(BOUNDARY, {}).replace(
    b"--" + BOUNDARY.encode(),
    b"".join(
        f'--{BOUNDARY}{CRLF}Content-Disposition: form-data; name="f"; filename="f"{CRLF}{CRLF}x{CRLF}'.encode()
        for _ in range(200)
    )
    + b"--"
    + BOUNDARY.encode(),
)

ODD: dict[str, tuple[Send, set[int]]] = {
    "nothing": (raw(b""), {200}),
    "a password of 3 MB": (fields(password="x" * 3_000_000, password1="x" * 3_000_000), {400}),
    "a password of 3 MB, encoded": (raw(b"password=" + b"x" * 3_000_000), {400}),
    "an address of 1 MB": (raw(b"email=" + b"a" * 1_000_000 + b"@x.com&username=" + b"a" * 1_000_000), {200}),
    "NUL in every field": (fields(**{name: f"a\0{value}" for name, value in FIELDS.items()}), {200}),
    "NUL in a name": (raw(b"em%00ail=a&%00=b"), {200}),
    "broken UTF-8": (raw(b"email=\xff\xfe%ff%c0%af@x.com&username=%ed%a0%80&password=\x80"), {200}),
    "broken UTF-8 in a part": (raw(BROKEN_PART, MULTIPART_CONTENT), {200}),
    "another charset": (raw("email=ann@example.com".encode("utf-16"), f"{FORM}; charset=utf-16"), {200, 400}),
    "2000 fields": (raw("&".join(f"field{n}=x" for n in range(2000))), {400}),
    "2000 times one field": (raw("&".join(["email=ann@example.com"] * 2000)), {400}),
    "900 times one field": (raw("&".join(["email=ann@example.com"] * 900)), {200, 302}),
    "200 files": (raw(FILES, MULTIPART_CONTENT), {400}),
    "JSON": (raw('{"email": "ann@example.com"}', "application/json"), {200}),
    "XML": (raw('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>', "text/xml"), {200}),
    "no content type": (raw(b"email=ann@example.com", ""), {200}),
    "multipart without a boundary": (raw(b"--x\r\n", "multipart/form-data"), {400}),
    "multipart that ends early": (
        raw(b'--x\r\nContent-Disposition: form-data; name="email"\r\n\r\na', "multipart/form-data; boundary=x"),
        {200},
    ),
    "a list for a field": (raw("email[]=a&email[0]=b&email.x=c&username[$ne]=1"), {200}),
    "PUT": (lambda client, path: client.put(path, FIELDS), {405}),
    "DELETE": (lambda client, path: client.delete(path), {405}),
    "PATCH": (lambda client, path: client.patch(path), {405}),
    "TRACE": (lambda client, path: client.trace(path), {405}),
    "an invented method": (lambda client, path: client.generic("GETS", path), {405}),
    "HEAD": (lambda client, path: client.head(path), {200}),
}


@pytest.fixture
def owner(db: None) -> User:
    return User.objects.create_user("ann@example.com", PASSWORD, email_verified_at=timezone.now(), was_verified=True)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("what", ODD)
def test_an_odd_request_gets_a_clear_answer(
    owner: User, caplog: pytest.LogCaptureFixture, page: str, what: str
) -> None:
    send, statuses = ODD[what]

    response = send(Client(raise_request_exception=False), reverse(page))

    assert response.status_code in statuses
    assert SECRET not in caplog.text
    assert not [line for line in caplog.records if line.levelname == "ERROR" and line.name == "django.request"]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "token", [None, "", "x", "é" * 32, "a" * 32, "a" * 64, "a\0" * 16, "a" * 100_000], ids=lambda token: repr(token)[:9]
)
def test_a_form_without_csrf_token_is_refused(owner: User, page: str, token: str | None) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.get(reverse(page))

    response = browser.post(reverse(page), FIELDS if token is None else FIELDS | {"csrfmiddlewaretoken": token})

    assert response.status_code == 403
    assert not Message.objects.exists()
    assert User.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}])
def test_a_form_from_another_site_is_refused(headers: dict[str, str]) -> None:
    browser = Client(enforce_csrf_checks=True)

    assert browser.post(reverse("signup"), FIELDS | token_of(browser, "signup"), headers=headers).status_code == 403


@pytest.mark.django_db
def test_a_repeated_sign_up_makes_no_second_account_and_no_second_mail() -> None:
    browser = Client(enforce_csrf_checks=True)
    form = FIELDS | token_of(browser, "signup")

    answers = [browser.post(reverse("signup"), form).status_code for _ in range(5)]

    assert answers == [302] * 5
    deliver_all()
    assert (User.objects.count(), len(mail.outbox)) == (1, 1)


def test_a_log_in_repeated_after_log_out_is_refused(owner: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    form = {"username": "ann@example.com", "password": PASSWORD} | token_of(browser, "login")
    assert browser.post(reverse("login"), form).status_code == 302

    assert browser.post(reverse("login"), form).status_code == 403  # Django changes the token at each log-in


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "x",
        "a" * 32,
        "a" * 8000,
        "'; DROP TABLE accounts_session; --",
        "../../etc/passwd",
        "é",
        "%00",
        '"',
        "a=b;;;=;",
    ],
)
def test_an_invalid_session_is_replaced(owner: User, cookie: str) -> None:
    browser = Client(headers={"Cookie": f"sessionid={cookie}; csrftoken={cookie}; django_language={cookie}"})

    assert browser.get(reverse("profile")).status_code == 302
    assert browser.get(reverse("signup")).status_code == 200
    response = browser.post(reverse("login"), {"username": "ann@example.com", "password": PASSWORD})
    assert response.status_code == 302
    assert response.cookies["sessionid"].value not in ("", cookie)


def test_log_in_changes_the_session_key(owner: User, client: Client) -> None:
    client.post(reverse("resend"), {"email": "ann@example.com"})
    before = client.cookies["sessionid"].value
    client.post(reverse("login"), {"username": "ann@example.com", "password": PASSWORD})

    assert client.cookies["sessionid"].value != before


@pytest.mark.parametrize("page", ["signup", "password_reset", "resend"])
def test_no_header_changes_a_link(owner: User, settings: Settings, page: str) -> None:
    settings.VERIFICATION_DELAY = 0
    if page == "resend":
        User.objects.update(email_verified_at=None)
    evil = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Server": "evil.example", "Forwarded": "host=evil.example"}
    Client(headers=evil).post(reverse(page), FIELDS)
    for message in Message.objects.all():
        deliver(message.pk)

    [sent] = mail.outbox
    whole = str(sent.body) + str(cast(EmailMultiAlternatives, sent).alternatives)
    assert "evil" not in whole
    assert set(re.findall(r"https?://[^/\s\"<]+", whole)) == {"http://localhost:8000"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "host", ["evil.example", "localhost:8000@evil.example", "localhost.evil.example", "a b", "[", ""]
)
def test_a_request_with_a_wrong_host_sends_no_mail(host: str) -> None:
    response = Client(headers={"Host": host}).post(reverse("password_reset"), {"email": "ann@example.com"})

    assert response.status_code == 400
    assert not Message.objects.exists()


@pytest.fixture(scope="module")
def site() -> Iterator[Stack]:
    """Start gunicorn as in production."""
    with (
        Sink() as sink,
        Stack(new_directory("hostile"), sink, DEBUG="0", DEFAULT_FROM_EMAIL="shop@example.com") as stack,
    ):
        stack.manage("collectstatic", "--no-input", "--verbosity", "0")
        stack.start("web")
        yield stack


@pytest.mark.timeout(120)
def test_through_gunicorn_nothing_is_a_server_error_and_no_secret_is_logged(site: Stack) -> None:
    login = f"{site.url}/accounts/login/"
    statuses = [send_raw(site, request) for request in RAW]
    with requests.Session() as browser:
        browser.get(login, timeout=10)
        token = {"csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        for typed in (SECRET, "ann.secret@example.com", "x" * 3_000_000, "\0"):
            form = {"username": typed, "password": f"{SECRET}{typed}"} | token
            statuses.append(browser.post(login, data=form, timeout=10).status_code)
            statuses.append(browser.post(login, files={"x": ("x", typed)}, data=form, timeout=10).status_code)
            statuses.append(browser.post(f"{site.url}/accounts/signup/", data=form, timeout=10).status_code)
    paths = (f"/accounts/login/?next={SECRET}", f"/{SECRET}@example.com/", "/accounts/verify/x/")
    statuses += [requests.get(site.url + path, timeout=10).status_code for path in paths]

    assert [status for status in statuses if not 200 <= status < 500] == []
    log = site.log("web")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert "accounts/login/" in [line.get("route") for line in lines]
    assert [line for line in lines if line["level"] == "error" and line["logger"] == "django.request"] == []
    for secret in (SECRET.lower(), "ann.secret"):
        assert secret not in log.lower()


BODY = f"username=ann.secret%40example.com&password={SECRET}"
RAW = [
    f"POST /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{BODY}",
    f"POST /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\nConnection: close\r\n\r\n{BODY}",
    f"POST /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\nConnection: close\r\n\r\n{BODY}",
    f"POST /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}; charset=utf-7\r\n"
    f"Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n{BODY}",
    "GETS /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "get /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET /accounts/login/ HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n",
    "GET /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nHost: other.example\r\nConnection: close\r\n\r\n",
    "GET /accounts/login/?next=//other.example%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET /%ff%fe%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nCookie: sessionid=\xff\x01; ;;=\r\nConnection: close\r\n\r\n",
    f"GET /accounts/login/ HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {'1.2.3.4, ' * 500}\r\nConnection: close\r\n\r\n",
    "GET http://other.example/accounts/login/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "nonsense\r\n\r\n",
]


def send_raw(site: Stack, request: str) -> int:
    """Return the status of gunicorn's answer."""
    with socket.create_connection(("127.0.0.1", site.web_port), timeout=10) as connection:
        connection.sendall(request.replace("Host: localhost\r", f"Host: localhost:{site.web_port}\r").encode("latin-1"))
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split(None, 2)[1])


def token_of(browser: Client, page: str) -> dict[str, str]:
    browser.get(reverse(page))
    return {"csrfmiddlewaretoken": browser.cookies["csrftoken"].value}

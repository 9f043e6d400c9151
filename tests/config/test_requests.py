"""Unusual requests get an answer below 500, and one line in the access log."""

import uuid

import pytest
from django.test import Client, RequestFactory
from pytest_django import Settings
from structlog.testing import capture_logs

from accounts.models import User
from config.wsgi import application


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/?x=%00", "/%00", "/accounts/login/?next=%00", "/admin/mailer/message/?kind=%00"])
def test_a_nul_in_an_address_is_a_bad_request(client: Client, path: str) -> None:
    client.force_login(User.objects.create_superuser("admin@example.com"))

    assert client.get(path).status_code in (400, 404)


@pytest.mark.django_db
def test_a_nul_in_a_cookie_is_a_bad_request(client: Client) -> None:
    assert client.get("/", headers={"Cookie": 'sessionid="\\000aaaaaaaaaaa"'}).status_code == 400


@pytest.mark.django_db
@pytest.mark.parametrize(
    "content_type", ["x*=bogus''a", "text/plain; charset*=utf-8''%00", "text/plain; charset=rot13"]
)
def test_an_unknown_charset_is_a_bad_request(content_type: str) -> None:
    answers: list[str] = []
    environ = RequestFactory().get("/accounts/login/").environ | {"CONTENT_TYPE": content_type}

    list(application(environ, lambda status, headers: answers.append(status)))

    assert answers[0].split()[0] in ("200", "400")


@pytest.mark.django_db
def test_next_never_leads_to_the_login_page_or_another_site(client: Client) -> None:
    client.force_login(User.objects.create_superuser("admin@example.com"))

    assert client.get("/accounts/login/?next=/accounts/login/").headers["Location"] == "/"
    assert client.get("/accounts/login/?next=https://evil.example/").headers["Location"] == "/"


@pytest.mark.django_db
def test_browsers_do_not_store_the_home_page(client: Client) -> None:
    assert "no-store" in client.get("/")["Cache-Control"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("put", "/accounts/signup/", 405), ("delete", "/accounts/verify/resend/", 405), ("post", "/nowhere/", 404)],
)
def test_a_wrong_method_or_path_gets_its_status(client: Client, method: str, path: str, status: int) -> None:
    assert getattr(client, method)(path).status_code == status


@pytest.mark.django_db
def test_a_foreign_host_is_refused(client: Client) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"X-Forwarded-Host": "evil.example"}).status_code == 200


@pytest.mark.django_db
def test_the_access_log_has_the_route_and_not_the_path(client: Client) -> None:
    link = uuid.uuid4()
    with capture_logs() as lines:
        client.get(f"/accounts/verify/{link}/secret-code/")
        client.get("/healthz")

    [line] = [entry for entry in lines if entry["event"] == "request"]
    assert line["route"] == "accounts/verify/<uuid:verification_id>/<str:code>/"
    assert (line["method"], line["status"]) == ("GET", 404)
    assert str(link) not in str(lines)


@pytest.mark.django_db
@pytest.mark.parametrize("url", ["http://[::1]:8200", "https://xn--bcher-kva.example", "http://127.0.0.1:8000"])
def test_a_site_may_be_an_address_or_have_letters_of_any_language(url: str, settings: Settings) -> None:
    scheme, host = url.split("://")
    settings.ALLOWED_HOSTS = [host.removesuffix(":8200").removesuffix(":8000")]
    browser = Client(enforce_csrf_checks=True, headers={"host": host, "origin": url})
    secure = scheme == "https"
    page = browser.get("/accounts/signup/", secure=secure)
    assert page.status_code == 200

    answer = browser.post(
        "/accounts/signup/",
        {
            "email": "ann@example.com",
            "password1": "a long Password 1",
            "password2": "a long Password 1",
            "csrfmiddlewaretoken": page.context["csrf_token"],
        },
        secure=secure,
    )

    assert answer.status_code == 302

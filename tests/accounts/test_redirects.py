"""`next` leads only to pages of this site."""

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import User

PASSWORD = "correct horse 9 battery"
ELSEWHERE = [
    "https://evil.example/",
    "http://evil.example/",
    "//evil.example/",
    "///evil.example/",
    "////evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "\\/evil.example",
    "https:evil.example",
    "https:/evil.example",
    "https:///evil.example",
    "HTTPS://EVIL.example",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "data:text/html,<script>",
    "vbscript:x",
    "mailto:a@x.com",
    "//evil.example\\@testserver/",
    "https://testserver@evil.example/",
    "https://testserver.evil.example/",
    "https://testserver:x/",
    "http://[::1",
    "/\t/evil.example",
    "/\n/evil.example",
    "\t//evil.example",
    "\x08//evil.example",
    " //evil.example",
    "ftp://testserver/",
    "http://testserver:8080/",
]


@pytest.fixture
def owner(db: None) -> User:
    return User.objects.create_superuser("ann@example.com", PASSWORD)


def leads_to(location: str) -> str:
    """Resolve a URL as browsers do: a backslash is a slash, tabs and line breaks are dropped."""
    return location.replace("\\", "/").translate({9: None, 10: None, 13: None})


@pytest.mark.parametrize("url", ELSEWHERE)
def test_next_never_leads_to_another_site(client: Client, owner: User, url: str) -> None:
    data = {"username": "ann@example.com", "password": PASSWORD}
    as_field = client.post(reverse("login"), data | {"next": url})
    already_in = client.get(reverse("login"), {"next": url})
    logged_out = client.post(reverse("logout"), {"next": url})
    in_address = client.post(reverse("login", query={"next": url}), data)

    for response in (as_field, already_in, logged_out, in_address):
        assert (response.status_code, response.headers["Location"]) == (302, "/")


@pytest.mark.parametrize(
    "url", ["%2F%2Fevil.example", "%5C%5Cevil.example", "/%2Fevil.example", "/%5Cevil.example", "/%09/evil.example"]
)
def test_next_is_not_decoded_twice(client: Client, owner: User, url: str) -> None:
    client.force_login(owner)
    location = client.get(reverse("login"), {"next": url}).headers["Location"]

    assert not leads_to(location).startswith("//")
    assert location in ("/", url)


@pytest.mark.parametrize("url", ["/accounts/profile/", "/accounts/profile/?a=b#c", "http://testserver/admin/", "?x=1"])
def test_next_can_be_a_page_of_this_site(client: Client, owner: User, url: str) -> None:
    client.force_login(owner)

    assert client.get(reverse("login"), {"next": url}).headers["Location"] == url


@pytest.mark.parametrize(
    "url", ["/accounts/login/", "/accounts/login/?next=/accounts/login/", "/accounts/login/#x", "", "?", "#"]
)
def test_the_login_page_does_not_redirect_to_itself(client: Client, owner: User, url: str) -> None:
    client.force_login(owner)

    response = client.get(reverse("login"), {"next": url}, follow=True)

    assert response.status_code == 200
    assert response.redirect_chain[-1][0] == "/"


def test_log_in_returns_to_the_requested_page(client: Client, owner: User) -> None:
    page = client.get(reverse("profile"))
    back = client.post(page.headers["Location"], {"username": "ann@example.com", "password": PASSWORD})

    assert back.headers["Location"] == reverse("profile")


def test_next_is_escaped(client: Client, db: None) -> None:
    page = client.get(reverse("login"), {"next": '/"><script>alert(1)</script>'}).content.decode()

    assert "<script>alert" not in page

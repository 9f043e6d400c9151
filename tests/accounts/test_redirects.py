"""Where `next` may lead: somewhere on this site, and nowhere else."""

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
    """Where a browser goes from this site: it takes a backslash for a slash, and drops tabs and line breaks."""
    return location.replace("\\", "/").translate({9: None, 10: None, 13: None})


@pytest.mark.parametrize("url", ELSEWHERE)
def test_nobody_is_sent_elsewhere(client: Client, owner: User, url: str) -> None:
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
def test_nobody_decodes_it_twice(client: Client, owner: User, url: str) -> None:
    client.force_login(owner)
    location = client.get(reverse("login"), {"next": url}).headers["Location"]

    assert not leads_to(location).startswith("//")
    assert location in ("/", url)


@pytest.mark.parametrize("url", ["/accounts/profile/", "/accounts/profile/?a=b#c", "http://testserver/admin/", "?x=1"])
def test_pages_of_this_site_are_fine(client: Client, owner: User, url: str) -> None:
    client.force_login(owner)

    assert client.get(reverse("login"), {"next": url}).headers["Location"] == url


@pytest.mark.parametrize(
    "url", ["/accounts/login/", "/accounts/login/?next=/accounts/login/", "/accounts/login/#x", "", "?", "#"]
)
def test_the_login_page_sends_nobody_in_circles(client: Client, owner: User, url: str) -> None:
    client.force_login(owner)

    response = client.get(reverse("login"), {"next": url}, follow=True)

    assert response.status_code == 200
    assert response.redirect_chain[-1][0] == "/"


def test_who_is_not_logged_in_comes_back_to_the_page(client: Client, owner: User) -> None:
    page = client.get(reverse("profile"))
    back = client.post(page.headers["Location"], {"username": "ann@example.com", "password": PASSWORD})

    assert back.headers["Location"] == reverse("profile")


def test_next_is_written_into_the_page_as_text(client: Client, db: None) -> None:
    page = client.get(reverse("login"), {"next": '/"><script>alert(1)</script>'}).content.decode()

    assert "<script>alert" not in page

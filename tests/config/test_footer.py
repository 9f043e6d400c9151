"""The footer of every page: links of this installation, and the other languages."""

import pytest
from django.test import Client
from django.urls import reverse
from environs import EnvError
from pytest_django import Settings

from config.environment import mail_address, page

LINKS = ("mailto:help@shop.example", 'href="/privacy"', 'href="https://shop.example/terms"')
PAGES = [reverse("home"), reverse("signup"), "/no-such-page/", reverse("unsubscribe", args=["a-broken-link"])]


@pytest.mark.django_db
@pytest.mark.parametrize("path", PAGES)
def test_every_page_links_to_what_is_set(path: str, client: Client, settings: Settings) -> None:
    without = client.get(path).content.decode()
    settings.SUPPORT_EMAIL = "help@shop.example"
    settings.PRIVACY_URL, settings.TERMS_URL = "/privacy", "https://shop.example/terms"
    with_links = client.get(path).content.decode()

    for link in LINKS:
        assert link not in without
        assert link in with_links
    assert "ไทย" in without


@pytest.mark.django_db
def test_another_language_stays_on_the_same_page(client: Client) -> None:
    answer = client.post(reverse("set_language"), {"language": "th", "next": reverse("signup")}, follow=True)

    assert answer.redirect_chain == [(reverse("signup"), 302)]
    assert '<html lang="th"' in answer.content.decode()


@pytest.mark.parametrize("value", ["javascript:alert(1)", "//evil.example/", "privacy", "https://"])
def test_the_address_of_a_page_is_a_url_or_a_path(value: str) -> None:
    with pytest.raises(EnvError, match="write a URL"):
        page(value)


def test_the_support_address_is_one_address() -> None:
    with pytest.raises(EnvError, match="write one address"):
        mail_address("help@shop.example, me@shop.example")

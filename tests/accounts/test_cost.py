"""The cost of a page: queries, and milliseconds compared with an empty Django view."""

import statistics
import time

import pytest
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import include, path, reverse
from pytest_django import Settings

from accounts import email_change, links, verification
from accounts.models import EmailChange, User

pytestmark = pytest.mark.django_db


def bare(request: HttpRequest) -> HttpResponse:
    """An empty view."""
    return HttpResponse("ok")


urlpatterns = [path("bare/", bare), path("", include("config.urls"))]


def public_pages() -> list[str]:
    """Return the pages that need no log-in, with open links."""
    user = User.objects.create_user("ann@example.com", "a password 1")
    link = verification.begin(user)
    email_change.request(user, "new@example.com")
    change = EmailChange.objects.get()
    named = ["signup", "check_inbox", "resend", "login", "password_reset"]
    followed = [links.to_verify(link), links.to_confirm_change(change), links.to_stop_change(change)]
    return [*map(reverse, named), *(followed_link.removeprefix("http://localhost:8000") for followed_link in followed)]


PRIVATE_PAGES = ["profile", "password_change", "email_change", "delete_account"]


def test_a_page_needs_at_most_five_queries(client: Client) -> None:
    for page in public_pages():
        assert queries_of(client, page) <= 5, page

    client.force_login(User.objects.get())
    for name in PRIVATE_PAGES:
        assert queries_of(client, reverse(name)) <= 5, name


def queries_of(client: Client, page: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(page).status_code == 200
    return len(captured)


def test_a_page_takes_under_ten_milliseconds(client: Client, settings: Settings) -> None:
    settings.ROOT_URLCONF = __name__
    settings.DEBUG = False
    pages = ["/bare/", *public_pages()]
    client.force_login(User.objects.get())
    pages = [page for page in pages if page != reverse("login")]  # it redirects users who are logged in
    pages += map(reverse, PRIVATE_PAGES)
    took: dict[str, list[float]] = {page: [] for page in pages}
    for _ in range(30):
        for page in pages:
            began = time.process_time()
            assert client.get(page).status_code == 200
            took[page].append((time.process_time() - began) * 1000)

    medians = {page: statistics.median(times) for page, times in took.items()}
    for page, median in medians.items():
        name = "/".join(part[:20] for part in page.split("/")[:4])
        print(f"\n{name:<40}{median:>7.2f} ms{median - medians['/bare/']:>+7.2f}", end="")
    assert max(medians.values()) < 20  # twice the target: other tests run at the same time

"""Steps of users in these tests, through the pages and their mailboxes."""

import re
from datetime import timedelta
from typing import Any

from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from mailer.models import Message
from mailer.testing.outbox import Outbox

ANN = "ann@example.com"
PASSWORD = "correct horse 9 battery"
NEW_PASSWORD = "quite another 7 horses"
LINK = re.compile(r"http://localhost:8000(/accounts/(?:verify|password-reset|email-change)/\S+/)")

DIGITS = re.compile(r"^(\d{6})$", re.MULTILINE)
"""The code beside a link, in the text of a mail."""


def member(email: str = ANN, password: str = PASSWORD) -> User:
    """Create a user with a verified address."""
    return User.objects.create_user(
        email, password, name="Ann", email_verified_at=timezone.now(), was_verified=True, language="en"
    )


def log_in(email: str = ANN, password: str = PASSWORD, **headers: str) -> Client:
    """Return a new browser that has tried to log in."""
    client = Client(headers=headers)
    client.post(reverse("login"), {"username": email, "password": password})
    return client


def sign_up(client: Client, email: str = ANN, password: str = PASSWORD) -> Any:
    return client.post(reverse("signup"), {"email": email, "password1": password, "password2": password}, follow=True)


def is_in(client: Client) -> bool:
    """Whether this browser is logged in."""
    return client.get(reverse("profile")).status_code == 200


def deliver_all() -> None:
    """Deliver everything, including mail with a delay."""
    Outbox().deliver(after=timedelta(minutes=1))


def link_to(address: str) -> str:
    """Return the path of the link in the newest mail to an address."""
    body = next(str(sent.body) for sent in reversed(mail.outbox) if address in sent.to[0])
    return LINK.findall(body)[0]  # type: ignore[no-any-return]


def link_to_reset(email: str = ANN) -> str:
    """Request a reset and return the path of its link."""
    Client().post(reverse("password_reset"), {"email": email})
    deliver_all()
    return link_to(email)


def choose(client: Client, link: str, password: str = NEW_PASSWORD) -> Any:
    """Follow a link to a new password and submit the form."""
    page = client.get(link, follow=True)
    return client.post(page.request["PATH_INFO"], {"new_password1": password, "new_password2": password})


def mails_to(address: str) -> list[tuple[str, str]]:
    """Return kind and state of every message to an address."""
    rows = Message.objects.filter(recipient=address).order_by("pk").values_list("kind", "state")
    return [(kind.removeprefix("accounts."), str(state)) for kind, state in rows]


def text_of(page: Any) -> str:
    """Return the page without its CSRF token."""
    return re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", page.content.decode())

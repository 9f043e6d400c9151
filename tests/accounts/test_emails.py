"""What mails about an account say, and the pages that tell people to wait for one."""

from datetime import timedelta

import pytest
import time_machine
from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from mailer import outbox
from tests.accounts.steps import ANN, PASSWORD, deliver_all, member, sign_up

pytestmark = pytest.mark.django_db


def newest() -> str:
    """Return the text of the newest mail, on one line."""
    return " ".join(str(mail.outbox[-1].body).split())


def test_the_deadline_of_a_link_is_in_hours_unless_a_time_zone_is_known() -> None:
    sign_up(Client())
    deliver_all()
    assert "The link works for 24 hours." in newest()

    User.objects.update(time_zone="Asia/Bangkok")
    with time_machine.travel(timezone.now() + timedelta(hours=2)):
        Client().post(reverse("resend"), {"email": ANN})
        deliver_all()
    assert "+07" in newest()
    assert "hours" not in newest()


def test_a_repeated_link_says_that_it_replaces_the_earlier_one() -> None:
    sign_up(Client())
    deliver_all()
    assert "replaces" not in newest()

    with time_machine.travel(timezone.now() + timedelta(minutes=2)):
        Client().post(reverse("resend"), {"email": ANN})
        deliver_all()
    assert "If we sent you a link before, this one replaces it." in newest()


PAGES_THAT_TELL_TO_WAIT = {
    "signup": "We are sending an e-mail to <strong>ann@example.com</strong>. Open it to go on.",
    "resend": "If <strong>ann@example.com</strong> belongs to an account here and is not verified yet, an e-mail",
    "password_reset": "If <strong>ann@example.com</strong> belongs to an account here, an e-mail with a link to choose",
    "email_change": "We are sending a link to <strong>ann@example.com</strong>.",
}


def ask(page: str) -> str:
    """Ask for a mail to ann@example.com, and return the page that follows."""
    client = Client()
    if page == "email_change":
        client.force_login(member("old@example.com"))
    form = {"email": ANN, "password": PASSWORD, "password1": PASSWORD, "password2": PASSWORD}
    return client.post(reverse(page), form, follow=True).content.decode()


@pytest.mark.parametrize("page", PAGES_THAT_TELL_TO_WAIT)
def test_after_a_form_the_page_says_what_happens(page: str) -> None:
    quick = ask(page)
    assert PAGES_THAT_TELL_TO_WAIT[page] in quick
    assert ("Ask again for a new password" in quick) is (page == "password_reset")
    assert "Our mail is slow" not in quick


@pytest.mark.parametrize("page", PAGES_THAT_TELL_TO_WAIT)
def test_while_mail_is_slow_the_page_says_so(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "is_slow", lambda: True)

    assert "Our mail is slow at the moment. Yours is kept and will come; you need not ask again." in ask(page)

"""The webhooks of all providers, through Anymail's own views: check who calls, store what is reported, answer.

What is stored is applied by a task, or by the sweep.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from http import HTTPStatus
from typing import Any

import requests
import structlog
from anymail.exceptions import AnymailConfigurationError
from anymail.signals import AnymailInboundEvent
from anymail.utils import get_anymail_setting
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import Error, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, resolve
from django.views.decorators.csrf import csrf_exempt

from mailer.database import is_away
from mailer.delivery import broker
from mailer.feedback import events, providers
from mailer.feedback.report import Report
from mailer.text import mask

log = structlog.get_logger(__name__)

SIGNED = {
    "mailersend_tracking_webhook": "MAILERSEND_SIGNING_SECRET",
    "mailersend_inbound_webhook": "MAILERSEND_INBOUND_SECRET",
    "mailgun_tracking_webhook": "MAILGUN_WEBHOOK_SIGNING_KEY",
    "mailgun_inbound_webhook": "MAILGUN_WEBHOOK_SIGNING_KEY",
    "mailtrap_tracking_webhook": "MAILTRAP_TRACKING_SECRET",
    "mailtrap_inbound_webhook": "MAILTRAP_INBOUND_SECRET",
    "mandrill_tracking_webhook": "MANDRILL_WEBHOOK_KEY",
    "postal_tracking_webhook": "POSTAL_WEBHOOK_KEY",
    "postal_inbound_webhook": "POSTAL_WEBHOOK_KEY",
    "resend_tracking_webhook": "RESEND_SIGNING_SECRET",
    "resend_inbound_webhook": "RESEND_INBOUND_SECRET",
    "sendgrid_tracking_webhook": "SENDGRID_TRACKING_WEBHOOK_VERIFICATION_KEY",
    "unisender_go_tracking_webhook": "UNISENDER_GO_API_KEY",
}
"""The settings with which Anymail checks signatures, by the names of its URLs. All others need WEBHOOK_SECRET."""
LOGIN = re.compile(r"[^:]+:.+")
"""Anymail would compare `None`, of a variable that is not set, with a log-in that is not there, and find them equal."""
LARGEST = 2_621_440
"""Octets of a request, unless DATA_UPLOAD_MAX_MEMORY_SIZE says something else."""
MOST_EVENTS = 10_000
"""Of one request. The largest batches of providers have a thousand."""
AGAIN = {"Retry-After": "30"}


class Unreadable(SuspiciousOperation):
    """The request is not what a provider sends."""


class NoAnswer(Exception):
    """Anymail asked the provider for the content of a mail, or to confirm a subscription (Amazon SNS), and got no answer."""


@contextmanager
def readable() -> Iterator[None]:
    """Raise Unreadable for whatever Anymail's parsers raise for a name or a type that they do not expect."""
    try:
        yield
    except (AnymailConfigurationError, SuspiciousOperation, NoAnswer):
        raise
    except Exception as error:
        is_of_network = isinstance(error, requests.RequestException) or type(error).__module__.startswith("botocore.")
        raise (NoAnswer if is_of_network else Unreadable)(type(error).__name__) from error


class Tolerant:
    """Mixed into a view of Anymail. An event that cannot be read is passed over, and the others of its batch are kept."""

    found: tuple[Any, ...] = ()
    read = unreadable = 0

    def run_validators(self, request: HttpRequest) -> None:
        with readable():
            super().run_validators(request)  # type: ignore[misc]

    def parse_events(self, request: HttpRequest) -> tuple[Any, ...]:
        with readable():
            self.found = tuple(event for event in super().parse_events(request) if event)  # type: ignore[misc]
        if self.unreadable and not self.found:
            raise Unreadable
        if len(self.found) > MOST_EVENTS:
            raise RequestDataTooBig
        return self.found

    def unwrap_event(self, raw: Any) -> Any:
        try:
            return super().unwrap_event(raw)  # type: ignore[misc]
        except (AttributeError, KeyError, TypeError):
            return "", {}, raw  # which cannot be read

    def esp_to_anymail_event(self, *args: Any) -> Any:
        self.read += 1
        if self.read > MOST_EVENTS:
            raise RequestDataTooBig
        try:
            with readable():
                return super().esp_to_anymail_event(*args)  # type: ignore[misc]
        except Unreadable:
            self.unreadable += 1
            return None


@csrf_exempt
@login_not_required
def webhook(request: HttpRequest, provider: str, kind: str) -> HttpResponse:
    """Store what a provider reports. Without a secret for it in the settings, there is no such page.

    2xx: stored, had before, or of no use. 4xx: not from the provider, or not readable. 503: the provider has to repeat it.
    """
    view = _view(f"/{provider}/{kind}/")
    if view is None:
        return _answer(HTTPStatus.NOT_FOUND)
    if _is_too_large(request):
        return _answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    try:
        view.setup(request)
        answer: HttpResponse = view.dispatch(request)
        _store(view)
    except AnymailConfigurationError as error:
        log.error("a webhook is not configured", provider=view.esp_name, error=mask(str(error)))
        return _answer(HTTPStatus.NOT_FOUND)
    except RequestDataTooBig:
        return _answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    except SuspiciousOperation as error:  # its text may hold addresses and secrets
        log.warning("a webhook was refused", provider=view.esp_name, error=type(error).__name__)
        return _answer(HTTPStatus.BAD_REQUEST)
    except (NoAnswer, Error) as error:
        if isinstance(error, Error) and not is_away(error):
            raise
        log.warning("a webhook has to be repeated", provider=view.esp_name, error=type(error).__name__)
        return _answer(HTTPStatus.SERVICE_UNAVAILABLE)
    return answer


def _view(address: str) -> Any:
    """Return Anymail's view, ready for one request; None if its provider sends nothing for us, or nothing can be checked."""
    try:
        found = resolve(address, "anymail.urls")
    except Resolver404:
        return None
    view_class = found.func.view_class  # type: ignore[attr-defined]
    if not events.transports_of(view_class.esp_name) or not _has_secret(found.url_name or ""):
        return None
    try:
        return _tolerant(view_class)()
    except (AnymailConfigurationError, ValueError) as error:  # ValueError: a key that is none
        log.error("a webhook is not configured", provider=view_class.esp_name, error=mask(str(error)))
        return None


@cache
def _tolerant(view_class: type) -> type:
    return type(view_class.__name__, (Tolerant, view_class), {})


def _has_secret(name: str) -> bool:
    """Return whether Anymail has something to check a request by. Otherwise it would believe everybody."""
    secret = get_anymail_setting("WEBHOOK_SECRET", default=None) or []
    logins = [secret] if isinstance(secret, str) else secret
    if not all(isinstance(login, str) and LOGIN.fullmatch(login) for login in logins):
        log.error("a webhook is not configured", error="WEBHOOK_SECRET is not user:password, or a list of such")
        return False
    return bool(logins or (name in SIGNED and get_anymail_setting(SIGNED[name], default=None)))


def _is_too_large(request: HttpRequest) -> bool:
    length = request.META.get("CONTENT_LENGTH") or "0"
    return length.isdecimal() and int(length) > (settings.DATA_UPLOAD_MAX_MEMORY_SIZE or LARGEST)


def _store(view: Any) -> None:
    """Store what the events report: of each source in one statement, and then a task to apply it."""
    bounced: list[Report] = []
    tracked: list[Report] = []
    for event in view.found:
        if isinstance(event, AnymailInboundEvent):
            bounced += providers.bounced(event)
        elif report := providers.report(view.esp_name, event):
            tracked.append(report)
    stored = events.store(events.BOUNCE_MAIL, bounced) + events.store(view.esp_name, tracked)
    if stored:
        transaction.on_commit(partial(broker.publish_events, stored), robust=True)
    if view.found:
        log.info("reports", provider=view.esp_name, events=len(view.found), stored=stored, unreadable=view.unreadable)


def _answer(status: HTTPStatus) -> HttpResponse:
    headers = AGAIN if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return HttpResponse(f"{status.phrase}.\n", "text/plain", status, headers=headers)

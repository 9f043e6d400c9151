"""Check the project's settings. Web processes and workers run these checks when they start."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from celery import current_app
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import InvalidMailer, mailers
from django.core.mail.backends import console, dummy, locmem
from django.core.mail.handler import DEFAULT_MAILER_BACKEND
from django.db import connection
from django.utils.module_loading import import_string

from mailer import routes
from mailer.addresses import mailbox
from mailer.conf import HORIZON, options
from mailer.delivery import limits
from mailer.transports import anymail, smtp, staging

KOMBU_VISIBILITY_TIMEOUT = 3600
"""Its default for Redis, in seconds."""
ADDRESS_HINT = "Write it as in Shop <hello@shop.example>; quote a name with a comma."
RESTRICTED: tuple[type, ...] = (smtp.EmailBackend, *anymail.BACKENDS)
SENDING_NOTHING = (console.EmailBackend, dummy.EmailBackend, locmem.EmailBackend)  # the file-based backend is a console


@register("postcommit")
def check_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Check POSTCOMMIT, MAILERS, DEFAULT_FROM_EMAIL and Celery's settings."""
    try:
        options()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="mailer.E010")]
    if missing := [*_missing_backends()]:
        return missing  # the other checks load every backend
    return [*_sender(), *_transports(), *_celery(), *_database()]


def _missing_backends() -> Iterator[CheckMessage]:
    for alias, mailer in mailers.settings.items():
        path = mailer.get("BACKEND", DEFAULT_MAILER_BACKEND)
        try:
            import_string(path)
        except ImportError as error:
            found = f"names a BACKEND that cannot be imported: {error}"
            if path.startswith("anymail.") and not anymail.BACKENDS:
                found = "uses Anymail, which is not installed: pip install django-postcommit[anymail]"
            yield Error(f"MAILERS[{alias!r}] {found}", id="mailer.E014")


def _sender() -> Iterator[CheckMessage]:
    if mailbox(settings.DEFAULT_FROM_EMAIL) is None:
        yield Error("DEFAULT_FROM_EMAIL is not one address.", hint=ADDRESS_HINT, id="mailer.E011")
    try:
        smtp.dkim_signer()
    except ImproperlyConfigured as error:
        yield Error(str(error), id="mailer.E012")


def _transports() -> Iterator[CheckMessage]:
    if routes.PRIMARY not in mailers.settings:
        yield Error(f"MAILERS has no {routes.PRIMARY!r}, which sends the mail of the outbox.", id="mailer.E007")
        return
    outboxes = {routes.PRIMARY, routes.FALLBACK}.intersection(mailers.settings).difference(routes.names())
    for alias in sorted(outboxes):
        yield Error(f"MAILERS[{alias!r}] is an outbox, so its mail would never be sent.", id="mailer.E008")
    for alias in () if outboxes else mailers.settings:
        try:
            limits.of(alias)
            backend = mailers[alias]  # builds it, opens nothing
        except InvalidMailer as error:
            yield Error(str(error), id="mailer.E014")
        except ImproperlyConfigured as error:  # of a limit or of Anymail; its text names the option, never a value
            yield Error(f"MAILERS[{alias!r}]: {error}", id="mailer.E014")
        else:
            yield from _transport(alias, backend)


def _transport(alias: str, backend: Any) -> Iterator[CheckMessage]:
    if alias in routes.names() and vars(backend).get("fail_silently"):
        yield Error(f"MAILERS[{alias!r}]: remove 'fail_silently', which hides the server's answers.", id="mailer.E015")
    unseen = sorted(getattr(backend, "send_defaults", {}).keys() & staging.ADDING_RECIPIENTS)
    if staging.is_test_system() and unseen:
        yield Error(
            f"MAILERS[{alias!r}]: Anymail's SEND_DEFAULTS set {unseen[0]!r} on every message, which may add recipients after "
            "POSTCOMMIT_REDIRECT_ALL_TO and POSTCOMMIT_ALLOWED_RECIPIENTS were applied. Remove it on a test system.",
            id="mailer.E016",
        )
    if staging.is_test_system() and alias in routes.names() and not isinstance(backend, RESTRICTED + SENDING_NOTHING):
        yield CheckWarning(
            f"MAILERS[{alias!r}] ({type(backend).__module__}.{type(backend).__name__}) ignores POSTCOMMIT_REDIRECT_ALL_TO and "
            f'POSTCOMMIT_ALLOWED_RECIPIENTS: mail sent with using="{alias}", without the outbox, reaches its recipients.',
            hint="On a test system use mailer.transports.smtp.EmailBackend or a provider of Anymail, or remove it.",
            id="mailer.W004",
        )


def _celery() -> Iterator[CheckMessage]:
    tasks = {entry.get("task") for entry in (current_app.conf.beat_schedule or {}).values()}
    if "mailer.tasks.purge" not in tasks:
        yield CheckWarning(
            "Celery beat does not run mailer.tasks.purge, so workers may run no housekeeping either, and a message whose task "
            "is lost would wait for ever. Call mailer.celery.configure(app) in your celery.py, and import that app in your "
            "package's __init__.py.",
            id="mailer.W005",
        )
    if current_app.conf.task_always_eager:
        yield CheckWarning(
            "task_always_eager: the process that commits also sends the mail. What is due later, or is refused for now, waits "
            "for manage.py deliver_due.",
            hint="In tests leave it out and use the fixture `outbox` of mailer.testing.pytest_plugin, or its class Outbox.",
            id="mailer.W007",
        )
    yield from check_visibility_timeout(current_app.conf.broker_transport_options or {})


def _database() -> Iterator[CheckMessage]:
    if connection.vendor != "postgresql":
        yield Error(
            "DATABASES['default'] is not PostgreSQL, which the mailer needs: workers share the mail by its row locks (SKIP "
            "LOCKED).",
            id="mailer.E018",
        )
        return
    database = settings.DATABASES["default"]
    is_remote = database.get("HOST") and not database["HOST"].startswith("/")
    if is_remote and not {"tcp_user_timeout", "keepalives_idle"} <= database.get("OPTIONS", {}).keys():
        yield CheckWarning(
            "DATABASES['default'] bounds no silence: a connection that a router forgot hangs a worker for hours. Add to its "
            "OPTIONS: keepalives_idle=5, keepalives_interval=2, keepalives_count=3, tcp_user_timeout=10000.",
            id="mailer.W006",
        )


def check_visibility_timeout(transport_options: Mapping[str, Any]) -> Iterator[CheckMessage]:
    """Check that the broker gives no task to a second worker while the first one works on it."""
    visibility_timeout = timedelta(seconds=float(transport_options.get("visibility_timeout", KOMBU_VISIBILITY_TIMEOUT)))
    if visibility_timeout <= HORIZON:  # the longest countdown
        yield Error(
            f"visibility_timeout in CELERY_BROKER_TRANSPORT_OPTIONS ({visibility_timeout.total_seconds():g} s) must be "
            f"more than {HORIZON.seconds} s.",
            id="mailer.E013",
        )

"""The mailer without the libraries of extras, such as Anymail, premailer and dkimpy."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from anymail.backends.base import BasePayload

from mailer.mime import serializer
from tests.servers import Postgres
from tests.smtp_sink import Sink

ROOT = Path(__file__).parents[2]
PROGRAM = """
import importlib, pkgutil, sys

unwanted = "anymail boto3 requests urllib3 premailer cssutils dkim cryptography dns imapclient prometheus_client opentelemetry"
for name in [*unwanted.split(), "msal", "google"]:
    sys.modules[name] = None  # an import of it raises ModuleNotFoundError

import django
from django.conf import settings
from django.core.mail import send_mail
from django.core.management import call_command
from celery import Celery

database, host, port, transport, postcommit = sys.argv[1:]
settings.configure(
    INSTALLED_APPS=["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "mailer"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "HOST": host, "NAME": database, "USER": "postgres"}},
    MAILERS={
        "default": {"BACKEND": "mailer.backend.OutboxBackend"},
        "transport": {"BACKEND": transport, "OPTIONS": {"host": "127.0.0.1", "port": int(port)}},
    },
    POSTCOMMIT={name: value for name, _, value in [postcommit.partition("=")] if name},
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    SECRET_KEY="x",
    SITE_URL="http://shop.example",
    DEFAULT_FROM_EMAIL="shop@example.com",
    CELERY_BROKER_URL="memory://",
)
app = Celery("shop")
django.setup()

import mailer
from mailer.celery import configure
configure(app)
call_command("check", tags=["postcommit", "emails"])
import mailer.urls  # without /metrics and /anymail/
needing = {
    "mailer.transports.dkim", "mailer.transports.dns_records", "mailer.transports.dns_sending",
    "mailer.transports.oauth.endpoint",
    "mailer.composing.premailer", "mailer.views.metrics",
    "mailer.views.webhooks", "mailer.feedback.providers",
}
for module in pkgutil.walk_packages(mailer.__path__, "mailer."):
    if module.name not in needing:
        importlib.import_module(module.name)

call_command("migrate", verbosity=0)
send_mail("Hello", "Hello, Ann", None, ["ann@example.com"])
call_command("send_test_email", "ann@example.com")
call_command("deliver_due")
"""
SMTP = "mailer.transports.smtp.EmailBackend"


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    name = f"without_{os.getpid()}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_mail_is_sent_without_any_extra(postgres: Postgres, database: str, sink: Sink) -> None:
    port = sink.url.rstrip("/").rpartition(":")[2]

    done = run(database, str(postgres.sockets), port, SMTP, "")

    assert done.returncode == 0, done.stdout + done.stderr
    by_subject = {str(mail.parsed["Subject"]): mail for mail in sink.received}
    assert by_subject.keys() == {"Hello", "Test e-mail from shop.example"}
    assert "style=" in by_subject["Test e-mail from shop.example"].part("html")


@pytest.mark.parametrize(
    ("transport", "postcommit", "complaint"),
    [
        (SMTP, "INLINER=premailer", "POSTCOMMIT_INLINER is premailer, which is not installed: ... [premailer]"),
        (SMTP, "DKIM_KEYS=s1:/key", "POSTCOMMIT_DKIM_KEYS needs dkimpy, which is not installed: ... [dkim]"),
        (
            SMTP,
            "METRICS_TOKEN=twenty-letters-or-more",
            "POSTCOMMIT_METRICS_TOKEN needs prometheus-client, which is not installed: ... [metrics]",
        ),
        (
            SMTP,
            "BOUNCE_MAILBOX=imaps://u:p@mail.example.com/",
            "POSTCOMMIT_BOUNCE_MAILBOX needs imapclient, which is not installed: ... [imap]",
        ),
        (
            "anymail.backends.postmark.EmailBackend",
            "REDIRECT_ALL_TO=qa@example.com",
            "MAILERS['transport'] uses Anymail, which is not installed: ... [anymail]",
        ),
    ],
)
def test_a_setting_that_needs_an_extra_says_which(transport: str, postcommit: str, complaint: str) -> None:
    done = run("none", "/nowhere", "1", transport, postcommit)

    assert done.returncode == 1
    assert complaint.replace("... ", "pip install django-postcommit") in done.stderr


def test_the_attributes_for_providers_are_anymails() -> None:
    assert set(serializer.FOR_PROVIDERS) == {name for name, *_ in BasePayload.anymail_message_attrs}

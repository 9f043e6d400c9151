"""The system checks of the kinds of e-mail and of the transports."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from django.apps import apps
from django.core import checks as django_checks
from django.core.checks import CheckMessage
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection, connections
from django.utils.translation import get_language
from pytest_django import Settings

from accounts.models import User
from mailer import email
from mailer.attachments import Attachment, StoredFile
from mailer.checks import kinds
from mailer.checks import settings as settings_checks
from mailer.composing.previews import languages
from mailer.email import Email, Recipient, Stream
from tests.environment import ENVIRONMENT

ROOT = Path(__file__).parents[2]
GOOD = {"subject.txt": "Hello\n", "body.html": "<p>Hello {{ recipient.name }}</p>", "body.txt": "Hello"}


class Made(Email):
    """The base of the kinds below."""

    template: ClassVar = "email/made"

    def recipient(self) -> Recipient:
        return Recipient("ann@example.com", name="Ann")

    @classmethod
    def sample(cls) -> Self:
        return cls()


@pytest.fixture
def make(tmp_path: Path, settings: Settings) -> Iterator[Callable[..., type[Email]]]:
    """Make a kind with these templates (None: the file is missing) and attributes, for one test."""
    before = dict(email.KINDS)
    [engine] = settings.TEMPLATES
    settings.TEMPLATES = [engine | {"DIRS": [tmp_path, *engine["DIRS"]]}]

    def make(files: dict[str, str | None] | None = None, base: type[Email] = Made, **attributes: Any) -> type[Email]:
        folder = tmp_path / "email" / "made"
        folder.mkdir(parents=True)
        for name, text in (GOOD | (files or {})).items():
            if text is not None:
                (folder / name).write_text(text)
        kind: type[Email] = type("Odd", (base,), {"__module__": __name__, **attributes})
        return kind

    yield make
    email.KINDS.clear()
    email.KINDS.update(before)


def fails(*_: Any) -> Any:
    raise ZeroDivisionError("no ratio")


def messages_of(kind: type[Email]) -> list[tuple[str, str]]:
    return [(str(message.id), str(message.msg)) for message in kinds.check_kind(kind)]


def test_a_correct_kind_passes_the_check(make: Callable[..., type[Email]]) -> None:
    assert messages_of(make()) == []


@pytest.mark.parametrize(
    ("files", "identifier", "says"),
    [
        ({"subject.txt": None}, "mailer.E005", "email/made/subject.txt: TemplateDoesNotExist"),
        ({"body.html": None}, "mailer.E005", "email/made/body.html: TemplateDoesNotExist"),
        ({"subject.txt": "{% if recipient.language == 'en' %}Hi{% endif %}"}, "mailer.E006", "is empty in 'th'"),
        ({"body.html": "<p>{% if %}</p>"}, "mailer.E005", "body.html"),
        ({"body.txt": "{% nonsense %}"}, "mailer.E005", "body.txt"),
        ({"body.html": "{% extends 'email/gone.html' %}"}, "mailer.E005", "email/gone.html"),
        ({"body.html": "{% include 'email/gone.html' %}"}, "mailer.E005", "email/made/body.html: TemplateDoesNotExist"),
        ({"body.html": "{% url 'nowhere' %}"}, "mailer.E005", "in 'en': email/made/body.html: NoReverseMatch"),
        ({"body.html": f"<p>{'x' * 103 * 1024}</p>"}, "mailer.W003", "103 KB of HTML in 'en'; Gmail shows 102 KB"),
    ],
)
def test_an_error_in_a_template_names_file_and_language(
    make: Callable[..., type[Email]], files: dict[str, str | None], identifier: str, says: str
) -> None:
    first = kinds.check_kind(make(files))[0]

    assert first.id == identifier
    assert says in str(first.msg)
    assert first.obj == "tests.Odd"


@pytest.mark.parametrize(
    ("attributes", "identifier", "says"),
    [
        ({"template": ""}, "mailer.E005", "/subject.txt: TemplateDoesNotExist"),
        ({"sample": Email.__dict__["sample"]}, "mailer.E004", "Odd has no sample data"),
        ({"sample": classmethod(fails)}, "mailer.E004", "sample() fails: "),
        ({"recipient": fails}, "mailer.E005", "ZeroDivisionError: no ratio"),
        ({"context": fails}, "mailer.E005", "test_checks.py, line "),
        ({"headers": fails}, "mailer.E005", "in fails(): ZeroDivisionError: no ratio"),
        ({"headers": lambda self: {"Subject": "mine"}}, "mailer.E005", "sets Subject, which the mailer writes itself"),
        ({"headers": lambda self: {"Bad Name": "x"}}, "mailer.E005", "not a valid name of a header field"),
        ({"attachments": fails}, "mailer.E005", "ZeroDivisionError: no ratio"),
        ({"attachments": lambda self: [Attachment("a", StoredFile("gone.pdf"))]}, "mailer.E005", "no file 'gone.pdf'"),
        (
            {"stream": Stream("news", "News"), "cc": lambda self: [Recipient("b@example.com")]},
            "mailer.E005",
            "stream 'news'",
        ),
        ({"stream": Stream("news", "News"), "bcc": lambda self: [Recipient("b@example.com")]}, "mailer.E005", "'news'"),
    ],
)
def test_an_error_in_a_class_names_its_line(
    make: Callable[..., type[Email]], attributes: dict[str, Any], identifier: str, says: str
) -> None:
    first = kinds.check_kind(make(**attributes))[0]

    assert first.id == identifier
    assert says in str(first.msg)


def test_each_language_is_built_and_named(make: Callable[..., type[Email]]) -> None:
    def context(self: Email) -> dict[str, Any]:
        return {"ratio": 1 / (get_language() != "th")}

    [only] = kinds.check_kind(make(context=context))

    assert "in 'th'" in only.msg


def test_a_text_template_is_optional(make: Callable[..., type[Email]]) -> None:
    assert messages_of(make({"body.txt": None})) == []


def test_an_abstract_class_is_not_checked(make: Callable[..., type[Email]]) -> None:
    base = type("Shop", (Email,), {"__module__": __name__})
    assert base in email.KINDS.values()
    make(base=base, template="email/made", recipient=Made.recipient, sample=classmethod(lambda cls: cls()))

    assert [m.obj for m in kinds.check_kinds(None) if m.obj in ("tests.Shop", "tests.Odd")] == []


@pytest.mark.parametrize("sender", ["Shop", "Shop, Inc <shop@example.com>", "a@example.com, b@example.com"])
def test_a_broken_sender_is_an_error(sender: str, make: Callable[..., type[Email]]) -> None:
    found = messages_of(make(sender=lambda _: sender))

    assert found[0] == ("mailer.E009", f"sender() returns {sender!r}, which is not one address.")


# --- The database


@pytest.mark.parametrize("where", ["sample", "template"])
@pytest.mark.django_db
def test_a_sample_that_queries_the_database_is_a_warning(make: Callable[..., type[Email]], where: str) -> None:
    attributes: dict[str, Any] = (
        {"sample": classmethod(lambda cls: [cls(), User.objects.count()][0])}
        if where == "sample"
        else {"context": lambda self: {"recipient": User.objects.first()}}
    )

    [only] = kinds.check_kind(make(**attributes))

    assert (only.id, only.level) == ("mailer.W001", django_checks.WARNING)
    assert "the sample of tests.Odd queries the database; build it from unsaved instances" in only.msg
    assert User.objects.count() == 0  # and the connection is unchanged


KINDS_OF_A_PROJECT = """
from typing import ClassVar
from accounts.models import User
from mailer.email import Email, Recipient

class Asking(Email):
    template: ClassVar = "email/test"
    def recipient(self):
        return Recipient(User.objects.get().email)
    @classmethod
    def sample(cls):
        return cls()
"""


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a project with one more app, whose sample queries the database."""
    app = tmp_path / "shop"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "emails.py").write_text(KINDS_OF_A_PROJECT)
    (tmp_path / "shop_settings.py").write_text("from config.settings import *\nINSTALLED_APPS += ['shop']\n")

    def run(command: str, database_url: str) -> subprocess.CompletedProcess[str]:
        own = {
            "DATABASE_URL": database_url,
            "DJANGO_SETTINGS_MODULE": "shop_settings",
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
        }
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), command],
            env=os.environ | ENVIRONMENT | own,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.django_db(transaction=True)
def test_migrate_works_on_an_empty_database_with_such_a_kind(
    shop: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    path, _, _ = ENVIRONMENT["DATABASE_URL"].rpartition("/")
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE empty_one")
    try:
        done = shop("migrate", f"{path}/empty_one")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP DATABASE empty_one")

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("(mailer.W001)") == 1
    assert "Applying mailer.0001" in done.stdout


def test_a_check_works_while_the_database_is_away(shop: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = shop("check", "postgres://user@127.0.0.1:1/none")

    assert done.returncode == 0, done.stderr
    assert "(mailer.W001) It was not checked: the sample of shop.Asking queries the database" in done.stderr


# --- What ships


def test_every_kind_of_this_project_passes_the_check() -> None:
    ours = [kind for kind in email.kinds() if not kind.__module__.startswith("tests.")]
    assert {"accounts.VerifyAddress", "accounts.AccountExists", "mailer.DjangoMail", "mailer.TestEmail"} <= {
        kind.kind for kind in ours
    }

    assert [message for kind in ours for message in kinds.check_kind(kind)] == []


def test_the_kinds_of_one_app_can_be_checked(make: Callable[..., type[Email]]) -> None:
    make(template="")

    assert "tests.Odd" in {message.obj for message in kinds.check_kinds(None)}
    assert kinds.check_kinds([apps.get_app_config("accounts"), apps.get_app_config("mailer")]) == []


def test_a_check_builds_each_sample_once_per_language(make: Callable[..., type[Email]]) -> None:
    built = []

    def sample(cls: type[Email]) -> Email:
        built.append(cls)
        return cls()

    make(sample=classmethod(sample))
    call_command("check", "accounts")
    assert built == []
    with suppress(SystemCheckError):  # some kinds of the tests have no samples
        call_command("check")

    assert len(built) == len(languages())


# --- Transports


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id) for message in messages]


SMTP = {"BACKEND": "mailer.transports.smtp.EmailBackend", "OPTIONS": {"host": "127.0.0.1"}}
DJANGOS: dict[str, Any] = {"OPTIONS": {"host": "127.0.0.1"}}
FILES = {"BACKEND": "django.core.mail.backends.filebased.EmailBackend", "OPTIONS": {"file_path": "/tmp"}}  # noqa: S108
PROVIDER = {"BACKEND": "anymail.backends.postmark.EmailBackend", "OPTIONS": {"server_token": "x"}}
OUTBOX = {"BACKEND": "mailer.backend.OutboxBackend"}


@pytest.mark.parametrize(
    ("mailers", "expected"),
    [
        ({"default": SMTP, "transport": SMTP}, []),
        ({"default": SMTP}, ["mailer.E007"]),
        ({"default": OUTBOX, "transport": SMTP}, []),
        ({"default": OUTBOX, "transport": OUTBOX}, ["mailer.E008"]),
        ({"default": OUTBOX, "transport": SMTP, "fallback": OUTBOX}, ["mailer.E008"]),
    ],
)
def test_the_outbox_needs_a_transport(
    settings: Settings, mailers: dict[str, dict[str, Any]], expected: list[str]
) -> None:
    settings.MAILERS = mailers

    assert ids(settings_checks.check_settings(None)) == expected


def test_a_backend_that_does_not_restrict_recipients_is_a_warning_on_a_test_system(settings: Settings) -> None:
    settings.MAILERS = {"transport": SMTP, "provider": PROVIDER, "files": FILES, "other": DJANGOS}
    assert settings_checks.check_settings(None) == []

    settings.POSTCOMMIT = {"REDIRECT_ALL_TO": "qa@example.com"}
    [only] = settings_checks.check_settings(None)

    assert only.id == "mailer.W004"
    assert "MAILERS['other'] (django.core.mail.backends.smtp.EmailBackend)" in only.msg


def test_a_transport_with_fail_silently_is_an_error(settings: Settings) -> None:
    settings.MAILERS = {"transport": SMTP | {"OPTIONS": {"host": "127.0.0.1", "fail_silently": True}}}

    assert ids(settings_checks.check_settings(None)) == ["mailer.E015"]


@pytest.mark.parametrize("sender", ["Shop", "", "Shop, Inc <shop@example.com>"])
def test_a_broken_default_sender_is_an_error(sender: str, settings: Settings) -> None:
    settings.DEFAULT_FROM_EMAIL = sender

    assert ids(settings_checks.check_settings(None)) == ["mailer.E011"]


def test_another_database_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections["default"], "vendor", "sqlite")

    assert [message.id for message in settings_checks.check_settings(None)] == ["mailer.E018"]

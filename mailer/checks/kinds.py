"""Build every kind of e-mail from its sample, in every language.

A sample that queries the database is a warning: checks run before `migrate` too, on a database without tables.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured

from mailer import fields
from mailer.addresses import mailbox
from mailer.checks.settings import ADDRESS_HINT
from mailer.composing import previews
from mailer.composing.previews import CLIPPED, NeedsDatabase, NoPreview, NoSample, Preview
from mailer.conf import options
from mailer.email import Email


@register("emails")
def check_kinds(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Check every kind of these apps, or of all apps. Check nothing if a setting is invalid: then no kind can be built."""
    try:
        options()
    except ImproperlyConfigured:
        return []
    return [
        message
        for kind in previews.all_kinds()
        if app_configs is None or apps.get_containing_app_config(kind.__module__) in app_configs
        for message in check_kind(kind)
    ]


def check_kind(kind: type[Email]) -> list[CheckMessage]:
    """Build one kind in every language and check the result."""
    messages = list(_built(kind))
    for message in messages:
        message.obj = kind.kind
    return messages


def _built(kind: type[Email]) -> Iterator[CheckMessage]:
    for index, language in enumerate(previews.languages()):
        try:
            preview = previews.preview(kind, language)
        except NeedsDatabase as error:
            yield CheckWarning(f"It was not checked: {error}.", id="mailer.W001")
            return  # it is the same in every language
        except NoSample as error:
            yield Error(f"sample() fails: {error}", id="mailer.E004")
            return
        except NoPreview as error:
            yield Error(f"It cannot be built from its sample in {language!r}: {error}", id="mailer.E005")
        else:
            yield from _fields(preview) if not index else ()
            yield from _check_preview(preview)


def _fields(preview: Preview) -> Iterator[CheckMessage]:
    for field in dataclasses.fields(preview.mail):  # type: ignore[arg-type]
        try:
            fields.check(type(preview.mail), field.name, getattr(preview.mail, field.name))
        except TypeError as error:
            yield Error(f"It cannot be stored: {error}", id="mailer.E017")


def _check_preview(preview: Preview) -> Iterator[CheckMessage]:
    sender = preview.mail.sender()
    if mailbox(sender) is None:
        yield Error(f"sender() returns {sender!r}, which is not one address.", hint=ADDRESS_HINT, id="mailer.E009")
    if not preview.subject:
        yield Error(f"The subject is empty in {preview.language!r}.", id="mailer.E006")
    size = len(preview.html.encode())
    if size > CLIPPED:
        yield CheckWarning(
            f"It has {size // 1024} KB of HTML in {preview.language!r}; Gmail shows {CLIPPED // 1024} KB.",
            id="mailer.W003",
        )

"""Build every kind of e-mail from its sample, in every language.

A sample that queries the database is a warning: checks run before `migrate` too, on a database without tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMultiAlternatives
from django.template import TemplateDoesNotExist, TemplateSyntaxError
from django.template.loader import get_template

from mailer.addresses import mailbox
from mailer.composing import previews, templates
from mailer.composing.built_by_django import DjangoMail
from mailer.composing.previews import NeedsDatabase, NoPreview, NoSample, Sample
from mailer.conf import options
from mailer.email import Email

CLIPPED = 102 * 1024
"""Gmail hides HTML after this number of bytes, and maybe the unsubscribe link with it."""


@register("emails")
def check_kinds(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Check every kind of these apps, or of all apps. Check nothing if a setting is invalid: then no kind can be built."""
    try:
        options()
    except ImproperlyConfigured:
        return []
    kinds = [kind for kind in previews.all_kinds() if app_configs is None or _app_of(kind) in app_configs]
    return [message for kind in kinds for message in check_kind(kind)]


def _app_of(kind: type[Email]) -> AppConfig | None:
    return apps.get_containing_app_config(kind.__module__)


def check_kind(kind: type[Email]) -> list[CheckMessage]:
    """Check one kind. It is built only if nothing is missing."""
    return list(_missing(kind)) or list(_built(kind))


def _missing(kind: type[Email]) -> Iterator[CheckMessage]:
    if not issubclass(kind, DjangoMail):
        yield from _missing_templates(kind)
    if kind.sample.__func__ is Email.sample.__func__:  # type: ignore[attr-defined]
        yield Error(
            f"{kind.__name__} has no sample(), so it cannot be previewed or checked.",
            hint="Return an instance with made-up, unsaved data from a class method sample().",
            obj=kind.kind,
            id="mailer.E003",
        )


def _missing_templates(kind: type[Email]) -> Iterator[CheckMessage]:
    folder = getattr(kind, "template", "")
    if not folder:
        yield Error(
            f"{kind.__name__} has no template.",
            hint='Name the folder of subject.txt and body.html, as in template = "email/order_shipped".',
            obj=kind.kind,
            id="mailer.E001",
        )
        return
    for name in ("subject.txt", "body.html"):
        if not _exists(f"{folder}/{name}"):
            yield Error(
                f"The template {folder}/{name} does not exist.",
                hint="Add it to a templates folder of the project or of an app, or correct `template`.",
                obj=kind.kind,
                id="mailer.E002",
            )


def _exists(template: str) -> bool:
    try:
        get_template(template)
    except TemplateDoesNotExist:
        return False
    except TemplateSyntaxError:  # reported by _built, with the language
        pass
    return True


def _built(kind: type[Email]) -> Iterator[CheckMessage]:
    for language in previews.languages():
        try:
            sample = previews.build_sample(kind, language)
        except NoPreview as error:
            yield _not_built(kind, language, error)
            if isinstance(error, NoSample):
                return  # it is the same in every language
            continue
        if not isinstance(sample.mail, DjangoMail):
            yield from _check_sample(sample, language)


def _not_built(kind: type[Email], language: str, error: NoPreview) -> CheckMessage:
    if isinstance(error, NeedsDatabase):
        return CheckWarning(
            f"It was not checked: {error}.",
            hint="Return unsaved instances from sample(): then it can be checked and previewed without a database.",
            obj=kind.kind,
            id="mailer.W001",
        )
    if isinstance(error, NoSample):
        return Error(
            f"sample() fails: {error}",
            hint="Correct it at that line.",
            obj=kind.kind,
            id="mailer.E004",
        )
    return Error(
        f"It cannot be built from its sample in {language!r}: {error}",
        hint="Correct the template or the method that is named.",
        obj=kind.kind,
        id="mailer.E005",
    )


def _check_sample(sample: Sample, language: str) -> Iterator[CheckMessage]:
    mail, folder = sample.mail, sample.mail.template
    if mailbox(sample.message.from_email) is None:
        yield Error(
            f"sender() returns {sample.message.from_email!r}, which is not one address.",
            hint="Write it as in Shop <hello@shop.example>; quote a name with a comma.",
            obj=mail.kind,
            id="mailer.E009",
        )
    if not sample.message.subject:
        yield Error(
            f"{folder}/subject.txt is empty in {language!r}.",
            hint="Write a subject; its translation may be empty.",
            obj=mail.kind,
            id="mailer.E006",
        )
    if len(_subject_as_written(sample, language).strip().splitlines()) > 1:
        yield CheckWarning(
            f"{folder}/subject.txt renders with a line break inside in {language!r}; it is sent as one line.",
            hint="Write it on one line, for example with {% blocktranslate trimmed %}.",
            obj=mail.kind,
            id="mailer.W002",
        )
    size = len(_html(sample).encode())
    if size > CLIPPED:
        yield CheckWarning(
            f"{folder}/body.html makes {size // 1024} KB of HTML in {language!r}; Gmail shows {CLIPPED // 1024} KB.",
            hint="Make it shorter: inlined CSS is repeated at every element.",
            obj=mail.kind,
            id="mailer.W003",
        )


def _subject_as_written(sample: Sample, language: str) -> str:
    return templates.subject_as_written(sample.mail, replace(sample.mail.recipient(), language=language))


def _html(sample: Sample) -> str:
    assert isinstance(sample.message, EmailMultiAlternatives)
    content, _ = sample.message.alternatives[0]
    return str(content)

"""The base class of every kind of e-mail.

A kind is a subclass of `Email`. Its annotated fields are JSON values, or model instances, which are stored as their primary
keys and loaded from the database in the worker.

    class VerifyAddress(Email):
        template = "email/verify_address"
        queue = CRITICAL
        verification: EmailVerification
"""

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Self, dataclass_transform

from django.conf import settings
from django.db.models import Model

from mailer import fields
from mailer.attachments import Attachment
from mailer.models import ERASED, Queue


class WhenUncertain(StrEnum):
    """What to do when the message was transmitted but the server's answer was lost."""

    RESEND = "resend"
    """Send again with the same Message-ID: a duplicate is better than no mail (a verification link)."""
    HOLD = "hold"
    """Wait for an operator: a duplicate is worse than a delay (a receipt)."""


CRITICAL, DEFAULT, BULK = Queue.CRITICAL, Queue.DEFAULT, Queue.BULK
RESEND, HOLD = WhenUncertain.RESEND, WhenUncertain.HOLD


class Unwanted(Exception):
    """The mail must not be sent; the text says why. `Email.is_wanted` may raise it instead of returning False."""


class ReferenceGone(Unwanted):
    """A row that the e-mail needs does not exist any more."""


class UnknownKind(LookupError):
    """This release does not define a class of this name; a newer one may."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """A recipient: address, name, and the language and time zone of the mail (None: the site's)."""

    address: str
    name: str = ""
    language: str | None = None
    time_zone: str | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """A group of mails that recipients can unsubscribe from, with a link and the button of their mail client.

    The name is stored and appears in headers: at most 50 letters, digits and hyphens. Recipients see the label; use
    gettext_lazy.
    """

    name: str
    label: Any

    def __post_init__(self) -> None:
        if not STREAM_NAME.fullmatch(self.name):
            raise ValueError(f"the stream {self.name!r} needs a name of at most 50 letters, digits and hyphens")


STREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,49}")

Rows = dict[tuple[type[Model], str], Model]
"""Rows that were loaded for several e-mails, by their model and their primary key as text."""

KINDS: dict[str, type["Email"]] = {}
"""Every kind by its stored name and by its former names."""


@dataclass_transform(frozen_default=True)
class Email:
    """A kind of e-mail. An instance is one mail that is not built yet.

    Annotated fields become arguments of the constructor, as in a dataclass, unless they are ClassVars. Stored rows outlive a
    release: give a new field a default, and do not rename or remove a field while messages of the kind wait.
    """

    template: ClassVar[str]
    """The folder of `subject.txt`, `body.html` and optionally `body.txt`, which is otherwise made from the HTML."""
    queue: ClassVar[Queue] = DEFAULT
    """CRITICAL is sent first, BULK last."""
    when_uncertain: ClassVar[WhenUncertain] = RESEND
    """What to do when it is unknown whether the server accepted the mail."""
    stream: ClassVar[Stream | None] = None
    """The stream that recipients can unsubscribe from; None for mail that they must get, such as a receipt."""
    retention: ClassVar[timedelta | None] = None
    """How long its settled messages are kept; None: POSTCOMMIT_RETENTION_DAYS."""
    kind: ClassVar[str]
    """The name that rows store; by default `<top-level package>.<class>`."""
    aliases: ClassVar[tuple[str, ...]] = ()
    """Former names of a class that was renamed or moved, which existing rows still hold."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclass(frozen=True)(cls)
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if field.name in RESERVED:
                raise TypeError(f"{cls.__name__}.{field.name}: Email uses this name itself; give the field another one")
        if "kind" not in cls.__dict__:
            cls.kind = f"{cls.__module__.partition('.')[0]}.{cls.__name__}"
        if isinstance(cls.aliases, str):  # its letters would become aliases
            raise TypeError(f"{cls.__name__}.aliases is a str; write a tuple, as in ({cls.aliases!r},)")
        for name in cls.names():
            other = KINDS.get(name, cls)
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(
                    f"{name!r} is the kind of both {other!r} and {cls!r}; set a different `kind` on one of them"
                )
        KINDS.update(dict.fromkeys(cls.names(), cls))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the name and the former names of this kind; a subclass does not inherit them."""
        return (cls.kind, *cls.__dict__.get("aliases", ()))

    def recipient(self) -> Recipient:
        """Return the recipient. Called when the e-mail is enqueued and again when it is built."""
        raise NotImplementedError(f"{type(self).__name__} does not define recipient()")

    def cc(self) -> Sequence[Recipient]:
        """Return the recipients of a copy, visible to all. The language is that of `recipient`."""
        return ()

    def bcc(self) -> Sequence[Recipient]:
        """Return the recipients of a hidden copy."""
        return ()

    def sender(self) -> str:
        """Return the sender as `Name <address>`. Servers may accept only addresses that belong to you."""
        return settings.DEFAULT_FROM_EMAIL

    def reply_to(self) -> Sequence[str]:
        """Return the addresses for replies, each as `Name <address>`; empty: the sender."""
        return ()

    def headers(self) -> Mapping[str, str]:
        """Return more header fields, except those that the mailer writes itself, such as Message-ID."""
        return {}

    def attachments(self) -> Iterable[Attachment]:
        """Return files and inline images. Called when the mail is built."""
        return ()

    def user(self) -> Any:
        """Return the user that the mail is about, or None. The admin shows the user and finds the mail by their address."""
        return None

    def context(self) -> Mapping[str, Any]:
        """Return more variables for the templates.

        They have `recipient`, `site_name`, `site_url`, `support_address` and the fields already.
        """
        return {}

    def is_wanted(self) -> bool:
        """Return whether the mail should still be sent. Called just before each attempt; False cancels it.

        Raise Unwanted to cancel it with a reason of your own, which operators see. Do not compare with the clock here, which
        may be wrong on one of the workers: `expires_at` is compared with the clock of the database.
        """
        return True

    def expires_at(self) -> datetime | None:
        """Return the time after which the mail is useless, or None. Called when it is enqueued."""
        return None

    @classmethod
    def sample(cls) -> Self:
        """Return an instance with made-up, unsaved data. `manage.py check`, previews and tests build it."""
        raise NotImplementedError(f"{cls.__name__} has no sample data")

    def arguments(self) -> dict[str, Any]:
        """Return the fields as JSON values, a model instance as its primary key.

        Raises TypeError, which names the field, for an unsaved instance or a value that JSON cannot hold.
        """
        return {field.name: self._argument(field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def _argument(self, name: str) -> Any:
        value = getattr(self, name)
        try:
            fields.check(type(self), name, value)
        except TypeError as error:
            raise TypeError(f"{self.kind}.{error}") from None
        if not isinstance(value, Model):
            return value
        if value._state.adding or not value._is_pk_set():  # type: ignore[attr-defined]
            raise TypeError(f"{self.kind}.{name} is a {type(value).__name__} that is not saved; save it first")
        try:
            return fields.stored(fields.models_of(type(self))[name], value)  # type: ignore[arg-type]
        except TypeError as error:
            raise TypeError(f"{self.kind}.{name}: {error}") from None

    @classmethod
    def load(cls, arguments: Mapping[str, Any], rows: Rows | None = None) -> Self:
        """Create the instance from its `arguments()`, with rows taken from `rows`, or else loaded from the database.

        Raises ReferenceGone for a deleted row or erased arguments, and UnknownKind for a field that only newer code knows.
        """
        if arguments == ERASED:
            raise ReferenceGone("its recipient was erased")
        if unknown := arguments.keys() - {field.name for field in dataclasses.fields(cls)}:  # type: ignore[arg-type]
            raise UnknownKind(f"{cls.kind} has no field {min(unknown)!r} in this release")
        return cls(**{name: cls._load_field(name, value, rows or {}) for name, value in arguments.items()})

    @classmethod
    def _load_field(cls, name: str, value: Any, rows: Rows) -> Any:
        model = fields.models_of(cls).get(name)  # type: ignore[arg-type]
        if model is None or value is None:
            return value
        if row := rows.pop((model, str(value)), None):  # for one e-mail only: its code may change the instance
            return row
        try:
            return fields.row(model, value)
        except fields.NoSuchRow:
            raise ReferenceGone(f"{model._meta.verbose_name} {value} no longer exists") from None


RESERVED = frozenset({*vars(Email), *inspect.get_annotations(Email)})
"""Names that a field would hide."""


def kinds() -> list[type[Email]]:
    """Return every kind once, sorted by name."""
    return [kind for name, kind in sorted(KINDS.items()) if kind.kind == name]


def find(kind: str) -> type[Email]:
    """Return the class of a stored kind. Raises UnknownKind."""
    if kind not in KINDS:
        raise UnknownKind(f"no e-mail of the kind {kind!r} is defined in this release")
    return KINDS[kind]

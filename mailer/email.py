"""What a kind of e-mail is.

A kind is a subclass of `Email`. Its annotated fields say what it is about: model instances, which are stored as their
primary keys and loaded afresh in the worker, or plain JSON values.

    class VerifyAddress(Email):
        template = "email/verify_address"
        verification: EmailVerification
"""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Self, dataclass_transform, get_args, get_type_hints

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db.models import Model

from mailer.attachments import Attachment
from mailer.models import Queue


class WhenUncertain(StrEnum):
    """What to do when the payload was handed over and the server's answer was never seen."""

    RESEND = "resend"
    """Send again, with the same Message-ID: a copy is better than none (a verification link)."""
    HOLD = "hold"
    """Wait for a person: a copy would be worse than a delay (a receipt)."""


CRITICAL, DEFAULT, BULK = Queue.CRITICAL, Queue.DEFAULT, Queue.BULK
RESEND, HOLD = WhenUncertain.RESEND, WhenUncertain.HOLD


class ReferenceGone(Exception):
    """A row that the e-mail is about exists no more."""


class UnknownKind(LookupError):
    """No class of this name is defined here; newer code may know it."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """One person: the address, the name to show beside it, the language and time zone to write in (None: the site's)."""

    address: str
    name: str = ""
    language: str | None = None
    time_zone: str | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """Mail that a reader can leave while she goes on getting the rest. Its messages bear a link and a button for that.

    The name is stored, and stands in headers: letters, digits and hyphens, 50 at the most. The label is what readers see;
    use gettext_lazy.
    """

    name: str
    label: Any

    def __post_init__(self) -> None:
        if not STREAM_NAME.fullmatch(self.name):
            raise ValueError(f"the stream {self.name!r} needs a name of letters, digits and hyphens, 50 at the most")


STREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,49}")

KINDS: dict[str, type["Email"]] = {}
"""Every kind by the name that rows bear, former names too."""


@dataclass_transform(frozen_default=True)
class Email:
    """One kind of e-mail. An instance is one such mail, not yet built.

    Each annotated field that is not a ClassVar becomes an argument of the constructor, as in a dataclass. Rows outlive a
    release: give a new field a default, and do not rename or remove one while rows of the kind wait.
    """

    template: ClassVar[str]
    """The folder of `subject.txt`, `body.html` and, unless the text is to be derived from that, `body.txt`."""
    queue: ClassVar[Queue] = Queue.DEFAULT
    """CRITICAL goes first, BULK last."""
    when_uncertain: ClassVar[WhenUncertain] = WhenUncertain.RESEND
    """What follows when nobody knows whether it was accepted."""
    stream: ClassVar[Stream | None] = None
    """What the reader may leave without losing the rest; None for what she has to get, such as a receipt."""
    retention: ClassVar[timedelta | None] = None
    """How long its settled messages are kept; None: as POSTCOMMIT_RETENTION_DAYS says."""
    kind: ClassVar[str]
    """The name under which it is stored: `<top-level package>.<class>`, unless it is set."""
    aliases: ClassVar[tuple[str, ...]] = ()
    """Names that it had before it was renamed or moved; rows that bear them are found."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclass(frozen=True)(cls)
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if field.name in RESERVED:
                raise TypeError(f"{cls.__name__}.{field.name}: Email uses this name itself; give the field another one")
        if "kind" not in cls.__dict__:
            cls.kind = f"{cls.__module__.partition('.')[0]}.{cls.__name__}"
        if isinstance(cls.aliases, str):  # which would be taken letter by letter
            raise TypeError(f"{cls.__name__}.aliases is a str; write a tuple, as in ({cls.aliases!r},)")
        for name in cls.names():
            cls._hold_against_others(name)
        KINDS.update(dict.fromkeys(cls.names(), cls))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """What rows of this kind may bear: its name and its former ones, which a subclass does not inherit."""
        return (cls.kind, *cls.__dict__.get("aliases", ()))

    @classmethod
    def _hold_against_others(cls, name: str) -> None:
        other = KINDS.get(name, cls)
        if other.__qualname__ != cls.__qualname__ or other.__module__ != cls.__module__:
            raise TypeError(f"{name!r} is the kind of both {other!r} and {cls!r}; give one of them a `kind` of its own")

    def recipient(self) -> Recipient:
        """Whom to write to. Called when the e-mail is enqueued and again when it is built."""
        raise NotImplementedError(f"{type(self).__name__} does not say who receives it")

    def cc(self) -> Sequence[Recipient]:
        """Who gets a copy, and may be seen to. In the language of `recipient`."""
        return ()

    def bcc(self) -> Sequence[Recipient]:
        """Who gets a copy that nobody else knows of."""
        return ()

    def sender(self) -> str:
        """Who it is from, as `Name <address>`. A server may insist on an address of yours."""
        return settings.DEFAULT_FROM_EMAIL

    def reply_to(self) -> Sequence[str]:
        """Where answers go, each as `Name <address>`; to the sender if it is empty."""
        return ()

    def headers(self) -> Mapping[str, str]:
        """More header fields. Those that the mailer writes itself, such as Message-ID, cannot be among them."""
        return {}

    def attachments(self) -> Iterable[Attachment]:
        """Files and inline images; made when the mail is built."""
        return ()

    def user(self) -> Any:
        """The user whom the mail is about, if there is one; the admin shows it, and finds the mail by its address."""
        return None

    def context(self) -> Mapping[str, Any]:
        """What the templates see beside `recipient`, `site_name`, `site_url` and the fields themselves."""
        return {}

    def is_wanted(self) -> bool:
        """Whether the mail still makes sense; asked immediately before it is built. False cancels it."""
        return True

    def expires_at(self) -> datetime | None:
        """The moment from which on the mail would be of no use; asked when it is enqueued."""
        return None

    @classmethod
    def sample(cls) -> Self:
        """An instance with made-up, unsaved data, from which `manage.py check`, previews and tests build every kind."""
        raise NotImplementedError(f"{cls.__name__} has no sample data")

    def arguments(self) -> dict[str, Any]:
        """The fields as JSON: a model instance as its primary key, everything else as it is.

        Raises TypeError, naming the field, for an unsaved instance or a value that JSON cannot hold.
        """
        return {field.name: self._argument(field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def _argument(self, name: str) -> Any:
        value = getattr(self, name)
        if isinstance(value, Model):
            if value.pk is None or value._state.adding:
                raise TypeError(f"{self.kind}.{name} is a {type(value).__name__} that is not saved; save it first")
            key = value.pk
            return key if isinstance(key, int | str) else str(key)
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"{self.kind}.{name} is a {type(value).__name__}; use a model instance or a JSON value"
            ) from None
        return value

    @classmethod
    def load(cls, arguments: Mapping[str, Any]) -> Self:
        """The instance that `arguments()` described, its rows loaded afresh.

        Raises ReferenceGone, and UnknownKind for fields that only newer code knows.
        """
        if unknown := arguments.keys() - {field.name for field in dataclasses.fields(cls)}:  # type: ignore[arg-type]
            raise UnknownKind(f"{cls.kind} has no field {min(unknown)!r} in this release")
        return cls(**{name: cls._loaded(name, value) for name, value in arguments.items()})

    @classmethod
    def _loaded(cls, name: str, value: Any) -> Any:
        model = _models_of(cls).get(name)
        if model is None or value is None:
            return value
        try:
            return model._default_manager.get(pk=value)
        except (ObjectDoesNotExist, ValidationError):
            raise ReferenceGone(f"{model._meta.verbose_name} {value} exists no more") from None


RESERVED = frozenset({*vars(Email), *inspect.get_annotations(Email)})
"""Names that a field would hide."""


def _models_of(kind: type[Email]) -> dict[str, type[Model]]:
    """Those fields of a kind that are model instances."""
    return {
        name: model
        for name, hint in get_type_hints(kind).items()
        for model in (hint, *get_args(hint))  # `Order | None` as well
        if inspect.isclass(model) and issubclass(model, Model)
    }


def kinds() -> list[type[Email]]:
    """Every kind once, by name."""
    return [kind for name, kind in sorted(KINDS.items()) if kind.kind == name]


def find(kind: str) -> type[Email]:
    """The class of a stored kind. Raises UnknownKind."""
    try:
        return KINDS[kind]
    except KeyError:
        raise UnknownKind(f"no e-mail of the kind {kind!r} is defined in this release") from None

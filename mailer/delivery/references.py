"""Load the rows that a batch of messages refers to: one statement for each model, instead of one for each message."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import structlog
from django.db import router
from django.db.models import BinaryField, Model, QuerySet

from mailer import email, fields
from mailer.database import is_away
from mailer.email import Rows
from mailer.models import Message

log = structlog.get_logger(__name__)


def load(messages: Iterable[Message]) -> Rows:
    """Load what the messages refer to. What is not in the result is loaded when its message is prepared.

    That is the case for a message with a key: a transaction may just have been given it, and changed what it refers to. It is
    also the case for rows with files, of which many at once would fill the memory.
    """
    keys: dict[type[Model], set[Any]] = defaultdict(set)
    for message in messages:
        with suppress(Exception):  # it is prepared by itself, where the error is found again and stops no other message
            for model, value in _references(message):
                keys[model].add(fields.loaded(model, value))
    return {
        (model, key): row
        for model, values in keys.items()
        if len(values) > 1
        for key, row in _find(model, values).items()
    }


def _references(message: Message) -> Iterator[tuple[type[Model], Any]]:
    kind = email.KINDS.get(message.kind)
    if kind is None or message.key:
        return
    for name, model in fields.models_of(kind).items():  # type: ignore[arg-type]
        if (value := message.arguments.get(name)) is not None and not _has_files(model):
            yield model, value


def _find(model: type[Model], values: set[Any]) -> Mapping[str, Model]:
    """Return the rows with these primary keys, by the keys as they are stored.

    Each has a copy of its own of the rows that it refers to, such as a user. None if that fails: then each
    message is prepared by itself, and the one that is to blame stops no other.
    """
    try:
        rows: QuerySet[Model] = model._default_manager.using(router.db_for_write(model)).filter(pk__in=values)
        related = _related(model)
        rows = rows.select_related(*related) if related else rows  # without names, Django would choose them
        return {str(fields.stored(model, row)): row for row in rows}
    except Exception as error:  # the application's code, or a value that is no primary key
        if is_away(error):
            raise
        log.warning("rows not loaded together", model=model._meta.label, error=type(error).__name__)
        return {}


def _related(model: type[Model]) -> list[str]:
    related = {field.name: field.related_model for field in model._meta.concrete_fields if field.is_relation}
    return [name for name, other in related.items() if isinstance(other, type) and not _has_files(other)]


def _has_files(model: type[Model]) -> bool:
    return any(isinstance(field, BinaryField) for field in model._meta.concrete_fields)

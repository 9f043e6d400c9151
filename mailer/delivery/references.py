"""Load the rows that a batch of messages refers to: one statement for each model, instead of one for each message."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import structlog
from django.db import models
from django.db.models import BinaryField, Model, QuerySet

from mailer import email
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
        kind = email.KINDS.get(message.kind)
        if kind is None or message.key:
            continue
        for name, model in email.models_of(kind).items():  # type: ignore[arg-type]
            if (value := message.arguments.get(name)) is not None and not _has_files(model):
                keys[model].add(value)
    return {
        (model, str(row.pk)): row for model, values in keys.items() if len(values) > 1 for row in _find(model, values)
    }


def _find(model: type[Model], values: set[Any]) -> Iterable[Model]:
    """Return the rows with these primary keys. A related row, such as a user, is loaded for all of them at once too.

    None if that fails: then each message is prepared by itself, and the one that is to blame stops no other.
    """
    try:
        rows: QuerySet[Model] = model._default_manager.fetch_mode(models.FETCH_PEERS)  # type: ignore[attr-defined]
        return list(rows.filter(pk__in=values))
    except Exception as error:  # the application's code, or a value that is no primary key
        if is_away(error):
            raise
        log.warning("rows not loaded together", model=model._meta.label, error=type(error).__name__)
        return []


def _has_files(model: type[Model]) -> bool:
    return any(isinstance(field, BinaryField) for field in model._meta.concrete_fields)

"""What the fields of a kind of e-mail hold, and how it is stored: JSON values, and model instances as their primary keys."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from types import UnionType
from typing import Any, TypeAliasType, Union, get_args, get_origin, get_type_hints

from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import router
from django.db.models import BinaryField, CompositePrimaryKey, Model

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""PostgreSQL's texts have no NUL, and no half of a character."""


class NoSuchRow(LookupError):
    """No row has this primary key."""


@cache
def models_of(kind: type) -> Mapping[str, type[Model]]:
    """Return the models of those fields of a kind that hold model instances.

    Raises TypeError, which names the field, if its annotation does not say which model that is.
    """
    try:
        hints = get_type_hints(kind)
    except NameError as error:
        raise TypeError(
            f"{kind.__name__}.{_naming(kind, str(error.name))}: {error.name} is not imported when the program runs; import it "
            "without `if TYPE_CHECKING`"
        ) from None
    found: dict[str, type[Model]] = {}
    for name in (field.name for field in dataclasses.fields(kind)):
        models = {each for each in _classes_in(hints[name]) if issubclass(each, Model) and _has_rows(each)}
        if len(models) > 1:  # a primary key does not say whose it is
            raise TypeError(f"{kind.__name__}.{name}: its annotation names several models; use a field for each")
        if models:
            found[name] = models.pop()
    return found


def _has_rows(model: type[Model]) -> bool:
    return model is not Model and not model._meta.abstract


def _naming(kind: type, name: str) -> str:
    fields = [field.name for field in dataclasses.fields(kind) if re.search(rf"\b{name}\b", str(field.type))]
    return next(iter(fields), "*")


def _classes_in(hint: Any) -> Iterator[type]:
    """Return the classes of which a value may be: those of `Order | None` too, but not that of `list[Order]`."""
    if isinstance(hint, TypeAliasType):
        yield from _classes_in(hint.__value__)
    elif get_origin(hint) in (Union, UnionType):
        for each in get_args(hint):
            yield from _classes_in(each)
    elif isinstance(hint, type) and get_origin(hint) is None:
        yield hint


def check(kind: type, name: str, value: Any) -> None:
    """Check that this value of a field can be stored and loaded. Raises TypeError, which says what to do."""
    model = models_of(kind).get(name)
    its_class = type(value).__name__
    if not isinstance(value, Model):
        if value is not None and model:
            raise TypeError(f"{name} is a {its_class}; its annotation says {model.__name__}")
        if not _is_kept(value):
            raise TypeError(f"{name} is a {its_class}; use a model instance or a JSON value")
    elif model is None:
        raise TypeError(f"{name} is a {value._meta.object_name}; name this model in its annotation, not a base of it")
    elif not issubclass(value._meta.concrete_model or type(value), model._meta.concrete_model or model):
        raise TypeError(f"{name} is a {value._meta.object_name}; its annotation says {model.__name__}")


def _is_kept(value: Any) -> bool:
    """Whether the value is the same after it was stored as JSON in PostgreSQL. A tuple becomes a list."""
    match value:
        case None | bool() | int():
            return True
        case float():
            return math.isfinite(value)
        case str():
            return not UNSTORABLE.search(value)
        case list() | tuple():
            return all(map(_is_kept, value))
        case dict():
            return all(isinstance(key, str) and _is_kept(key) and _is_kept(each) for key, each in value.items())
    return False


def stored(model: type[Model], row: Model) -> int | str:
    """Return the primary key of a row as a JSON value. Of a parent's model, it is the key of the parent.

    Raises TypeError if it would be another one after it is loaded.
    """
    field: Any = model._meta.pk
    key = field.value_from_object(row)
    if isinstance(key, int | str):
        return key
    text: str = field.value_to_string(row)
    with suppress(ValidationError, ValueError, TypeError):
        again = field.to_python(text)
        if (tuple(again) if isinstance(again, list) else again) == key:
            return text
    raise TypeError(f"the primary key of {model.__name__} cannot be stored; use a field of type str or int")


def loaded(model: type[Model], key: Any) -> Any:
    """Return the primary key that `stored` returned, as queries need it."""
    field = model._meta.pk
    return field.to_python(key) if isinstance(field, BinaryField | CompositePrimaryKey) else key


def row(model: type[Model], key: Any) -> Model:
    """Load a row by its stored key, from the database that takes its writes. Raises NoSuchRow."""
    try:
        return model._default_manager.using(router.db_for_write(model)).get(pk=loaded(model, key))
    except (ObjectDoesNotExist, ValidationError):
        raise NoSuchRow from None

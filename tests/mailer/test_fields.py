"""What fields refer to: it arrives in the worker as it was, or is refused with the field's name."""

import json
import math
import re
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.db import connection, models
from hypothesis import given
from hypothesis import strategies as st

from accounts.models import EmailVerification, MailedLink, User
from mailer import fields
from mailer.checks.kinds import check_kind
from mailer.delivery import references
from mailer.email import KINDS, Email, Recipient, ReferenceGone
from mailer.models import Message

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.django_db


class Place(models.Model):
    class Meta:
        app_label = "places"


class Cafe(Place):
    """Its primary key is the place's."""

    class Meta:
        app_label = "places"


class Table(models.Model):
    pk = models.CompositePrimaryKey("cafe_id", "name")
    cafe = models.ForeignKey(Cafe, on_delete=models.CASCADE, db_constraint=False)
    name = models.CharField(max_length=9)

    class Meta:
        app_label = "places"


class Print(models.Model):
    digest = models.BinaryField(primary_key=True)

    class Meta:
        app_label = "places"


class Day(models.Model):
    date = models.DateField(primary_key=True)

    class Meta:
        app_label = "places"


class DayOff(models.Model):
    day = models.OneToOneField(Day, on_delete=models.CASCADE, primary_key=True, db_constraint=False)

    class Meta:
        app_label = "places"


class PrintOfPrint(models.Model):
    of = models.OneToOneField(Print, on_delete=models.CASCADE, primary_key=True, db_constraint=False)

    class Meta:
        app_label = "places"


MODELS = (Place, Cafe, Table, Print, Day, DayOff, PrintOfPrint)
type Someone = User | None


@pytest.fixture
def tables(db: None) -> None:
    with connection.schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)


def kind(annotation: Any) -> Any:
    """Make a kind with one field."""
    made = type(
        "Odd", (Email,), {"__module__": __name__, "__annotations__": {"about": annotation}, "kind": "tests.Odd"}
    )
    KINDS.pop("tests.Odd")
    return made


def create(model: Any, **values: Any) -> Any:
    return model.objects.create(**values)


def everything() -> list[models.Model]:
    cafe = create(Cafe)
    table = create(Table, cafe=cafe, name='a "b",')
    day = create(Day, date="2026-11-28")
    day.refresh_from_db()
    printed = create(Print, digest=bytes(range(256)))
    return [cafe, table, printed, day, create(DayOff, day=day)]


@pytest.mark.parametrize("number", range(5))
def test_an_instance_with_any_primary_key_is_the_same_in_the_worker(tables: None, number: int) -> None:
    row = everything()[number]
    odd = kind(type(row))
    stored = odd(row).arguments()
    message = Message.objects.create(kind="tests.Odd", arguments=stored, recipient="a@example.com")
    message.refresh_from_db()

    assert odd.load(message.arguments).about == row
    row.delete()
    with pytest.raises(ReferenceGone):
        odd.load(message.arguments)


def test_of_a_parents_model_the_parent_is_loaded(tables: None) -> None:
    create(Place)
    cafe = create(Cafe)
    odd = kind(Place)

    assert odd.load(odd(cafe).arguments()).about == cafe.place_ptr


def test_rows_of_a_batch_with_such_keys_are_loaded_too(tables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    days = [create(Day, date=f"2026-11-{number}") for number in (1, 2)]
    for day in days:
        day.refresh_from_db()
    odd = kind(Day)
    monkeypatch.setitem(KINDS, "tests.Odd", odd)
    messages = [Message(kind="tests.Odd", arguments=odd(day).arguments()) for day in days]

    rows = references.load(messages)

    assert sorted(row.pk for row in rows.values()) == [day.pk for day in days]
    assert all(odd.load(message.arguments, rows).about == day for message, day in zip(messages, days, strict=True))
    assert not rows


def test_a_key_that_would_be_another_one_is_refused(tables: None) -> None:
    row = create(PrintOfPrint, of=create(Print, digest=b"x"))

    with pytest.raises(TypeError, match=r"tests\.Odd\.about: the primary key of PrintOfPrint cannot be stored"):
        kind(PrintOfPrint)(row).arguments()


@pytest.mark.parametrize("annotation", [Any, object, models.Model, MailedLink, str, list[EmailVerification], "User"])
def test_an_annotation_that_does_not_name_the_model_is_refused(annotation: Any, user: User) -> None:
    row = EmailVerification.objects.create(user=user, address=user.email)

    with pytest.raises(TypeError, match=r"tests\.Odd\.about is a EmailVerification; "):
        kind(annotation)(row).arguments()


@pytest.mark.parametrize(
    ("annotation", "complaint"),
    [
        ("EmailChange", "EmailChange is not imported when the program runs; import it without `if TYPE_CHECKING`"),
        ("list[EmailChange] | None", "EmailChange is not imported when the program runs"),
        (User | Group, "its annotation names several models; use a field for each"),
        ("User | Group | None", "its annotation names several models; use a field for each"),
    ],
)
def test_an_annotation_that_cannot_be_followed_is_refused(annotation: Any, complaint: str, user: User) -> None:
    with pytest.raises(TypeError, match=rf"Odd\.about: {re.escape(complaint)}"):
        kind(annotation)(user).arguments()


@pytest.mark.parametrize("annotation", [User, "User", User | None, "User | None", Someone, "User | str"])
def test_an_annotation_may_say_more_than_the_model(annotation: Any, user: User) -> None:
    odd = kind(annotation)

    assert odd.load(odd(user).arguments()).about == user


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, {1: "a"}, {"a": {None: 1}}, "\0", ["\ud800"], {"\0": 1}, b"x", {1, 2}, 3 + 4j]
)
def test_a_value_that_would_be_another_one_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"tests\.Odd\.about is a .*; use a model instance or a JSON value"):
        kind(Any)(value).arguments()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(-(2.0**53), 2.0**53)
    | st.sampled_from([math.nan, math.inf])
    | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text() | st.integers(), each),
    max_leaves=5,
)


@given(JSON)
def test_a_value_is_the_same_in_the_worker_or_refused(value: Any) -> None:
    try:
        fields.check(kind(Any), "about", value)
    except TypeError:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb::text", [models.JSONField().get_db_prep_value(value, connection)])
        assert json.loads(cursor.fetchone()[0]) == value


class Untold(Email):
    """Its annotation names no model."""

    template: ClassVar = "email/test"
    account: Any

    def recipient(self) -> Recipient:
        return Recipient(self.account.email)

    def context(self) -> dict[str, Any]:
        return {"sent_by": "a test", "moment": None}

    @classmethod
    def sample(cls) -> Self:
        return cls(User(email="ann@example.com"))


del KINDS[Untold.kind]


def test_the_check_finds_it_in_the_sample() -> None:
    [message] = check_kind(Untold)

    assert (message.id, message.obj) == ("mailer.E017", Untold.kind)
    assert "account is a User; name this model in its annotation" in message.msg


def teardown_module() -> None:
    """Forget the models, which no other test should see."""
    apps.all_models.pop("places", None)
    apps.clear_cache()

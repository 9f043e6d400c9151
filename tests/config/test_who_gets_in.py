"""Every URL of the site, who may open it, and the status of each method.

A new URL needs a row in TABLE; a new model in the admin needs one line there.
"""

import logging
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, cast

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.core.handlers.base import BaseHandler
from django.db import transaction
from django.db.models.functions import Now
from django.http import HttpResponse, SimpleCookie
from django.test import Client, RequestFactory
from django.urls import URLResolver, get_resolver
from django.utils import timezone
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode

from accounts import links, verification
from accounts.models import EmailChange, User
from accounts.sessions import Session
from mailer.email import Stream
from mailer.models import Circuit, Message, StreamReputation, Suppression, TransportState, Worker
from mailer.recipients import subscriptions
from tests.mailer.kinds import Plain

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(180)]  # some tests send thousands of requests

OWNER = "ann.the.owner@example.com"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
CSRF = "c" * 32
"""The secret of every browser here: its cookie, and the field of its forms."""
ELSEWHERE = "https://evil.example/"

NEWS = Stream("who-gets-in", "News")


class News(Plain):
    """Mail with a link to unsubscribe."""

    stream: ClassVar = NEWS


# --- Who ---------------------------------------------------------------------------------------------------------------

SUPERUSER, NEVER = "superuser", "never"
"""In place of a permission: what no permission allows, and what not even a superuser may do."""


@dataclass(frozen=True)
class Person:
    """One who asks, with the session of a browser that is logged in, or without one."""

    name: str
    session: str = ""
    is_staff: bool = False
    is_superuser: bool = False
    permissions: frozenset[str] = frozenset()
    """For example accounts_user.view."""

    def may(self, *permissions: str) -> bool:
        """Whether one of the permissions is theirs."""
        possible = set(permissions) - {NEVER}
        return bool(possible) and (self.is_superuser or not self.permissions.isdisjoint(possible))


def make(name: str, **fields: Any) -> User:
    now = timezone.now()
    return User.objects.create(email=f"{name}@example.com", email_verified_at=now, was_verified=True, **fields)


def log_in(user: User) -> str:
    """Return the key of a session that passed every step of the log-in."""
    browser = Client()
    browser.force_login(user)
    return browser.cookies["sessionid"].value


@dataclass(frozen=True)
class World:
    """The people, and the arguments of the URLs that lead to the owner's rows."""

    people: tuple[Person, ...]
    arguments: Mapping[str, list[Any]]

    def path(self, key: str, route: str) -> str:
        """Return the path of a URL, with the arguments of its name or of its model."""
        return path_of(route, self.arguments.get(key) or self.arguments.get(model_of(route)) or "xxx")


@pytest.fixture
def world() -> World:
    owner = make("ann.the.owner")
    session = log_in(owner)
    link = verification.begin(owner)
    change = EmailChange.objects.create(user=owner, old_address=OWNER, new_address="new.of.owner@example.com")
    people = (
        Person("anonymous"),
        Person("another user", log_in(make("another"))),
        Person("the owner", session),
        Person("staff", log_in(make("staff", is_staff=True)), is_staff=True),
        Person("superuser", log_in(make("root", is_staff=True, is_superuser=True)), is_staff=True, is_superuser=True),
    )
    return World(
        people,
        {
            "verify": [link.pk, links.code(links.VERIFY, link)],
            "password_reset_confirm": [
                urlsafe_base64_encode(force_bytes(owner.pk)),
                links.reset_tokens.make_token(owner),
            ],
            "email_change_confirm": [change.pk, links.code(links.CONFIRM_CHANGE, change)],
            "email_change_stop": [change.pk, links.code(links.STOP_CHANGE, change)],
            "unsubscribe": [token := subscriptions.token(OWNER, NEWS)],
            "unsubscribe/<path:token>": [token],
            "webhook": ["postmark", "tracking"],
            "admin:app_list": ["accounts"],
            "accounts_user": [owner.pk],
            "accounts_emailverification": [link.pk],
            "accounts_emailchange": [change.pk],
            "accounts_session": [Session.objects.get(user=owner).pk],
            "auth_group": [Group.objects.create(name="support").pk],
            "mailer_message": [Message.objects.create(recipient=OWNER, user=owner, kind="x").pk],
            "mailer_suppression": [Suppression.objects.create(address=OWNER).pk],
            "mailer_transportstate": [TransportState.objects.create(alias="transport").pk],
            "admin:mailer_probe_now": [1],
            "admin:mailer_resume_now": [1],
            "admin:mailer_resume_stream": ["news"],
            "mailer_streamreputation": [StreamReputation.objects.create(stream="news").pk],
            "admin:mailer_message_kind": ["mailer.TestEmail"],
            "admin:mailer_message_kind_html": ["mailer.TestEmail", "en"],
            "admin:mailer_message_send_sample": ["mailer.TestEmail", "en"],
            "mailer_circuit": [Circuit.objects.create(transport="transport").pk],
            "mailer_worker": [Worker.objects.create(**A_DELIVERY).pk],
        },
    )


def staff_with_one_permission() -> Iterator[tuple[Person, str]]:
    """Return, for each permission that exists, a member of staff with it, and its model. They share one account."""
    for permission in Permission.objects.select_related("content_type"):
        yield staff_with([permission]), _model(permission)


def staff_without_one_model() -> Iterator[tuple[Person, str]]:
    """Return, for each model of the admin, a member of staff with every permission that is not about the model."""
    every = list(Permission.objects.select_related("content_type"))
    for name in sorted(MODELS):
        yield staff_with([permission for permission in every if _model(permission) != name]), name


def staff_with(permissions: list[Permission]) -> Person:
    user = User.objects.filter(email="permitted@example.com").first() or make("permitted", is_staff=True)
    user.user_permissions.set(permissions)
    names = frozenset(f"{_model(p)}.{p.codename.partition('_')[0]}" for p in permissions)
    return Person(f"staff with {', '.join(sorted(names))}", log_in(user), is_staff=True, permissions=names)


def _model(permission: Permission) -> str:
    return f"{permission.content_type.app_label}_{permission.content_type.model}"


A_DELIVERY: dict[str, Any] = {
    "host": "host",
    "pid": 1,
    "release": "",
    "role": "command",
    "seen_at": Now() + timedelta(hours=1),
}
"""It is under way, so that the button starts no other one."""


# --- The table ---------------------------------------------------------------------------------------------------------

MODELS = {
    f"{model._meta.app_label}_{model._meta.model_name}": f"admin/{model._meta.app_label}/{model._meta.model_name}/"
    for model in admin.site._registry
}
"""The models in the admin, and where their pages are."""

Answers = Mapping[str, int]
"""The status of each method. If HEAD is missing, it is answered like GET; another method that is missing gets 405."""
Rule = Callable[[Person], Answers]
"""The answers to a person."""

READ = {"GET": 200}
FORM = {"GET": 200, "POST": 200}
"""A page with a form. The tests post an empty form, and the page shows it again."""
MOVED = {"GET": 302, "POST": 302}
REFUSED = {"GET": 403, "POST": 403}
MISSING = {"GET": 404, "POST": 404}


def always(status: int) -> Answers:
    return dict.fromkeys(METHODS, status)


def public(answers: Answers) -> Rule:
    return lambda person: answers


def of_owner(answers: Answers = FORM, without: Answers = MOVED) -> Rule:
    """A page about the account that the browser is logged in to, and the answers to a browser that is logged in to none."""
    return lambda person: answers if person.session else without


def of_staff(answers: Answers) -> Rule:
    """A page for staff about their own account. For other users it does not exist."""

    def rule(person: Person) -> Answers:
        status = 404 if person.session else 302
        return answers if person.is_staff else dict.fromkeys(answers, status)

    return rule


def with_a_passkey(status: int) -> Rule:
    """A request of the script for passkeys, and the status for a member of staff without one."""
    return lambda person: {"POST": status, "OPTIONS": 200} if person.is_staff else always(403)


def for_staff(answers: Answers, *permissions: str) -> Rule:
    """A page of the admin: for staff with one of the permissions, or for all staff if none is named."""

    def rule(person: Person) -> Answers:
        if not person.is_staff:
            return MOVED
        return answers if not permissions or person.may(*permissions) else REFUSED

    return rule


def model(name: str, *, add: str = "", change: str = "", delete: str = "") -> dict[str, Rule]:
    """The admin's pages of a model. `add`, `change` and `delete` name the permission for it, if it is not Django's."""
    viewers = for_staff(FORM, f"{name}.view", f"{name}.change")
    editors = for_staff(FORM, change or f"{name}.change")
    return {
        f"admin:{name}_changelist": viewers,
        f"admin:{name}_history": viewers,
        f"admin:{name}_change": lambda person: {**viewers(person), "POST": editors(person)["POST"]},
        f"admin:{name}_add": for_staff(FORM, add or f"{name}.add"),
        f"admin:{name}_delete": for_staff({"GET": 200, "POST": 302}, delete or f"{name}.delete"),
        f"{MODELS[name]}<path:object_id>/": for_staff(MOVED),
    }


def read_only(name: str) -> dict[str, Rule]:
    """The admin's pages of a model whose rows the application alone writes."""
    return model(name, add=NEVER, change=NEVER, delete=NEVER)


def list_of_accounts(person: Person) -> Answers:
    """The models of one app, for staff who can open at least one of them."""
    models = ("user", "emailverification", "emailchange", "session")
    opening = [f"accounts_{name}.{action}" for name in models for action in ("view", "change")]
    is_open = person.may("accounts_user.add", "accounts_user.delete", *opening)
    return FORM if is_open else MISSING if person.is_staff else MOVED


MESSAGES = ("mailer_message.view", "mailer_message.change")
"""Each of these permissions opens the pages about messages."""

TABLE: dict[str, Rule] = {
    "home": public(READ | {"OPTIONS": 200}),
    "healthz": public(always(200)),
    "readyz": public(always(200)),
    "metrics": public({"GET": 404}),  # without a token in the settings
    "webhook": public(always(404)),  # without a secret in the settings
    "set_language": public({"POST": 302}),
    "signup": public(FORM),
    "check_inbox": public(FORM | {"POST": 302}),  # to the log-in page: these browsers have no sign-up
    "correct_address": public(MOVED),  # to the sign-up page: these browsers have nothing to correct
    "resend": public(FORM),
    "password_reset": public(FORM),
    "login": lambda person: always(302) if person.session else FORM,
    "logout": public({"POST": 302, "OPTIONS": 200}),
    # A secret link works for all who read the mail. `test_a_wrong_code_…` has the others.
    "verify": public(FORM),
    "password_reset_confirm": public(always(302)),  # to the form, without the secret in its URL
    "email_change_confirm": public(FORM),
    "email_change_stop": public(FORM),
    "unsubscribe": public(FORM),
    "unsubscribe/<path:token>": public(FORM),
    # The account of the browser.
    "profile": of_owner(),
    "email_change": of_owner(),
    "password_change": of_owner(without=always(302)),
    "end_sessions": of_owner({"POST": 302}, {"POST": 302}),
    "delete_account": of_owner(),
    # The second factor, which no device of these people has passed.
    "second_factor": of_staff({"GET": 302}),
    "second_factor_ask": of_staff(MOVED),
    "second_factor_password": of_staff(FORM),
    "second_factor_app": of_staff(MOVED),
    "second_factor_passkey": of_staff({"GET": 302}),
    "second_factor_codes": of_staff(MOVED),
    "second_factor_remove": of_staff({"POST": 302}),
    "otp_webauthn:credential-registration-begin": public(always(403)),
    "otp_webauthn:credential-registration-complete": public(always(403)),
    "otp_webauthn:credential-authentication-begin": with_a_passkey(200),
    "otp_webauthn:credential-authentication-complete": with_a_passkey(400),
    "otp_webauthn:js-i18n-catalog": public(READ | {"OPTIONS": 200}),
    "staff_only": lambda person: {"GET": 204 if person.is_staff else 401},
    # The admin.
    "admin/password_change/": public(always(302)),
    "admin:password_change": public(always(302)),
    "admin:password_change_done": for_staff(READ),
    "admin:index": for_staff(FORM),
    "admin:login": lambda person: (
        FORM | {"GET": 302 if person.is_staff else 200, "HEAD": 200, "PUT": 200, "OPTIONS": 200}
    ),
    "admin:logout": public({"POST": 302, "OPTIONS": 200}),
    "admin:jsi18n": for_staff(READ),
    "admin:autocomplete": for_staff({"GET": 403}),  # no model allows it
    "admin:view_on_site": for_staff(MISSING),  # no model has it
    "admin:app_list": list_of_accounts,
    "admin/(?P<url>.*)$": for_staff(MISSING),
    "admin:mailer_message_send_test": for_staff(FORM, "mailer_message.change"),
    "admin:mailer_message_person": for_staff(FORM, *MESSAGES),
    "admin:mailer_message_html": for_staff(FORM, *MESSAGES),
    "admin:mailer_message_kinds": for_staff(FORM, *MESSAGES),
    "admin:mailer_message_kind": for_staff(FORM, *MESSAGES),
    "admin:mailer_message_kind_html": for_staff(FORM, *MESSAGES),
    "admin:mailer_message_send_sample": for_staff({"POST": 302}, "mailer_message.change"),
    "admin:mailer_suppression_lift": for_staff(FORM, "mailer_suppression.delete"),
    "admin:mailer_probe_now": for_staff({"POST": 302}, "mailer_message.change"),
    "admin:mailer_resume_now": for_staff({"POST": 302}, "mailer_message.change"),
    "admin:mailer_resume_stream": for_staff({"POST": 302}, "mailer_message.change"),
    "admin:mailer_deliver_now": for_staff({"POST": 302}, "mailer_message.change"),
    **model("accounts_user", add=SUPERUSER),
    "admin:auth_user_password_change": for_staff(FORM, "accounts_user.change"),
    **read_only("accounts_emailverification"),
    **read_only("accounts_emailchange"),
    **read_only("accounts_session"),
    "admin:accounts_session_change": for_staff(REFUSED),
    "admin:accounts_session_history": for_staff(REFUSED),
    **model("auth_group", add=SUPERUSER, change=SUPERUSER, delete=SUPERUSER),
    **read_only("mailer_message"),
    **model("mailer_suppression"),
    "admin:mailer_suppression_delete": for_staff(FORM, "mailer_suppression.delete"),  # it asks for a note first
    **read_only("mailer_transportstate"),
    **read_only("mailer_circuit"),
    **read_only("mailer_streamreputation"),
    **read_only("mailer_worker"),
}
SECRET_LINKS = {"verify", "password_reset_confirm", "email_change_confirm", "email_change_stop", "unsubscribe"}
WITHOUT_CSRF = {"unsubscribe", "unsubscribe/<path:token>", "set_language", "webhook"}
"""A mail client has no token, and its secret link is the permission. A language changes only what a browser shows.

Providers bring a secret or a signature.
"""


def routes(resolver: Any = None, prefix: str = "", namespace: str = "") -> Iterator[tuple[str, str]]:
    """Return key and route of every URL. Its key is its name or, if it has none, its route."""
    for pattern in (resolver or get_resolver()).url_patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern, route, f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace)
        else:
            yield (f"{namespace}{pattern.name}" if pattern.name else route), route


def model_of(route: str) -> str:
    """Return the model of a page in the admin, for example accounts_user, or an empty string."""
    return next((name for name, folder in MODELS.items() if route.startswith(folder)), "")


# --- Asking ------------------------------------------------------------------------------------------------------------

ARGUMENT = re.compile(r"<(?:\w+:)?(\w+)>|\^?\(\?P<(\w+)>[^)]*\)\$?")
"""An argument in a route of path() or of re_path()."""


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    """Thousands of refusals are logged otherwise."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def path_of(route: str, arguments: Iterable[object]) -> str:
    values = iter(arguments)
    return f"/{ARGUMENT.sub(lambda _: str(next(values)), route).rstrip('$')}"


def ask(person: Person, method: str, path: str, *, token: bool = True, **form: str) -> HttpResponse:
    """Return the answer, and undo what the request did.

    Without Django's test client, which copies the context of every template and so takes twice the time.
    """
    browser = RequestFactory(headers={"X-CSRFToken": CSRF} if token else {})
    browser.cookies = SimpleCookie({"csrftoken": CSRF} | ({"sessionid": person.session} if person.session else {}))
    form |= {"csrfmiddlewaretoken": CSRF} if token else {}
    request = browser.post(path, form) if method == "POST" else browser.generic(method, path)
    with transaction.atomic():
        answer = cast(HttpResponse, SITE.get_response(request))
        transaction.set_rollback(True)
    return answer


SITE = BaseHandler()
SITE.load_middleware()


def expected(key: str, person: Person, method: str) -> int:
    answers = TABLE[key](person)
    return answers.get(method, answers.get("GET", 405) if method == "HEAD" else 405)


def complaints(key: str, person: Person, method: str, answer: HttpResponse) -> Iterator[str]:
    """Return what is wrong with an answer."""
    due = expected(key, person, method)
    if answer.status_code != due:
        yield f"is {answer.status_code} instead of {due}"
    whole = f"{answer.headers}{answer.content.decode()}"
    if OWNER in whole and not may_see_the_address(key, person):
        yield "shows the owner's address"
    if not {"no-store", "private"} <= set(answer.get("Cache-Control", "").split(", ")):
        yield "may be stored"
    if leads_elsewhere(answer):
        yield f"leads to {answer['Location']}"


def may_see_the_address(key: str, person: Person) -> bool:
    """Whether it is the owner's account, mail or, for staff with a permission, row."""
    without = Person("staff without permissions", is_staff=True)
    needs_permission = 403 in TABLE[key](without).values()
    return (
        person.name == "the owner" or key in SECRET_LINKS or (needs_permission and expected(key, person, "GET") == 200)
    )


def leads_elsewhere(answer: HttpResponse) -> bool:
    return "Location" in answer and not HERE.match(answer["Location"])


HERE = re.compile(r"(http://testserver)?/($|[^/\\])")


def wrongs(world: World, asked: Iterable[tuple[str, str, Person, str]]) -> list[str]:
    """Ask, and return what is wrong with the answers."""
    return [
        f"{key}: {method} by {person.name} {complaint}"
        for key, route, person, method in asked
        for complaint in complaints(key, person, method, ask(person, method, world.path(key, route)))
    ]


# --- The tests ---------------------------------------------------------------------------------------------------------


def test_every_url_has_a_row_and_every_row_has_a_url() -> None:
    assert sorted(TABLE) == sorted(key for key, route in routes())


def test_each_person_gets_the_answer_of_the_table(world: World) -> None:
    asked = ((key, route, person, method) for key, route in routes() for person in world.people for method in FORM)
    wrong = wrongs(world, asked)

    assert not wrong, "\n".join(wrong)


@pytest.mark.drill
def test_each_method_gets_the_answer_of_the_table(world: World) -> None:
    anonymous, *_, superuser = world.people
    others = set(METHODS) - set(FORM)
    asked = (
        (key, route, person, method)
        for key, route in routes()
        for person in (anonymous, superuser)
        for method in others
    )
    wrong = wrongs(world, asked)

    assert not wrong, "\n".join(wrong)


@pytest.mark.drill
def test_one_permission_opens_the_pages_of_the_table(world: World) -> None:
    asked = (
        (key, route, person, method)
        for person, model in staff_with_one_permission()
        for key, route in routes()
        if model_of(route) == model or key == "admin:app_list"
        for method in ("GET", "POST")
    )
    wrong = wrongs(world, asked)

    assert not wrong, "\n".join(wrong)


@pytest.mark.drill
def test_the_permissions_of_other_models_open_no_page(world: World) -> None:
    """So no single one of them does."""
    wrong = [
        f"{key}: {method}"
        for person, model in staff_without_one_model()
        for key, route in routes()
        if model_of(route) == model
        for method in ("GET", "POST")
        if ask(person, method, world.path(key, route)).status_code not in (302, 403, 405)
    ]

    assert not wrong


def test_without_a_csrf_token_nothing_is_changed(world: World) -> None:
    superuser = world.people[-1]
    wrong = [
        f"{key}: {method}"
        for key, route in routes()
        for method in ("POST", "DELETE")
        if key not in WITHOUT_CSRF and ask(superuser, method, world.path(key, route), token=False).status_code != 403
    ]

    assert not wrong


@pytest.mark.parametrize("key", sorted(SECRET_LINKS))
def test_a_wrong_code_opens_nothing(world: World, key: str) -> None:
    *ids, code = world.arguments[key]
    middle = len(code) // 2
    wrong = f"{code[:middle]}{'0' if code[middle] != '0' else '1'}{code[middle + 1 :]}"
    path = path_of(dict(routes())[key], [*ids, wrong])

    for person in world.people:
        for method in ("GET", "POST"):
            answer = ask(person, method, path, password="x", disown="1")
            assert answer.status_code in (404, 410)
            assert person.name == "the owner" or OWNER not in answer.content.decode()


@pytest.mark.parametrize(
    "odd",
    ["0", "9" * 30, "é", "%00", "%FF", "a" * 3000, "_5F", str(uuid.UUID(int=0))],
)
def test_an_odd_argument_is_no_server_error(world: World, odd: str) -> None:
    superuser = world.people[-1]
    for key, route in routes():
        if arguments := ARGUMENT.findall(route):
            for method in ("GET", "POST"):
                assert ask(superuser, method, path_of(route, [odd] * len(arguments))).status_code < 500, (key, method)


@pytest.mark.drill
def test_next_leads_to_no_other_site(world: World) -> None:
    anonymous, _another, owner, _staff, superuser = world.people
    for key, route in routes():
        for person in (anonymous, owner, superuser):
            path = f"{world.path(key, route)}?next={ELSEWHERE}"
            for answer in (ask(person, "GET", path), ask(person, "POST", path, next=ELSEWHERE)):
                assert not leads_elsewhere(answer), (key, person.name)

"""A user and a password in a URL arrive as they were meant, or the URL is refused with a sentence: never anything else."""

import re
import string
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http.request import validate_host
from environs import EnvError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kombu import Connection

from config.environment import database_url, email_url, host, redis_url
from mailer.conf import parse
from mailer.feedback.mailbox import Mailbox

Login = tuple[str, str]


def smtp(url: str) -> Login:
    options = email_url(url)["OPTIONS"]
    assert options["host"] == "mail.example"
    return options["username"], options["password"]


def redis(url: str) -> Login:
    connection = Connection(redis_url(url).url)
    assert (connection.hostname, connection.alt) == ("mail.example", [])
    return connection.userid or "", connection.password or ""


def sentinel(url: str) -> Login:
    connection = Connection(redis_url(f"{url}?master_name=m").url)
    assert (connection.hostname, connection.port) == ("mail.example", 5000)
    return connection.userid or "", connection.password or ""


def postgres(url: str) -> Login:
    database = database_url(url)
    assert (database["HOST"], database["NAME"], database["OPTIONS"]) == ("mail.example", "0", {})
    return database["USER"], database["PASSWORD"]


def mailbox(url: str) -> Login:
    found = Mailbox.from_url(parse({"BOUNCE_MAILBOX": url}).bounce_mailbox)
    assert (found.host, found.folder) == ("mail.example", "0")
    return found.user, found.password


READERS: dict[str, Callable[[str], Login]] = {
    "smtp": smtp,
    "smtps": smtp,
    "redis": redis,
    "rediss": redis,
    "sentinel": sentinel,
    "postgres": postgres,
    "postgresql": postgres,
    "imaps": mailbox,
}
SPECIAL = st.text(string.printable.split()[0] + " ", min_size=1, max_size=12)
PRINTABLE = st.text(st.characters().filter(str.isprintable), min_size=1, max_size=12)
LOGINS = st.tuples(SPECIAL | PRINTABLE, SPECIAL | PRINTABLE)
ENCODED = re.compile("%[0-9A-Fa-f]{2}")


@given(LOGINS)
@settings(max_examples=150)
@pytest.mark.parametrize("scheme", READERS)
def test_an_encoded_login_arrives_exactly(scheme: str, login: Login) -> None:
    user, password = (quote(part, safe="") for part in login)

    assert READERS[scheme](f"{scheme}://{user}:{password}@mail.example:5000/0") == login


@given(LOGINS)
@example(("shop", "#Sesam1"))
@example(("shop", "1?Sesam"))
@example(("shop", "1/Sesam"))
@example(("shop", "a@b/Sesam"))
@example(("shop", "a@b:25?tls=1"))
@example(("shop", "a;b"))
@example(("shop", "a:b"))
@example(("ann@shop.example", "100%"))
@example(("shop", "[Sesam]"))
@settings(max_examples=150)
@pytest.mark.parametrize("scheme", READERS)
def test_a_login_that_was_not_encoded_arrives_exactly_or_is_refused(scheme: str, login: Login) -> None:
    if any(map(ENCODED.search, login)):  # it is an encoded one
        return
    raw = ":".join(login)
    try:
        found = READERS[scheme](f"{scheme}://{raw}@mail.example:5000/0")
    except (EnvError, ImproperlyConfigured) as error:
        said = str(error)
        assert "write @ : / ? # % as %40 %3A %2F %3F %23 %25" in said
        assert len(login[1]) < 5 or login[1] not in said
    else:
        assert found == login


@pytest.mark.parametrize("url", ["https://u:p@hc.example/x", "https://u:1/p@hc.example", "https://u:#p@hc.example"])
def test_a_ping_has_no_login_which_would_not_be_sent(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="without user and password"):
        parse({"HEALTHCHECK_PING_URL": url})


@given(st.text(max_size=20) | st.from_regex(r"[A-Za-z0-9.\u00df\u00fc\u3002\uff21-]{1,20}", fullmatch=True))
@example("0\u3002")
def test_a_host_of_the_site_is_one_that_requests_can_name_or_is_refused(name: str) -> None:
    try:
        found = host(name)
    except EnvError:
        return
    assert validate_host(found, [found])
    assert found.isascii()
    assert host(found) == found


SOCKETS = "/run/postgresql"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgres://a:5432,b:5433/db?target_session_attrs=read-write",
            {"HOST": "a,b", "PORT": "5432,5433", "OPTIONS": {"target_session_attrs": "read-write"}},
        ),
        ("postgres://a,b/db", {"HOST": "a,b", "PORT": ","}),
        ("postgres://me:a%2Cb@a,[::1]:6432/db", {"HOST": "a,::1", "PORT": ",6432", "USER": "me", "PASSWORD": "a,b"}),
        ("postgres:///db?host=/run/postgresql", {"HOST": SOCKETS}),
        ("postgres://me@%2Frun%2Fpostgresql/db", {"HOST": SOCKETS, "USER": "me"}),
        ("pgsql://[::1]:5432/db", {"HOST": "::1", "PORT": "5432"}),
        (
            "POSTGRESQL://h/d%20b%2F1?application_name=a+b%26c",
            {"NAME": "d b/1", "OPTIONS": {"application_name": "a+b&c"}},
        ),
        ("postgres://h/db?ssl=true", {"OPTIONS": {"sslmode": "require"}}),
        ("postgres://?service=shop", {"NAME": "", "OPTIONS": {"service": "shop"}}),
        ("postgres://h/db?disable_server_side_cursors=true", {"DISABLE_SERVER_SIDE_CURSORS": True}),
        ("postgres://h/db?disable_server_side_cursors=0", {"DISABLE_SERVER_SIDE_CURSORS": False}),
    ],
)
def test_a_database_is_named_as_for_postgresqls_own_programs(url: str, expected: dict[str, Any]) -> None:
    found = database_url(url)

    assert {name: found[name] for name in expected} == expected
    assert found["NAME"] == "db" or "NAME" in expected
    assert found["OPTIONS"] == expected.get("OPTIONS", {})

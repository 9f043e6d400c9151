"""Limits on requests, on mail to one mailbox and on wrong passwords: moving windows in Redis, or in a table without Redis.

Strangers cannot spend the limits of a verified account. Mail is counted when it really goes, in the worker. A wrong password
counts against the browser that typed it if that is known to the account, and otherwise against the account and the network.

Known and unknown addresses are counted alike, so an answer above a limit reveals nothing. Keys are hashes, so neither store
contains an address.
"""

import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import cache
from typing import Any

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.utils.crypto import salted_hmac
from limits import RateLimitItem, parse, parse_many
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from accounts.models import Hit
from accounts.network import subscriber_networks

log = structlog.get_logger("accounts")

SALT = "accounts.throttling"


class Purpose(StrEnum):
    """What a mail that strangers can cause is for."""

    SIGN_UP = "sign-up"
    VERIFY = "verify"
    ACCOUNT_EXISTS = "account exists"
    RESET = "reset"
    NEW_ADDRESS = "new address"
    ALERT = "alert"


PAUSE = parse("1/minute")
"""For mail about one thing, such as a link: a form that is sent twice must not mail it twice."""
MAIL_OF_A_PURPOSE = parse("3/hour")
"""To one mailbox, for one purpose."""
ALERTS = parse("1/day")
"""To one mailbox."""
MAIL_OF_ALL_KINDS = parse("5/hour")
"""To one mailbox."""
ALWAYS = (Purpose.SIGN_UP, Purpose.RESET, Purpose.ALERT)
"""Purposes that MAIL_OF_ALL_KINDS does not limit: requests for other mail must not block them."""
ONE_MAIL = parse("1 per 7 days")
"""However often the worker tries to send it."""

WRONG_PASSWORDS = parse("5 per 15 minutes")
"""For one account. Above it, the owner gets an alert."""
GUESSES = parse_many("10 per 15 minutes")
"""For one account, from one network or known browser. Above it, every password is refused."""
GUESSES_FOR_ACCOUNT = parse_many("20 per 15 minutes; 40 per 2 hours; 60 per day")
"""For one account, from all networks."""
TRIES_OF_DIGITS = parse("5/day")
"""For one sign-up, whose link works for a day. Right digits count too."""
GUESSES_FROM_NETWORK = parse_many("20 per 15 minutes")
"""For all accounts, from one network: passwords, and tries of digits."""
WIDER = 2
"""The factor by which a wider network may ask more often."""

Count = tuple[RateLimitItem, tuple[str]]
"""A limit, and the hashed identity for which it counts."""

BREAK = 5.0
"""Seconds to count in the table after Redis failed."""
TIMEOUT = 0.25
"""Seconds to connect to Redis, and to wait for each reply."""


class TableLimiter:
    """Count in a table, one row per hit. Slower than Redis, but available whenever the database is."""

    def hit(self, limit: RateLimitItem, *identity: str) -> bool:
        key = limit.key_for(*identity)
        with transaction.atomic():
            with connection.cursor() as cursor:  # counting and adding are one step for each key
                cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [key])
            hits = Hit.objects.filter(key=key)
            hits.filter(at__lt=time.time() - limit.get_expiry()).delete()
            if hits.count() >= limit.amount:
                return False
            Hit.objects.create(key=key, at=time.time())
        return True

    def test(self, limit: RateLimitItem, *identity: str) -> bool:
        hits = Hit.objects.filter(key=limit.key_for(*identity), at__gte=time.time() - limit.get_expiry())
        return hits.count() < limit.amount


class Counter:
    """Count in Redis, or in the table while Redis is away."""

    def __init__(self) -> None:
        self._try_redis_at = 0.0
        self.place = ""
        """Where the last event was counted."""

    def hit(self, limit: RateLimitItem, *identity: str) -> bool:
        """Count one event. Return False, without counting it, if the limit is reached."""
        return self._ask(lambda limiter: limiter.hit(limit, *identity))

    def would_allow(self, limit: RateLimitItem, *identity: str) -> bool:
        """Return what `hit` would return, without counting."""
        return self._ask(lambda limiter: limiter.test(limit, *identity))

    def _ask(self, question: Callable[[MovingWindowRateLimiter | TableLimiter], bool]) -> bool:
        if time.monotonic() >= self._try_redis_at:
            try:
                answer = question(_redis())
                self.place = "Redis"
                return answer
            except StorageError as error:
                self._try_redis_at = time.monotonic() + BREAK
                log.warning("Redis away; limits are counted in the database", error=type(error.storage_error).__name__)
        self.place = "table"
        return question(TableLimiter())


counter = Counter()


def may_ask(network: str) -> bool:
    """Whether a request from this network may do work that costs: hash a password or cause a mail. Counts the request."""
    return _hit_all(_from_network(parse_many(settings.ACCOUNTS_MAIL_PER_NETWORK), "ask", network))


def may_mail(purpose: Purpose, box: str, *, about: str, request: str) -> bool:
    """Whether this mailbox may get another mail for this purpose. Counts the mail once for each `request`.

    `about` names what it is about: the same is mailed once a minute.

    The mail is marked before it is counted: of two workers with one message, the second must not be refused because of the
    first, since its refusal cancels the message. It is marked again if Redis went away, or came back, in between.
    """
    counts = [
        *_for([PAUSE], "mail about", about),
        *_for([ALERTS if purpose is Purpose.ALERT else MAIL_OF_A_PURPOSE], "mail", purpose, box),
        *_for([] if purpose in ALWAYS else [MAIL_OF_ALL_KINDS], "mail", box),
    ]
    this_mail = _for([ONE_MAIL], "one mail", request)
    if not _hit_all(this_mail):
        return True  # an attempt after the first
    place = counter.place
    if not _hit_all(counts):
        return False
    if counter.place != place:
        _hit_all(this_mail)
    return True


def guesses(address: str, *, known: str | None = None, network: str = "") -> list[Count]:
    """Return the counts for a password that is typed for this account.

    `known` names a browser, a session or a secret link that only its owner should have. It counts for itself, so that
    strangers cannot lock the owner out. Everything else counts for the account and for the network.
    """
    if known:
        return _for(GUESSES, "guess", address, known)
    return [
        *_for(GUESSES, "guess", address, network),
        *_for(GUESSES_FOR_ACCOUNT, "guess", address),
        *_from_network(GUESSES_FROM_NETWORK, "guess", network),
    ]


def note_wrong_password(address: str, counts: Iterable[Count]) -> bool:
    """Count a wrong password. Return True if the account's owner should be alerted."""
    for limit, identity in counts:
        counter.hit(limit, *identity)
    wrong = _hashed("wrong password", address)
    return counter.hit(WRONG_PASSWORDS, *wrong) and not counter.would_allow(WRONG_PASSWORDS, *wrong)


def may_try_digits(sign_up: str, network: str) -> bool:
    """Whether the browser of this sign-up may try digits. Counts the try.

    It is counted in the table even while Redis answers: of a million numbers five may be tried, and a Redis that was emptied
    would grant five more.
    """
    of_network = _from_network(GUESSES_FROM_NETWORK, "digits", network)
    return _hit_all(of_network) and TableLimiter().hit(TRIES_OF_DIGITS, *_hashed("digits", sign_up))


def allows(counts: Iterable[Count]) -> bool:
    """Whether none of the limits is reached. Count nothing."""
    return all(counter.would_allow(limit, *identity) for limit, identity in counts)


def _hit_all(counts: list[Count]) -> bool:
    """Count for each identity, or for none if one has reached its limit."""
    # `hit` itself does not count above the limit, so the first one needs no other question.
    return allows(counts[1:]) and all(counter.hit(limit, *identity) for limit, identity in counts)


def _for(limits: Iterable[RateLimitItem], *identity: str) -> list[Count]:
    return [(limit, _hashed(*identity)) for limit in limits]


def _from_network(limits: Iterable[RateLimitItem], what: str, network: str) -> list[Count]:
    """Return the counts of the network and of the wider ones around it, which may ask more often."""
    return [
        (type(limit)(limit.amount * WIDER**step, limit.multiples), _hashed(what, "network", around))
        for step, around in enumerate(subscriber_networks(network))
        for limit in limits
    ]


def purge() -> int:
    """Delete the table's hits that are older than every window. Return their number."""
    return Hit.objects.filter(at__lt=time.time() - 86_400).delete()[0]


def _hashed(*identity: str) -> tuple[str]:
    return (salted_hmac(SALT, "\n".join(identity), algorithm="sha256").hexdigest(),)


@cache
def _redis() -> MovingWindowRateLimiter:
    patience: dict[str, Any] = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    options = settings.RATE_LIMITS_OPTIONS | patience
    if "sentinel_kwargs" in options:  # for the sentinels, to which `limits` applies no timeout
        options["sentinel_kwargs"] = options["sentinel_kwargs"] | patience
    return MovingWindowRateLimiter(storage_from_string(settings.RATE_LIMITS_URL, wrap_exceptions=True, **options))

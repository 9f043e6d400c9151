"""Limits on requested mail and on wrong passwords: moving windows in Redis, or in a table while Redis is away.

A caller never learns that a limit was reached: an answer that depends on the number of requests could reveal whether an
address is known. Keys are hashes, so neither store contains an address.
"""

import re
import time
from collections.abc import Callable
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

log = structlog.get_logger("accounts")

SALT = "accounts.throttling"

MAIL_OF_A_PURPOSE = parse_many("1/minute; 3/hour")
"""To one address, for one purpose."""
MAIL_OF_ALL_KINDS = parse_many("5/hour")
"""To one address."""
RESET = "reset"
"""The purpose that MAIL_OF_ALL_KINDS does not limit: requests for other mail must not block an owner's password reset."""
SUBADDRESS = re.compile(r"\+.*(?=@)")
"""Nearly every server delivers `ann+shop@…` and `ann+bank@…` to one mailbox (RFC 5233)."""
WRONG_PASSWORDS = parse("5 per 15 minutes")
"""For one account. Above it, the owner gets an alert."""
LOGIN_ALERTS = parse("1/day")
GUESSES = parse("10 per 15 minutes")
"""For one account from one network. Above it, every password is refused."""

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

    def hit(self, limit: RateLimitItem, *identity: str) -> bool:
        """Count one event. Return False, without counting it, if the limit is reached."""
        return self._ask(lambda limiter: limiter.hit(limit, *identity))

    def would_allow(self, limit: RateLimitItem, *identity: str) -> bool:
        """Return what `hit` would return, without counting."""
        return self._ask(lambda limiter: limiter.test(limit, *identity))

    def _ask(self, question: Callable[[MovingWindowRateLimiter | TableLimiter], bool]) -> bool:
        if time.monotonic() >= self._try_redis_at:
            try:
                return question(_redis())
            except StorageError as error:
                self._try_redis_at = time.monotonic() + BREAK
                log.warning("Redis away; the database counts", error=type(error.storage_error).__name__)
        return question(TableLimiter())


counter = Counter()


def may_mail(purpose: str, address: str, network: str | None) -> bool:
    """Whether a request from this network may cause a mail for this purpose to this address. Counts the mail.

    `network` is None if no request caused the mail. The limit per network does not apply then.
    """
    return allows_mail(purpose, address, network) and all(
        counter.hit(limit, *identity) for limit, identity in _limits_of_mail(purpose, address, network)
    )


def allows_mail(purpose: str, address: str, network: str | None) -> bool:
    """Return what `may_mail` would return, without counting."""
    limits = _limits_of_mail(purpose, address, network)
    return all(counter.would_allow(limit, *identity) for limit, identity in limits)


def count_mail(purpose: str, address: str, network: str | None) -> None:
    """Count a mail that `allows_mail` allowed, once its transaction has committed."""
    for limit, identity in _limits_of_mail(purpose, address, network):
        counter.hit(limit, *identity)


def _limits_of_mail(purpose: str, address: str, network: str | None) -> list[tuple[RateLimitItem, tuple[str]]]:
    of_network = parse_many(settings.ACCOUNTS_MAIL_PER_NETWORK) if network else []
    of_all_kinds = [] if purpose == RESET else MAIL_OF_ALL_KINDS
    address = SUBADDRESS.sub("", address)
    return [
        *((limit, _hashed("mail", "network", network or "")) for limit in of_network),
        *((limit, _hashed("mail", purpose, address)) for limit in MAIL_OF_A_PURPOSE),
        *((limit, _hashed("mail", address)) for limit in of_all_kinds),
    ]


def note_wrong_password(address: str, network: str) -> bool:
    """Count a wrong password. Return True if an alert to the account's owner is due."""
    counter.hit(GUESSES, *_hashed("guess", address, network))
    counter.hit(WRONG_PASSWORDS, *_hashed("wrong password", address))
    too_many = not counter.would_allow(WRONG_PASSWORDS, *_hashed("wrong password", address))
    return too_many and counter.hit(LOGIN_ALERTS, *_hashed("login alert", address))


def may_guess(address: str, network: str) -> bool:
    """Whether a password for this account may be checked."""
    return counter.would_allow(GUESSES, *_hashed("guess", address, network))


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
